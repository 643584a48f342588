"""Presets and the recipe's changes to models and processors."""

import dataclasses

import pytest
import torch

from modeling_mmgpt import MMGPTForCausalLM, save_checkpoint
from modeling_mmgpt.preprocessing_mmgpt import chunk_size, sampling
from training.data.samples import assistant_turn, make_dataset, user_turn
from training.model_building import build_model, build_model_and_processor, load_checkpoint
from training.recipe import CONFIGURATION, ModelArguments, RecipeError, build_recipe, load_recipe
from training.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["what is it?"], vocab_size=320)


@pytest.mark.parametrize("path", sorted((CONFIGURATION / "models").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_builds(path, tokenizer):
    with torch.device("meta"):  # the largest would fill a rack
        model, processor = build_model(ModelArguments(preset=path.stem), tokenizer)
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert tokenizer.im_end_token_id in model.generation_config.eos_token_id
    assert hasattr(processor, "image_processor") == (model.config.vision_config is not None)
    assert hasattr(processor, "feature_extractor") == (model.config.audio_config is not None)


@pytest.mark.parametrize("path", sorted((CONFIGURATION / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_builds_its_model(path, tokenizer):
    build_model(load_recipe(path).model, tokenizer)


def test_nano_is_nano(tokenizer):
    model, _ = build_model(ModelArguments(preset="nano"), tokenizer)
    assert 1_000_000 < model.num_parameters() < 3_000_000


def test_changes_are_laid_over_the_preset(tokenizer):
    arguments = ModelArguments(
        preset="nano",
        config={"text_config": {"num_hidden_layers": 1}, "vision_config": None},
        feature_extractor={"sampling_rate": 8000, "n_fft": 256},
        prompts={"summarization": "In short: {text}"},
    )
    model, processor = build_model(arguments, tokenizer)
    assert processor.prompts["summarization"] == "In short: {text}"
    assert model.config.text_config.num_hidden_layers == 1
    assert model.config.text_config.hidden_size == 192
    assert model.config.vision_config is None and not hasattr(processor, "image_processor")
    assert processor.feature_extractor.sampling_rate == 8000


def test_how_many_frames_of_a_video_are_taken_is_the_recipes_choice(tokenizer):
    arguments = ModelArguments(preset="nano", video_processor={"num_frames": 2, "fps": 0.5})
    model, processor = build_model(arguments, tokenizer)
    assert model.config.video_token_id == tokenizer.video_token_id
    assert sampling(processor.video_processor) == (0.5, 2)
    assert chunk_size(processor.video_processor) == chunk_size(processor.image_processor)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: train it first"):
        load_checkpoint(str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def damaged(tokenizer, tmp_path_factory):
    """Folders whose weights are no good, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("damaged")
    model, processor = build_model(ModelArguments(preset="nano"), tokenizer)
    with torch.no_grad():
        model.model.language_model.norm.weight[0] = float("nan")
    save_checkpoint(folder / "nan", model, processor)
    weights = {name: weight for name, weight in model.state_dict().items() if "vision_connector" not in name}
    save_checkpoint(folder / "missing", model, processor, state_dict=weights)
    save_checkpoint(folder / "text", MMGPTForCausalLM(model.config.text_config), tokenizer)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "has weights that are NaN or infinite: model.language_model.norm.weight"),
        ("missing", "lacks weights of the model: model.vision_connector"),
        ("text", "`mmgpt assemble`"),
    ],
)
def test_weights_that_are_missing_or_not_finite_are_named(damaged, name, message):
    with pytest.raises(RecipeError, match=message):
        load_checkpoint(str(damaged / name))


def test_tokenizer_from_the_samples_or_from_a_folder(tokenizer, tmp_path):
    samples = make_dataset([{"messages": [user_turn("zebra"), assistant_turn("quagga")]}] * 3)
    tree = {"model": {"preset": "nano"}, "data": {"train": [{"format": "fsdd"}]}, "tokenizer": {"vocab_size": 320}}
    recipe = build_recipe(tree, "test", "test")
    _, processor = build_model_and_processor(recipe, samples)
    assert len(processor.tokenizer("quagga").input_ids) == 1

    tokenizer.save_pretrained(tmp_path)
    recipe = dataclasses.replace(recipe, tokenizer=dataclasses.replace(recipe.tokenizer, path=str(tmp_path)))
    _, processor = build_model_and_processor(recipe, samples)
    assert len(processor.tokenizer("quagga").input_ids) > 1


@pytest.mark.parametrize("recipe", ["demo", "easy_vqa", "esc10", "fashion_mnist_small", "sign_digits"])
def test_a_recipe_takes_the_other_way_of_fusing(recipe, tokenizer):
    changes = ["model.config.fusion=cross_attention", "model.config.text_config.cross_attention_every=2"]
    model, processor = build_model(load_recipe(f"configuration/recipes/{recipe}.yaml", changes).model, tokenizer)
    blocks = [layer.cross_block is not None for layer in model.model.language_model.layers]
    assert blocks == [index % 2 == 0 for index in range(len(blocks))]
    geometries = [one for one in (processor.image_geometry, processor.audio_geometry) if one]
    assert geometries and all(geometry["tokens_per_row"] == 1 for geometry in geometries)
