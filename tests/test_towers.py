"""Vision and audio encoders: what each family takes and makes, patches in their places, and the smallest inputs."""

import accelerate
import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from modeling_mmgpt import MMGPTConfig, MMGPTForConditionalGeneration
from modeling_mmgpt.token_counts_mmgpt import audio_geometry, audio_token_count, image_geometry, image_token_count
from modeling_mmgpt.tower_families_mmgpt import (
    AUDIO_FAMILIES,
    VISION_FAMILIES,
    VisionFamily,
    tower_family,
    vision_family,
)
from modeling_mmgpt.towers_mmgpt import (
    build_tower,
    cut_patches,
    patch_places,
    run_audio_tower,
    run_vision_tower,
    smallest_audio,
    smallest_image,
)
from tests.conftest import CONVOLUTIONS, FRAMES, PATCHES, make_config, make_model
from tests.test_assemble import AUDIO_MODELS, VISION_MODELS


VIT, AST = VISION_MODELS["vit"], AUDIO_MODELS["audio-spectrogram-transformer"]
# A tiny encoder of each family: those that can be assembled, and those that cannot.
VISION = {
    **{
        f"{kind}_vision_model" if "vision_config" in config else kind: config.get("vision_config", config)
        for kind, config in VISION_MODELS.items()
    },
    "dinov3_convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16},
    "bit": CONVOLUTIONS,
    "mmgpt_patch": PATCHES,
}
AUDIO = {**AUDIO_MODELS, "mmgpt_frame": FRAMES}


def test_every_family_is_tried():
    assert VISION.keys() == VISION_FAMILIES.keys() and AUDIO.keys() == AUDIO_FAMILIES.keys()


@pytest.mark.parametrize("kind", VISION)
def test_a_vision_family_makes_what_its_entry_says(kind):
    config = make_config(vision={**VISION[kind], "model_type": kind})
    shape, geometry = smallest_image(config), image_geometry(config)
    tower = build_tower(config.vision_config).eval()
    pixels, shapes = torch.zeros(shape), None
    if not vision_family(config.vision_config).pixels:
        pixels, shapes = cut_patches(pixels, geometry["patch_size"])
    features = run_vision_tower(tower, pixels, shapes, return_dict=True).last_hidden_state
    assert features.shape[2] == tower_family(config.vision_config).width(config.vision_config)
    assert features.shape[1] >= image_token_count(*shape[2:], **geometry)  # more with class and register tokens


@pytest.mark.parametrize("kind", AUDIO)
def test_an_audio_family_makes_what_its_entry_says(kind):
    config = make_config(audio={**AUDIO[kind], "model_type": kind})
    shape = smallest_audio(config)
    tower = build_tower(config.audio_config).eval()
    features = run_audio_tower(tower, torch.zeros(shape), None, return_dict=True).last_hidden_state
    tokens = audio_token_count(shape[-1], **audio_geometry(config))
    assert features.shape == (1, tokens, tower_family(config.audio_config).width(config.audio_config))


@pytest.mark.parametrize("kind", VISION)
def test_every_vision_encoder_takes_its_smallest_image_in_training(kind):
    model = make_model(vision={**VISION[kind], "model_type": kind}).train()
    features = model.get_image_features(torch.zeros(smallest_image(model.config))).pooler_output
    assert len(features) == 1 and features[0].isfinite().all()


@pytest.mark.parametrize("kind", AUDIO)
def test_every_audio_encoder_takes_its_smallest_audio_in_training(kind):
    model = make_model(audio={**AUDIO[kind], "model_type": kind}).train()
    features = model.get_audio_features(torch.zeros(smallest_audio(model.config))).pooler_output
    assert len(features) == 1 and features[0].isfinite().all()


