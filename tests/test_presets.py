"""Named sizes: built on the meta device, where a model of 175 billion parameters weighs nothing, and counted."""

import pytest
import torch

from modeling_mmgpt import MMGPTConfig, MMGPTForCausalLM, MMGPTForConditionalGeneration, MMGPTTextConfig
from modeling_mmgpt.tools.convert import config_to_gpt
from modeling_mmgpt.tools.model_card import part_sizes
from training.recipe_files import CONFIGURATION, read_preset


# Decoder's parameters and the relative error that the published number allows. Exact ones are those of the published weights.
PUBLISHED = {
    "gpt1": (116_534_784, 0),
    "gpt2": (124_439_808, 0),
    "gpt2-medium": (354_823_168, 0),
    "gpt2-large": (774_030_080, 0),
    "gpt2-xl": (1_557_611_200, 0),
    "gpt3-small": (125e6, 0.02),
    "gpt3-medium": (350e6, 0.02),
    "gpt3-large": (760e6, 0.02),
    "gpt3-xl": (1.3e9, 0.02),
    "gpt3-2.7b": (2.7e9, 0.02),
    "gpt3-6.7b": (6.7e9, 0.02),
    "gpt3-13b": (13e9, 0.02),
    "gpt3-175b": (175e9, 0.02),
    "micro": (8e6, 0.1),
    "mini": (45e6, 0.05),
    "small": (134_515_008, 0),  # SmolLM2-135M
    "base": (494_032_768, 0),  # Qwen2.5-0.5B
    "large": (1_543_714_304, 0),  # Qwen2.5-1.5B
    "xl": (7_615_616_512, 0),  # Qwen2.5-7B
}
# Millions of parameters of the published encoders whose shapes the presets have (SigLIP without its pooling head).
ENCODERS = {"small": (85.8, 8.2), "base": (86, 88.2), "large": (412.4, 307.2), "xl": (412.4, 637)}


def text_config(name: str) -> MMGPTTextConfig:
    return MMGPTTextConfig(**read_preset(name)["config"]["text_config"])


def test_every_preset_has_a_published_size():
    """But nano, which takes its vocabulary from the tokenizer that is trained with it."""
    assert {path.stem for path in (CONFIGURATION / "models").glob("*.yaml")} == {"nano", *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    with torch.device("meta"):
        model = MMGPTForCausalLM(text_config(name))
    published, tolerance = PUBLISHED[name]
    assert model.num_parameters() == pytest.approx(published, rel=tolerance, abs=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_towers_have_the_size_of_their_models(name):
    config = MMGPTConfig(**read_preset(name)["config"], image_token_id=0, audio_token_id=1)
    with torch.device("meta"):
        sizes = part_sizes(MMGPTForConditionalGeneration(config))
    vision, audio = ENCODERS[name]
    assert sizes["vision_tower"] / 1e6 == pytest.approx(vision, rel=0.01)
    assert sizes["audio_tower"] / 1e6 == pytest.approx(audio, rel=0.01)


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("gpt1", "openai-gpt"),
        ("gpt2-xl", "gpt2"),
        ("small", "llama"),
        ("base", "qwen2"),
        ("large", "qwen2"),
        ("xl", "qwen2"),
        ("mini", "qwen3"),
    ],
)
def test_presets_are_of_the_family_they_are_named_after(name, model_type):
    assert config_to_gpt(text_config(name), model_type).model_type == model_type


def test_gpt3_alternates_dense_and_local_layers():
    config = text_config("gpt3-175b")
    assert config.layer_types == ["full_attention", "sliding_attention"] * 48
    assert (config.hidden_size, config.num_attention_heads, config.head_dim, config.intermediate_size) == (
        12288,
        96,
        128,
        4 * 12288,
    )
