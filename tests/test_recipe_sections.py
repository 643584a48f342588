"""Sections: resolved as they are made, and refused with a way out where they cannot be."""

import dataclasses

import pytest

from training.recipe import DataArguments, EvaluationArguments, ModelArguments, SequenceArguments, SourceArguments
from training.recipe_files import RecipeError, read_preset


class TestModel:
    def test_a_preset_is_read_and_merged(self):
        model = ModelArguments("nano", config={"text_config": {"hidden_size": 64}, "audio_config": None})
        preset = read_preset("nano")
        assert model.config["text_config"] == preset["config"]["text_config"] | {"hidden_size": 64}
        assert (
            model.config["vision_config"] == preset["config"]["vision_config"] and model.config["audio_config"] is None
        )
        assert model.image_processor == preset["image_processor"] and model.feature_extractor == {}

    def test_a_resolved_section_resolves_to_itself(self):
        model = ModelArguments("nano", config={"vision_config": {"model_type": "bit", "depths": [1]}})
        assert ModelArguments(**dataclasses.asdict(model)) == model

    @pytest.mark.parametrize("fields", [{}, {"preset": "nano", "checkpoint": "outputs/x"}])
    def test_preset_or_checkpoint(self, fields: dict):
        with pytest.raises(RecipeError, match=r"exactly one of model\.preset"):
            ModelArguments(**fields)

    def test_checkpoint_keeps_its_config(self):
        with pytest.raises(RecipeError, match=r"model\.config can only change a preset"):
            ModelArguments(checkpoint="outputs/x", config={"vision_config": None})

    def test_unknown_video_option(self):
        with pytest.raises(RecipeError, match=r"`video_processor\.frames`; the nearest valid name is"):
            ModelArguments(preset="nano", video_processor={"frames": 2})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"text_confg": {}}, "`config.text_confg`; the nearest valid name is `text_config`"),
        (
            {"text_config": {"hiden_size": 4}},
            "`config.text_config.hiden_size`; the nearest valid name is `hidden_size`",
        ),
        (
            {"vision_config": {"patchsize": 4}},
            "`config.vision_config.patchsize`; the nearest valid name is `patch_size`",
        ),
        ({"audio_config": {"model_type": "mmgpt_frames"}}, "the nearest valid name is `mmgpt_frame`"),
    ],
)
def test_unknown_config_keys(config, message):
    with pytest.raises(RecipeError) as error:
        ModelArguments(preset="nano", config=config)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", [None, "NoSuchImageProcessor"])
def test_processor_part_must_be_named(kind):
    with pytest.raises(RecipeError, match=r"image_processor\.image_processor_type"):
        ModelArguments(preset="nano", image_processor={"image_processor_type": kind})


class TestSource:
    def test_defaults_depend_on_the_format(self):
        assert (
            SourceArguments("fsdd").license == "cc-by-sa-4.0"
            and SourceArguments("fsdd", license="mit").license == "mit"
        )
        text = SourceArguments("text", files="a.txt")
        assert (text.files, text.metric) == (["a.txt"], "perplexity")
        assert SourceArguments("asr", files="a.jsonl").metric is None

    @pytest.mark.parametrize(
        ("fields", "task"),
        [
            ({"format": "fsdd"}, "fsdd"),
            ({"format": "vqa", "dataset": "me/photos"}, "photos"),
            ({"format": "vqa", "files": "photos/{split}.jsonl"}, "photos"),
            ({"format": "vqa", "files": ["photos.jsonl"]}, "photos"),
            ({"format": "vqa", "files": "a/b.jsonl", "name": "mine"}, "mine"),
        ],
    )
    def test_what_its_samples_are_called(self, fields: dict, task: str):
        assert SourceArguments(**fields).task == task

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"format": "fsd"}, "unknown format 'fsd'; the nearest valid name is 'fsdd'"),
            ({"format": "summarisation"}, "unknown format 'summarisation'; it is called 'summarization' now"),
            ({"format": "rows"}, "it is called 'samples' now"),
            ({"format": "boxes"}, "it is called 'nlvr_scenes' now"),
            ({"format": "vqa"}, "needs one of `files` .* and `dataset`"),
            ({"format": "vqa", "files": "a", "dataset": "b"}, "needs one of `files` .* and `dataset`"),
            ({"format": "fsdd", "files": "a"}, "brings its own data with their names: leave out `files`"),
            (
                {"format": "vqa", "files": "a", "options": {"imag": "i"}},
                "unknown option of format vqa: 'imag'; the nearest valid name is 'image'",
            ),
            ({"format": "easy_vqa", "options": {"open": True}}, "the nearest valid name is 'open_only'"),
            ({"format": "fsdd", "options": {"open": True}}, "format fsdd takes no options"),
            ({"format": "fsdd", "weight": 0}, "must be above 0"),
        ],
    )
    def test_what_a_source_cannot_be(self, fields: dict, message: str):
        with pytest.raises(RecipeError, match=message):
            SourceArguments(**fields)

    @pytest.mark.parametrize("span", [[0.5, 0.5], [0, 2], [0.1]])
    def test_a_span_is_two_parts_of_the_epoch(self, span: list):
        with pytest.raises(RecipeError, match="span is"):
            SourceArguments("fsdd", span=span)


class TestData:
    @pytest.mark.parametrize(
        ("fields", "source", "message"),
        [
            ({"block": 0}, {}, r"data\.block is a number of samples"),
            ({"block": 4, "streaming": True}, {}, "of data that are not streamed"),
            ({}, {"span": [0, 0.5]}, r"data\.train\.0\.span needs data\.block"),
            ({"shuffle_buffer": 0}, {}, "1 keeps the order"),
        ],
    )
    def test_what_sources_cannot_be_together(self, fields: dict, source: dict, message: str):
        with pytest.raises(RecipeError, match=message):
            DataArguments([SourceArguments("fsdd", **source)], **fields)

    def test_no_training_data(self):
        with pytest.raises(RecipeError, match=r"data\.train lists no source"):
            DataArguments([])


def test_lengths_and_splits_that_do_not_exist():
    with pytest.raises(RecipeError, match="does not fit"):
        SequenceArguments(max_length=9, pack_to=8)
    with pytest.raises(RecipeError, match=r"eval\.split is 'train'; it is 'test' or 'validation'"):
        EvaluationArguments(split="train")