def encode(kind, change=lambda model: model) -> list[torch.Tensor]:
    """Features of two images, or of two audio clips one of which is shorter, from a model that `change` made another."""
    part = "vision" if kind in VISION else "audio"
    model = make_model(**{part: {**(VISION | AUDIO)[kind], "model_type": kind}})
    shape = (smallest_image if part == "vision" else smallest_audio)(model.config)[1:]
    media = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(shape[-1]) < torch.tensor([[shape[-1]], [shape[-1] // 2]])).long()
    model = change(model)
    with torch.no_grad():
        outputs = model.get_image_features(media) if part == "vision" else model.get_audio_features(media, mask)
    return list(outputs.pooler_output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", [*VISION, *AUDIO])
def test_every_encoder_takes_what_the_processor_returns_in_half_precision(kind, dtype):
    half = encode(kind, lambda model: model.to(dtype))
    for features, expected in zip(half, encode(kind), strict=True):
        assert features.dtype == dtype and features.shape == expected.shape
        assert (features - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize("kind", [*VISION, *AUDIO])
def test_every_encoder_can_be_offloaded(kind):
    """Weights that are brought to their module for its call alone make the same features, bit for bit, more than once."""
    models = []

    def offload(model):
        accelerate.cpu_offload(model, torch.device("cpu"))
        models.append(model)
        return model

    expected = encode(kind)
    assert all(map(torch.equal, encode(kind, offload), expected))
    assert all(map(torch.equal, encode(kind, lambda _: models[0]), expected))
    assert {parameter.device.type for parameter in models[0].parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ["clip_vision_model", "vit"])
def test_modules_that_nothing_reads_are_left_out(kind):
    config = make_config(vision={**VISION[kind], "model_type": kind}).vision_config
    tower, whole = build_tower(config), AutoModel.from_config(config)
    unread = VISION_FAMILIES[kind].unread
    left = {name for name in whole.state_dict() if not name.startswith(unread)}
    assert tower.state_dict().keys() == left < whole.state_dict().keys()


def test_a_family_that_is_not_listed_takes_images_of_one_size():
    config = make_config(vision={**VIT, "model_type": "deit"})
    assert vision_family(config.vision_config) == VisionFamily()
    features = make_model(vision={**VIT, "model_type": "deit"}).get_image_features(torch.zeros(1, 3, 16, 16))
    assert features.pooler_output[0].shape == (16, 32)  # 4 x 4 patches, and the decoder's width


def test_vectors_of_ast_are_in_the_order_of_time():
    """Without layers a vector depends on its own patch alone: the last frames change the bands of the last step."""
    tower = build_tower(AutoConfig.for_model("audio-spectrogram-transformer", **AST | {"num_hidden_layers": 0})).eval()
    spectrogram = torch.randn(1, 20, 100)
    changed = spectrogram.clone()
    changed[..., 96:] += 1.0
    states = [run_audio_tower(tower, one, None, return_dict=True).last_hidden_state for one in (spectrogram, changed)]
    differs = (states[0] != states[1]).any(-1)[0]
    assert differs.tolist() == [False] * (23 * 4) + [True] * 4  # 24 steps of 4 bands


def test_a_model_with_vit_and_ast_survives_a_file(tmp_path):
    model = make_model(
        vision={**VIT, "model_type": "vit"}, audio={**AST, "model_type": "audio-spectrogram-transformer"}
    )
    model.save_pretrained(tmp_path)
    config = MMGPTConfig.from_pretrained(tmp_path)
    assert (config.vision_config.model_type, config.audio_config.model_type) == (
        "vit",
        "audio-spectrogram-transformer",
    )
    loaded, info = MMGPTForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_patches_are_those_of_the_image_processor():
    images = torch.randn(2, 3, 8, 12)
    patches, shapes = cut_patches(images, 4)
    assert shapes.tolist() == [[2, 3]] * 2
    for image, one in zip(images, patches, strict=True):
        assert torch.equal(one, convert_image_to_patches(image, 4))


def test_padding_is_told_from_patches():
    rows, columns, is_patch = patch_places(torch.tensor([[2, 2], [1, 3]]), 4)
    assert is_patch.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert rows[0].tolist() == [0, 0, 1, 1] and columns[1, :3].tolist() == [0, 1, 2]


def test_the_same_image_is_the_same_in_either_form():
    tower = make_model(vision=PATCHES).model.vision_tower
    images = torch.randn(2, 3, 16, 8)
    whole = tower(images).last_hidden_state
    torch.testing.assert_close(tower(*cut_patches(images, 4)).last_hidden_state, whole)


def test_an_image_longer_than_the_table_of_positions_has_some_for_each_patch():
    tower = make_model(vision=PATCHES).model.vision_tower  # 4 rows, 4 columns
    features = tower(torch.zeros(1, 9, 48), torch.tensor([[1, 8]])).last_hidden_state[0]
    assert torch.equal(features[0], features[1]) and not torch.equal(features[1], features[2])
    assert len(features.unique(dim=0)) == 5  # 4 columns, and padding in a row that is none of the image's
