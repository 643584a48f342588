"""torch.export of the decoder and of the whole model, with the batch and the length left open."""

import pytest
import torch
from torch.export import Dim

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig
from tests.conftest import SIGLIP, TEXT, WHISPER, make_model


slow = pytest.mark.conformance


@pytest.mark.parametrize(
    "position", ["rope", *(pytest.param(kind, marks=slow) for kind in ("learned", "sinusoidal", "none"))]
)
def test_the_decoder_exports(position):
    decoder = MMGPTForCausalLM(MMGPTTextConfig(**TEXT, position_embedding_type=position)).eval()

    def inputs(batch: int, length: int) -> dict:
        ids = torch.randint(10, 320, (batch, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}

    open_axes = {0: Dim("batch", max=64), 1: Dim("length", max=512)}
    shapes = {"input_ids": open_axes, "attention_mask": open_axes, "use_cache": None}
    exported = torch.export.export(decoder, (), inputs(2, 5), dynamic_shapes=shapes).module()
    for batch, length in ((2, 5), (3, 11)):
        given = inputs(batch, length)
        torch.testing.assert_close(exported(**given).logits, decoder(**given).logits, atol=1e-5, rtol=1e-4)


@slow
@pytest.mark.parametrize("towers", [{}, {"vision": SIGLIP, "audio": WHISPER}], ids=["encoder-free", "towers"])
def test_the_whole_model_exports(towers):
    model = make_model(**towers)
    image_tokens, frames = 16, 100 if towers else 20
    sound_tokens = 50 if towers else 5

    def inputs(batch: int, words: int) -> dict:
        placeholders = torch.tensor([4] * image_tokens + [5] * sound_tokens).repeat(batch, 1)
        ids = torch.cat((placeholders, torch.randint(10, 320, (batch, words))), 1)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.rand(batch, 3, 16, 16),
            "input_features": torch.rand(batch, 20, frames),
            "input_features_mask": torch.ones(batch, frames, dtype=torch.long),
            "use_cache": False,
        }

    given = inputs(2, 5)
    batch = Dim("batch", max=64)
    shapes = {name: {0: batch} for name in given} | {"use_cache": None}
    for name in ("input_ids", "attention_mask"):
        shapes[name] = {0: batch, 1: Dim("length", max=512)}
    exported = torch.export.export(model, (), given, dynamic_shapes=shapes).module()
    for size, words in ((2, 5), (3, 9)):
        given = inputs(size, words)
        torch.testing.assert_close(exported(**given).logits, model(**given).logits, atol=1e-5, rtol=1e-4)
