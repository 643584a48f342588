"""torch.export and ONNX of the decoder and of the whole model, with the batch and the length left open."""

import pytest
import torch
from torch.export import Dim

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig
from tests.conftest import SIGLIP, TEXT, WHISPER, make_model, open_gates


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


def media_inputs(with_towers: bool, batch: int, words: int, filled: float = 1.0) -> dict:
    """An image, an audio clip, words; `filled`: the part of the clip that is not padding."""
    frames, audio_tokens = (100, 50) if with_towers else (20, 5)
    real_frames = int(filled * frames)
    placeholders = torch.tensor([4] * 16 + [5] * int(filled * audio_tokens)).repeat(batch, 1)
    ids = torch.cat((placeholders, torch.randint(10, 320, (batch, words))), 1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.rand(batch, 3, 16, 16),
        "input_features": torch.rand(batch, 20, frames),
        "input_features_mask": (torch.arange(frames) < real_frames).long().repeat(batch, 1),
    }


@slow
@pytest.mark.parametrize("towers", [{}, {"vision": SIGLIP, "audio": WHISPER}], ids=["encoder-free", "towers"])
def test_the_whole_model_exports(towers):
    model = make_model(**towers)
    given = media_inputs(bool(towers), 2, 5) | {"use_cache": False}
    batch = Dim("batch", max=64)
    shapes = {name: {0: batch} for name in given} | {"use_cache": None}
    for name in ("input_ids", "attention_mask"):
        shapes[name] = {0: batch, 1: Dim("length", max=512)}
    exported = torch.export.export(model, (), given, dynamic_shapes=shapes).module()
    for size, words, filled in ((2, 5, 1), (3, 9, 1), (3, 7, 0.4)):
        given = media_inputs(bool(towers), size, words, filled) | {"use_cache": False}
        torch.testing.assert_close(exported(**given).logits, model(**given).logits, atol=1e-5, rtol=1e-4)


def beside_text(with_towers: bool, batch: int, words: int, filled: float = 1.0) -> dict:
    """The same with one placeholder for the image and one for the clip, before and between the words."""
    inputs = media_inputs(with_towers, batch, words, filled)
    ids = torch.randint(10, 320, (batch, words + 2))
    ids[:, 1], ids[:, 3] = 4, 5
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


CROSS = {
    "all": {},
    "last": {"cross_attention_scope": "last"},
    "towers": {"vision": SIGLIP, "audio": WHISPER},
    "resampled": {"vision_connector": "resampler", "vision_num_queries": 4},
}


@pytest.mark.parametrize("name", ["last", *(pytest.param(name, marks=slow) for name in CROSS if name != "last")])
def test_a_cross_attention_model_exports(name):
    model, towers = open_gates(make_model(fusion="cross_attention", **CROSS[name])), name == "towers"
    given = beside_text(towers, 2, 5) | {"use_cache": False}
    batch = Dim("batch", max=64)
    shapes = {name: {0: batch} for name in given} | {"use_cache": None}
    for tokens in ("input_ids", "attention_mask"):
        shapes[tokens] = {0: batch, 1: Dim("length", max=512)}
    exported = torch.export.export(model, (), given, dynamic_shapes=shapes).module()
    for size, words, filled in ((2, 5, 1), (3, 9, 1), (3, 7, 0.4)):
        given = beside_text(towers, size, words, filled) | {"use_cache": False}
        torch.testing.assert_close(exported(**given).logits, model(**given).logits, atol=1e-5, rtol=1e-4)


def to_onnx(model, inputs: dict):
    """The ONNX program of `model`, first axis open everywhere, second where there are tokens; it runs on ONNX Runtime."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}: pip install {package}")
    model.config.use_cache = model.config.get_text_config().use_cache = False
    shapes = {name: {0: Dim.DYNAMIC} for name in inputs}
    for name in ("input_ids", "attention_mask"):
        shapes[name] = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    return torch.onnx.export(model, (), kwargs=inputs, dynamic_shapes=shapes, dynamo=True, verbose=False)


@slow
def test_the_decoder_goes_to_onnx():
    decoder = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval()

    def inputs(batch: int, length: int) -> dict:
        ids = torch.randint(10, 320, (batch, length))
        mask = torch.ones_like(ids)
        mask[0, :2] = 0
        return {"input_ids": ids, "attention_mask": mask}

    program = to_onnx(decoder, inputs(2, 5))
    for batch, length in ((2, 5), (3, 11), (1, 1)):
        given = inputs(batch, length)
        given["attention_mask"][:, -1] = 1
        is_text = given["attention_mask"].bool()
        torch.testing.assert_close(
            program(**given)[0][is_text], decoder(**given).logits[is_text], atol=1e-5, rtol=1e-4
        )


@slow
@pytest.mark.parametrize("towers", [{}, {"vision": SIGLIP, "audio": WHISPER}], ids=["encoder-free", "towers"])
def test_the_whole_model_goes_to_onnx(towers, monkeypatch):
    # The check that placeholders and features are as many has no counterpart in ONNX.
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    model = make_model(**towers)
    program = to_onnx(model, media_inputs(bool(towers), 2, 5))
    for size, words, filled in ((2, 5, 1), (3, 9, 1), (3, 7, 0.4)):
        given = media_inputs(bool(towers), size, words, filled)
        torch.testing.assert_close(program(**given)[0], model(**given).logits, atol=1e-5, rtol=1e-4)
