"""Quantised loading: the decoder in 8-bit or 4-bit weights, the encoders in full precision; and what that costs."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available, is_torchao_available

from modeling_mmgpt import MMGPTCollator, save_checkpoint
from tests.conftest import FRAMES, PATCHES, SIGLIP, WHISPER, make_model, make_processor, make_sample, open_gates
from tests.tiny_assistant import lessons
from training.checks.quantise import FULL_PRECISION, compare, format_comparison, weight_only
from training.recipe import EvaluationArguments


needs_torchao = pytest.mark.skipif(not is_torchao_available(), reason="needs torchao: make quantised")
needs_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs bitsandbytes: make quantised")
KINDS = {8: "Int8Tensor", 4: "IntxUnpackedToInt8Tensor"}
CLOSE = {8: 0.02, 4: 0.3}  # of the largest logit


@pytest.fixture
def saved(tmp_path, tokenizer):
    """Layers with 32 input features, and with 84, which groups of 32 do not fit."""
    model = make_model(vision=SIGLIP, audio=WHISPER, text={"intermediate_size": 84})
    save_checkpoint(tmp_path / "full", model, make_processor(model.config, tokenizer))
    return model, tmp_path / "full"


def quantised(bits, model, folder, **options):
    options["quantization_config"] = weight_only(bits, model)
    return AutoModelForImageTextToText.from_pretrained(folder, **options)


@needs_torchao
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("remote", [False, True], ids=["package", "remote code"])
def test_fewer_bits_give_nearly_the_same_logits(saved, tokenizer, samples, remote, bits):
    model, folder = saved
    small = quantised(bits, model, folder, trust_remote_code=remote)
    parameters = dict(small.named_parameters())
    kinds = {name: type(parameters[name]).__name__ for name in parameters if name.endswith("_proj.weight")}
    assert {kind for name, kind in kinds.items() if "language_model" in name} == {KINDS[bits]}
    assert {kind for name, kind in kinds.items() if "tower" in name} == {"Parameter"}
    inputs = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)(samples)
    with torch.no_grad():
        expected, logits = model(**inputs).logits, small(**inputs).logits
    difference = (logits - expected).abs().max()
    assert 0 < difference < CLOSE[bits] * expected.abs().max()  # 0: nothing was quantised


@needs_torchao
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_is_saved_and_loaded_as_it_is(saved, tmp_path, bits):
    small = quantised(bits, *saved)
    small.save_pretrained(tmp_path / "small")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "small", trust_remote_code=True)
    ids = torch.randint(10, 320, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, small(input_ids=ids).logits, rtol=0, atol=0)
    assert again.generate(input_ids=ids, max_new_tokens=3, min_new_tokens=3).shape == (2, 12)


@needs_torchao
def test_the_cost_is_measured_on_the_same_samples(assistant):
    """A model that has memorised its answers keeps them in 8 bits, and loses some or none in 4; an answer of no model is never right."""
    known = [{**one, "task": "known"} for one in lessons()]
    samples = [*known, {**make_sample("Once", "never"), "task": "unknown"}]
    results = compare(str(assistant), samples, EvaluationArguments(batch_size=8, max_new_tokens=96))
    assert list(results) == ["full", "8 bits", "4 bits"]
    scores = {name: tasks["known"]["exact_match"] for name, tasks in results.items()}
    assert scores["full"] == 1.0 and scores["8 bits"] >= 0.9 and 0.2 < scores["4 bits"] <= 1.0
    assert {tasks["unknown"]["exact_match"] for tasks in results.values()} == {0.0}
    known_line = format_comparison(results).splitlines()[1].split()
    assert known_line == ["known", str(len(known)), "exact_match", *(f"{score:.4f}" for score in scores.values())]


WIDE = {
    "text": {"hidden_size": 64, "intermediate_size": 128},
    "vision": {**PATCHES, "hidden_size": 64},
}  # 4-bit kernels take blocks of 64
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


@needs_bitsandbytes
@pytest.mark.parametrize(
    "options, close", [({"load_in_8bit": True}, 0.03), (FOUR_BITS, 0.3)], ids=["8 bits", "4 bits"]
)
@pytest.mark.parametrize("fusion", ["interleave", "cross_attention"])
def test_bitsandbytes_takes_media_of_encoders_that_it_quantises(tmp_path, fusion, options, close):
    """Pixels and spectrograms stay floats though the matrices that embed them are integers."""
    text = WIDE["text"] | ({"cross_attention_every": 1} if fusion == "cross_attention" else {})
    audio = {**FRAMES, "num_mel_bins": 16, "hidden_size": 64}
    model = open_gates(make_model(vision={**WIDE["vision"], "patch_size": 8}, audio=audio, text=text, fusion=fusion))
    model.save_pretrained(tmp_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = AutoModelForImageTextToText.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**options), device_map=device, dtype=torch.float32
    )
    embedding = small.model.vision_tower.patch_embedding.weight
    assert not embedding.is_floating_point()
    ids = torch.randint(10, 320, (2, 9))
    images = {"pixel_values": torch.rand(2, 3, 16, 16), "input_features": torch.rand(2, 16, 8)}
    per_image, per_clip = (4, 2) if fusion == "interleave" else (1, 1)
    ids[:, :per_image], ids[:, 5 : 5 + per_clip] = 4, 5
    given = {"input_ids": ids, **images}
    with torch.no_grad():
        expected = model(**given).logits
        logits = small(**{name: value.to(device) for name, value in given.items()}).logits.float().cpu()
    assert 0 < (logits - expected).abs().max() < close * expected.abs().max()


@needs_bitsandbytes
def test_bitsandbytes_leaves_the_encoders_in_full_precision(saved):
    model, folder = saved
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=FULL_PRECISION)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=config, device_map=device)
    kinds = {name: parameter.dtype for name, parameter in small.named_parameters() if name.endswith("_proj.weight")}
    assert {kind for name, kind in kinds.items() if "language_model" in name} == {torch.int8}
    assert {kind for name, kind in kinds.items() if "tower" in name}.isdisjoint({torch.int8})
    ids = torch.randint(10, 320, (2, 9))
    with torch.no_grad():
        expected, logits = model(ids).logits, small(ids.to(device)).logits.float().cpu()
    difference = (logits - expected).abs().max()
    assert 0 < difference < 0.05 * expected.abs().max()
