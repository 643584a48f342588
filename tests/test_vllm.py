"""What is done for vLLM's Transformers backend, as far as it shows without vLLM: the same features from its form of the inputs.

`make vllm-check` runs the real thing."""

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_mmgpt import MMGPTProcessor
from modeling_mmgpt.vllm_mmgpt import in_vllm
from tests.conftest import (
    SIGLIP,
    WHISPER,
    make_audio,
    make_config,
    make_image,
    make_image_processor,
    make_model,
    make_processor,
)
from tests.test_assemble import AUDIO_MODELS


@pytest.fixture
def vllm(monkeypatch):
    """This process as vLLM makes it: with its attention function among transformers'. It stands for what is never called here."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "vllm", None)
    assert in_vllm()


def served(model):
    """The model as vLLM builds it."""
    model.config.text_config._attn_implementation_internal = "vllm"
    return model.model


def windowed(kind, tokenizer):
    """A model whose audio encoder takes windows of a second, and what makes its processor."""
    model = make_model(audio=WHISPER if kind == "whisper" else {"model_type": kind, **AUDIO_MODELS[kind]})
    if kind == "whisper":
        return model, lambda: make_processor(model.config, tokenizer)
    parts = {"image_processor": make_image_processor(model.config)}
    extractor = ASTFeatureExtractor(num_mel_bins=20, max_length=100)
    return model, lambda: MMGPTProcessor.from_config(model.config, tokenizer, feature_extractor=extractor, **parts)


@pytest.mark.parametrize("kind", ["whisper", "audio-spectrogram-transformer"])
def test_audio_of_several_windows_is_one_entry_each_and_the_same_features(vllm, monkeypatch, tokenizer, kind):
    model, build_processor = windowed(kind, tokenizer)
    clips = [make_audio(0, 36000)["array"], make_audio(1, 9000)["array"]]  # 3 windows of a second and 1
    with monkeypatch.context() as outside:
        outside.delitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "vllm")
        plain = build_processor()(text="<|audio|><|audio|>", audio=clips, return_tensors="pt")
        names = ("input_features", "input_features_mask", "audio_windows")
        expected = model.get_audio_features(**{name: plain[name] for name in names}).pooler_output
        assert plain["input_features"].shape == (4, 20, 100)

    processor = build_processor()
    joined = processor(text="<|audio|><|audio|>", audio=clips, return_tensors="pt")
    assert joined["input_ids"].tolist() == plain["input_ids"].tolist()
    assert joined["input_features"].shape == (2, 20, 300) and joined["input_features_mask"].shape == (2, 300)
    assert joined["audio_windows"].tolist() == [3, 1]
    base = served(model)
    found = base.get_audio_features(*(joined[name] for name in names), return_dict=True).pooler_output
    torch.testing.assert_close(found, torch.cat(expected))  # one tensor, which vLLM splits

    alone = processor(text="<|audio|>", audio=clips[1:], return_tensors="pt")
    lists = {name: [alone[name][0]] for name in names[1:]}  # one of several lengths
    found = base.get_audio_features(alone["input_features"], return_dict=True, **lists).pooler_output
    torch.testing.assert_close(found, expected[1])


def test_audio_without_windows_is_taken_one_by_one_too(processor, model):
    batch = processor(text="<|audio|>", audio=[make_audio(0)], return_tensors="pt")
    expected = model.get_audio_features(batch["input_features"], batch["input_features_mask"]).pooler_output
    mask = [batch["input_features_mask"][0]]
    found = served(model).get_audio_features(batch["input_features"], input_features_mask=mask).pooler_output
    torch.testing.assert_close(found, expected[0])


def test_videos_have_a_grid_cell_for_each_frame_and_say_so(vllm, tokenizer):
    config = make_config()
    processor = make_processor(config, tokenizer)
    videos = [np.zeros((frames, 20, 30, 3), dtype=np.uint8) for frames in (3, 2)]
    inputs = processor(text="<|video|><|video|>", videos=videos, return_tensors="pt")
    grid = inputs["video_grid_thw"]
    assert len(inputs["pixel_values_videos"]) == grid.prod(-1).sum()
    assert grid.prod(-1).tolist() == inputs["num_frames_per_video"].tolist()
    model = make_model()
    media = {name: inputs[name] for name in ("pixel_values_videos", "num_frames_per_video", "video_grid_thw")}
    features = served(model).get_video_features(**media, return_dict=True).pooler_output
    assert [len(one) for one in features] == [16 * frames for frames in grid[:, 0].tolist()]


def test_every_field_belongs_to_a_part_of_the_processor(vllm, tokenizer):
    """vLLM hands on no field that no part names, when media of several kinds come together."""
    config = make_config(vision=SIGLIP, audio=WHISPER, vision_max_tiles=4)
    processor = make_processor(config, tokenizer)
    videos = [np.zeros((2, 20, 30, 3), dtype=np.uint8)]
    inputs = processor(
        text="<|image|><|audio|><|video|>",
        images=[make_image(0)],
        audio=[make_audio(0)],
        videos=videos,
        return_tensors="pt",
    )
    parts = [processor.image_processor, processor.feature_extractor, processor.video_processor]
    named = {name for part in parts for field in part.model_input_names for name in (field, f"{field}_mask")}
    assert inputs.keys() - {"input_ids", "attention_mask", "mm_token_type_ids", "video_grid_thw"} <= named


@pytest.mark.parametrize(
    ("engine", "options", "sentence"),
    [
        ("vllm", {"fusion": "cross_attention"}, "vLLM keeps no media beside the text"),
        ("vllm", {"bidirectional_images": True}, "vLLM on a CPU attends from images only backwards"),
        ("sglang", {"fusion": "cross_attention"}, "SGLang keeps no media beside the text"),
        ("sglang", {"bidirectional_images": True}, "SGLang attends from images only backwards"),
        ("sglang", {"vision_max_tiles": 4}, "SGLang loses where tiles stand"),
    ],
)
def test_what_an_engine_would_compute_wrongly_is_refused_at_its_start(monkeypatch, engine, options, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = make_model(**options)
    assert model.config.is_mm_prefix_lm == ("bidirectional_images" in options)
    model.config.text_config._attn_implementation_internal = engine
    with pytest.raises(ValueError, match=sentence):
        type(model.model)(model.config)


def test_elsewhere_nothing_changes(processor):
    assert not in_vllm()
    inputs = processor(text="<|image|>", images=[make_image(0)], return_tensors="pt")
    assert "video_grid_thw" not in inputs
    assert "audio_windows" not in processor.feature_extractor.model_input_names
