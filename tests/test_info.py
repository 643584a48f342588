"""mmgpt info tells what a model consists of without reading its weights."""

from modeling_mmgpt import MMGPTForConditionalGeneration, save_checkpoint
from tests.conftest import make_model, make_processor
from tests.test_cli import run


def test_parts_memory_and_tokens(assistant):
    shown = run("info", assistant)
    assert shown.exit_code == 0, shown.output
    model = MMGPTForConditionalGeneration.from_pretrained(assistant)
    assert f"{model.num_parameters():,}" in shown.output
    assert f"{4 * model.num_parameters() / 1e6:.1f} MB" in shown.output
    assert "vision_tower" in shown.output and "MMGPTPatchTower" in shown.output
    assert "up to 256 tokens" in shown.output
    lines = {line.split("│")[1].strip(): line for line in shown.output.splitlines() if line.count("│") == 3}
    assert "16" in lines["image, 640 x 480"]  # (16 / 4) ** 2 patches, whatever its size
    assert "25" in lines["audio, 1 s"]  # 100 frames, 4 to a token


def test_no_weights_are_read(tmp_path, model, processor):
    save_checkpoint(tmp_path / "model", model, processor)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not weights")
    assert run("info", tmp_path / "model").exit_code == 0


def test_a_model_without_audio_encoder_counts_no_audio(tmp_path, tokenizer):
    model = make_model(audio=None)
    save_checkpoint(tmp_path / "model", model, make_processor(model.config, tokenizer))
    shown = run("info", tmp_path / "model")
    assert "image, 640" in shown.output and "audio" not in shown.output


def test_a_folder_that_is_no_model(tmp_path):
    shown = run("info", tmp_path)
    assert shown.exit_code == 1
