"""Quantised loading: the decoder in 8-bit weights, the towers left whole."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, TorchAoConfig

from modeling_mmgpt import MMGPTCollator
from tests.conftest import SIGLIP, WHISPER, make_model, make_processor


pytest.importorskip("torchao", reason="needs torchao: pip install torchao")
from torchao.quantization import Int8WeightOnlyConfig


# What is kept whole is named from the root of the model: towers and connectors are small, and what they lose no decoder mends.
WHOLE = ["model.vision_tower", "model.audio_tower", "model.vision_connector", "model.audio_connector", "lm_head"]


@pytest.fixture
def saved(tmp_path):
    model = make_model(vision=SIGLIP, audio=WHISPER)
    model.save_pretrained(tmp_path / "whole")
    return model, tmp_path / "whole"


def quantised(folder, **options):
    config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=WHOLE)
    return AutoModelForImageTextToText.from_pretrained(folder, quantization_config=config, **options)


@pytest.mark.parametrize("remote", [False, True], ids=["package", "remote code"])
def test_eight_bit_weights_give_nearly_the_same_logits(saved, tokenizer, rows, remote):
    model, folder = saved
    small = quantised(folder, trust_remote_code=remote)
    parameters = dict(small.named_parameters())
    kinds = {name: type(parameters[name]).__name__ for name in parameters if name.endswith("_proj.weight")}
    assert {kind for name, kind in kinds.items() if "language_model" in name} == {"Int8Tensor"}
    assert {kind for name, kind in kinds.items() if "tower" in name} == {"Parameter"}
    inputs = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)(rows)
    with torch.no_grad():
        expected, logits = model(**inputs).logits, small(**inputs).logits
    difference = (logits - expected).abs().max()
    assert 0 < difference < 0.02 * expected.abs().max()  # 0: nothing was quantised


def test_a_quantised_model_is_saved_and_loaded_as_it_is(saved, tmp_path):
    small = quantised(saved[1])
    small.save_pretrained(tmp_path / "small")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "small", trust_remote_code=True)
    ids = torch.randint(10, 320, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, small(input_ids=ids).logits, rtol=0, atol=0)
    assert again.generate(input_ids=ids, max_new_tokens=3, min_new_tokens=3).shape == (2, 12)
