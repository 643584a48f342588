"""The table of what media cost: made of real files, with the tokens that they have in the presets."""

import io

import PIL.Image
import pytest
import soundfile
import torch

from modeling_mmgpt.preprocessing_mmgpt import chunk_size, sampling
from modeling_mmgpt.token_counts_mmgpt import image_token_count
from training.checks import benchmark
from training.model_building import build_model
from training.recipe import CONFIGURATION, ModelArguments
from training.train_tokenizer import train_tokenizer


def test_the_media_are_what_the_table_says():
    assert PIL.Image.open(io.BytesIO(benchmark.photograph())).size == (4000, 3000)
    assert PIL.Image.open(io.BytesIO(benchmark.page())).size == (1654, 2339)
    assert soundfile.info(io.BytesIO(benchmark.recording(3))).duration == 3
    images = [part for message in benchmark.chat() for part in message["content"] if part["type"] == "image"]
    assert len(images) == 20


@pytest.fixture(scope="module")
def nano():
    return benchmark.build("nano", torch.device("cpu"), torch.float32)


@pytest.fixture
def timer():
    return benchmark.Timer(torch.device("cpu"), repeats=1)


def test_tokens_are_those_of_the_media_and_the_text(nano, timer):
    words = benchmark.measure(*nano, benchmark.ask(), timer)
    page, limits = benchmark.INPUTS["A4 page, 200 dpi"]
    with_image = benchmark.measure(*nano, page(), timer, **limits)
    assert with_image["tokens"] - words["tokens"] == 64
    assert 0 < words["prepare"] < with_image["prepare"] and words["prompt"] > 0


def test_functions_run_alternately_and_the_first_run_does_not_count(timer):
    ran = []
    times = timer.medians(lambda: ran.append("a"), lambda: ran.append("b"))
    assert ran == ["a", "b", "a", "b"] and len(times) == 2


def test_the_table_has_a_line_for_each_input_and_columns_for_each_preset(nano, timer, monkeypatch):
    monkeypatch.setattr(
        benchmark, "INPUTS", {"words": (benchmark.ask, {}), "tiles": (benchmark.ask, {"max_patches": 1})}
    )
    lines = list(benchmark.media_table({"nano": nano}, timer))
    assert lines[0] == "| input | nano: tokens | nano: prepare, ms | nano: prompt, ms |"
    assert lines[2].startswith("| words | ") and lines[3] == "| tiles |  |  |  |", "nano cuts none"


def test_the_twin_has_the_size_of_the_decoder(nano):
    model, _ = nano
    twin = benchmark.transformers_twin(model.config.text_config)
    decoder = model.model.language_model
    assert type(twin).__name__ == "Qwen3ForCausalLM" and twin.model.num_parameters() == decoder.num_parameters()


def test_the_text_table_names_the_twin(nano, timer, monkeypatch):
    monkeypatch.setattr(benchmark, "TEXT_ANSWER", 2)
    cells = list(benchmark.text_table({"nano": nano}, timer))[-1].split(" | ")
    assert (
        cells[0] == "| nano"
        and cells[-1] == "Qwen3ForCausalLM |"
        and all(float(cell.replace(",", "")) > 0 for cell in cells[1:3])
    )


@pytest.mark.parametrize("preset", ["small", "base", "large", "xl"])
def test_a_photograph_is_six_tiles_and_an_overview_where_the_preset_cuts_them(preset):
    with torch.device("meta"):
        model, processor = build_model(ModelArguments(preset=preset), train_tokenizer(["?"], 320))
    photograph = [(3000, 4000)]
    planned = processor._get_num_multimodal_tokens(image_sizes=photograph)
    assert planned["num_image_patches"] == [7] and planned["num_image_tokens"][0] == 7 * image_token_count(
        *chunk_size(processor.image_processor), **processor.image_geometry
    )
    most = processor._get_num_multimodal_tokens(image_sizes=photograph, max_patches=12)["num_image_patches"]
    assert most == [13] and most[0] <= 1 + model.config.vision_max_tiles


def test_videos_leave_room_for_text_in_every_preset_with_a_vision_encoder():
    for path in sorted((CONFIGURATION / "models").glob("*.yaml")):
        with torch.device("meta"):
            model, processor = build_model(ModelArguments(preset=path.stem), train_tokenizer(["?"], 320))
        if model.config.vision_config is None:
            assert model.config.video_token_id is None
            continue
        frames = sampling(processor.video_processor)[1]
        height, width = chunk_size(processor.video_processor)
        (tokens,) = processor._get_num_multimodal_tokens(video_sizes=[(frames, height, width)])["num_video_tokens"]
        assert 0 < tokens <= 0.7 * model.config.text_config.max_position_embeddings, path.stem
