"""Configurations: derived values, refusals, and a round trip through a file."""

import pytest

from modeling_mmgpt import MMGPTConfig, MMGPTPatchConfig, MMGPTTextConfig
from tests.conftest import CONVOLUTIONS, FRAMES, PATCHES, SIGLIP, TEXT, make_config


def test_text_defaults_are_derived_from_the_given_values():
    config = MMGPTTextConfig(hidden_size=96, num_attention_heads=6, num_hidden_layers=2)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (16, 6, 256)
    assert config.layer_types == ["full_attention"] * 2
    assert MMGPTTextConfig(hidden_size=96, mlp_type="plain", num_attention_heads=6).intermediate_size == 384


def test_a_short_list_of_layer_types_repeats():
    kinds = ["full_attention", "sliding_attention"]
    config = MMGPTTextConfig(**TEXT | {"num_hidden_layers": 6, "layer_types": kinds, "sliding_window": 4})
    assert config.layer_types == kinds * 3
    with pytest.raises(Exception, match="layer_types"):
        MMGPTTextConfig(**TEXT | {"num_hidden_layers": 5, "layer_types": kinds, "sliding_window": 4})


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "num_key_value_heads"),
        ({"hidden_size": 4, "num_attention_heads": 8, "num_key_value_heads": 8}, "head_dim"),
        ({"head_dim": 7}, "partial_rotary_factor"),
        (
            {"position_embedding_type": "learned", "rope_parameters": {"rope_theta": 1e4}},
            "position_embedding_type='rope'",
        ),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding_window"),
        ({"parallel_residual": True, "norm_placement": "post"}, "norm_placement='pre'"),
        ({"norm_type": "batchnorm"}, "norm_type"),
        ({"mlp_type": "moe"}, "mlp_type"),
        ({"mlp_layer_types": ["dense", "sparse"]}, "set num_experts, or leave mlp_layer_types out"),
        ({"num_experts_per_tok": 2}, "set num_experts, or leave num_experts_per_tok out"),
        ({"output_router_logits": True}, "set num_experts, or leave output_router_logits out"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, "between 1 and num_experts"),
        ({"num_experts": 4, "mlp_type": "plain"}, "mlp_type='gated'"),
        ({"num_experts": 4, "mlp_layer_types": ["dense", "dense"]}, "leave num_experts out"),
    ],
)
def test_impossible_decoders_are_refused_with_a_way_out(wrong, way_out):
    with pytest.raises(Exception, match=way_out):
        MMGPTTextConfig(**{**TEXT, **wrong})


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        ({"vision_config": PATCHES, "image_token_id": None}, "image_token_id"),
        ({"audio_config": FRAMES, "audio_token_id": None}, "audio_token_id"),
        ({"vision_connector": "mlp", "vision_merge_size": 2}, "pixel_shuffle"),
        ({"audio_connector": "frame_stack", "audio_merge_size": 1}, "2 or more"),
        ({"vision_config": {"model_type": "no_such_tower"}}, "no_such_tower"),
        ({"bidirectional_images": True}, "needs a vision_config"),
        (
            {"bidirectional_images": True, "vision_config": PATCHES, "text_config": {"model_type": "llama"}},
            "text_config of model_type 'mmgpt_text'",
        ),
        (
            {"vision_config": PATCHES, "vision_connector": "pixel_shuffle", "vision_merge_size": 3},
            "must divide the 4 patches",
        ),
        ({"vision_config": CONVOLUTIONS, "vision_feature_layer": -2}, "differ in size"),
        ({"vision_config": CONVOLUTIONS, "vision_max_tiles": 2}, "leave it out"),
    ],
)
def test_impossible_fusions_are_refused_with_a_way_out(wrong, way_out):
    with pytest.raises(Exception, match=way_out):
        MMGPTConfig(**{"text_config": TEXT, "image_token_id": 4, "audio_token_id": 5, **wrong})


def test_patch_size_must_divide_the_image():
    with pytest.raises(Exception, match=r"patch_size \(5\) must divide image_size \(16\)"):
        MMGPTPatchConfig(image_size=16, patch_size=5)


def test_sub_configs_survive_a_file(tmp_path):
    config = make_config(vision=SIGLIP, audio=FRAMES, vision_connector="pixel_shuffle")
    config.save_pretrained(tmp_path)
    loaded = MMGPTConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.vision_config.model_type, loaded.vision_merge_size) == ("siglip_vision_model", 2)


def test_any_decoder_of_transformers_can_be_the_text_config():
    config = MMGPTConfig(text_config={"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4})
    assert type(config.text_config).__name__ == "LlamaConfig"
    assert config.get_text_config() is config.text_config
