"""What users of other packages complain about: weights that are quietly lost, random, or in the wrong place."""

import os

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from modeling_mmgpt import MMGPTForConditionalGeneration, save_checkpoint
from tests.conftest import SIGLIP, WHISPER, make_model, make_processor


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}


def words(batch: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(10, 320, (batch, length))


def load(folder, **options):
    return MMGPTForConditionalGeneration.from_pretrained(folder, **options)


@pytest.mark.parametrize("dropped", ["vision_tower", "audio_connector", "layers.1.mlp.down_proj", "embed_tokens"])
def test_a_missing_tensor_is_reported(tmp_path, dropped):
    make_model(vision=SIGLIP, audio=WHISPER).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if dropped in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, info = load(tmp_path, output_loading_info=True)
    assert name in info["missing_keys"]


def test_a_foreign_tensor_is_reported(tmp_path, model):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"model.nose.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, info = load(tmp_path, output_loading_info=True)
    assert "model.nose.weight" in info["unexpected_keys"] and not info["missing_keys"]


@pytest.mark.parametrize(
    "options", [{"device_map": "cpu"}, {"device_map": "auto"}, {"dtype": torch.float16}, {"dtype": "auto"}]
)
def test_however_it_is_loaded_it_is_the_same_model(tmp_path, options):
    model = make_model(vision=SIGLIP, audio=WHISPER)
    model.save_pretrained(tmp_path)
    loaded, info = load(tmp_path, output_loading_info=True, **options)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    close = {"atol": 2e-2, "rtol": 2e-2} if loaded.dtype == torch.float16 else {"atol": 1e-6, "rtol": 1e-5}
    ids = words()
    with torch.no_grad():
        torch.testing.assert_close(loaded.cpu().eval()(ids).logits.float(), model(ids).logits, **close)


@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_grows_and_stays_tied_or_untied(tmp_path, tied):
    model = make_model(text={"tie_word_embeddings": tied})
    ids = words()
    before = model(ids).logits
    model.resize_token_embeddings(331)
    torch.testing.assert_close(model(ids).logits[..., :320], before, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path).eval()
    assert loaded.config.text_config.vocab_size == loaded.lm_head.weight.shape[0] == 331
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_merges_and_the_merged_folder_is_complete(tmp_path, tied, tokenizer):
    model = make_model(text={"tie_word_embeddings": tied})
    save_checkpoint(tmp_path / "base", model, make_processor(model.config, tokenizer))
    adapted = get_peft_model(load(tmp_path / "base"), LoraConfig(**LORA))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.eval()
    ids = words()
    expected = adapted(input_ids=ids).logits
    assert not torch.allclose(expected, model(ids).logits, atol=1e-3)

    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(again(input_ids=ids).logits, expected)

    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert set(os.listdir(tmp_path / "base")) <= set(os.listdir(tmp_path / "merged"))
    merged = load(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-4)
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == tied


def test_a_trained_embedding_of_an_adapter_is_saved(tmp_path):
    """New tokens with LoRA: the grown embedding is trained whole and must come back."""
    model = make_model(text={"tie_word_embeddings": False})
    model.save_pretrained(tmp_path / "base")
    grown = load(tmp_path / "base")
    grown.resize_token_embeddings(331)
    adapted = get_peft_model(grown, LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"])).eval()
    with torch.no_grad():
        adapted.get_input_embeddings().weight.add_(0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    again = load(tmp_path / "base")
    again.resize_token_embeddings(331)
    again = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    ids = words() + 11
    torch.testing.assert_close(again(input_ids=ids).logits, adapted(input_ids=ids).logits)
