"""Recipes: every shipped file loads, overrides apply, mistakes are named with the nearest valid name."""

from pathlib import Path

import pytest
import yaml

from training.recipe import Recipe, build_recipe, load_recipe
from training.recipe_files import CONFIGURATION, RecipeError, apply_override


RECIPES = sorted((CONFIGURATION / "recipes").glob("*.yaml"))


@pytest.fixture
def tree() -> dict:
    return {"model": {"preset": "nano"}, "data": {"train": [{"format": "fsdd"}]}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
class TestShippedRecipes:
    def test_loads(self, path: Path, tmp_path: Path):
        recipe = load_recipe(path, [f"training.output_dir={tmp_path}"])
        assert isinstance(recipe, Recipe)
        assert recipe.name == path.stem
        assert recipe.training.remove_unused_columns is False

    def test_printed_recipe_is_the_same_recipe(self, path: Path):
        printed = load_recipe(path).to_yaml()
        again = build_recipe(yaml.safe_load(printed), path.stem, "printed")
        assert again.to_yaml() == printed


class TestOverrides:
    def test_values_are_read_as_yaml(self, tree: dict):
        for override in (
            "training.learning_rate=3e-4",
            "training.max_steps=7",
            "data.root=/elsewhere",
            "eval.batch_size=2",
        ):
            apply_override(tree, override)
        recipe = build_recipe(tree, "test", "test")
        assert recipe.training.learning_rate == 3e-4
        assert recipe.training.max_steps == 7
        assert recipe.data.root == "/elsewhere"
        assert recipe.eval.batch_size == 2

    def test_index_steps_into_a_list(self, tree: dict):
        apply_override(tree, "data.train.0.weight=0.5")
        assert build_recipe(tree, "test", "test").data.train[0].weight == 0.5

    def test_new_sections_are_made(self, tree: dict):
        apply_override(tree, "model.config.text_config.hidden_size=64")
        assert build_recipe(tree, "test", "test").model.config["text_config"]["hidden_size"] == 64


class TestSources:
    def test_augment_is_laid_over_that_of_the_recipe(self, tree: dict):
        tree["augment"] = {"audio_gain": 6.0}
        tree["data"]["train"].append({"format": "easy_vqa", "augment": {"image_flip": True}})
        plain, flipped = (source.augment for source in build_recipe(tree, "test", "test").data.train)
        assert (plain.audio_gain, plain.image_flip) == (6.0, False)
        assert (flipped.audio_gain, flipped.image_flip) == (6.0, True)

    def test_two_sources_of_one_name_change_alike(self, tree: dict):
        tree["data"]["train"] = [{"format": "fsdd", "augment": {"audio_gain": gain}} for gain in (1.0, 2.0)]
        with pytest.raises(RecipeError, match="two sources are called 'fsdd'"):
            build_recipe(tree, "my", "my.yaml")

    def test_the_split_is_that_of_the_list(self, tree: dict):
        tree["data"]["test"] = [{"format": "fsdd"}, {"format": "fsdd", "split": "validation"}]
        data = build_recipe(tree, "test", "test").data
        assert [source.split for source in (*data.train, *data.test)] == ["train", "test", "validation"]


def test_the_written_recipe_is_the_recipe(tree: dict, tmp_path: Path):
    recipe = build_recipe(tree, "toy", "toy.yaml")
    recipe.write(tmp_path / "new" / "recipe.yaml")
    again = build_recipe(yaml.safe_load((tmp_path / "new" / "recipe.yaml").read_text()), "toy", "recipe.yaml")
    assert again.training.to_dict() == recipe.training.to_dict()
    assert (again.data, again.model) == (recipe.data, recipe.model)


class TestMistakes:
    @pytest.mark.parametrize(
        ("override", "key", "nearest"),
        [
            ("modle.preset=nano", "modle", "model"),
            ("training.learning_rat=1", "training.learning_rat", "learning_rate"),
            ("data.train.0.formatt=x", "data.train.0.formatt", "format"),
            ("eval.batchsize=1", "eval.batchsize", "batch_size"),
            ("augment.audio_shfit=1", "augment.audio_shfit", "audio_shift"),
        ],
    )
    def test_unknown_key_names_place_and_nearest(self, tree: dict, override: str, key: str, nearest: str):
        apply_override(tree, override)
        with pytest.raises(
            RecipeError, match=rf"my\.yaml: unknown key `{key}`; the nearest valid name is `{nearest}`"
        ):
            build_recipe(tree, "my", "my.yaml")

    def test_missing_recipe_lists_those_there_are(self):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist.*fsdd"):
            load_recipe("nowhere.yaml")

    def test_broken_yaml_is_named(self, tmp_path: Path):
        path = tmp_path / "broken.yaml"
        path.write_text("model: [")
        with pytest.raises(RecipeError, match=r"broken\.yaml is not valid YAML"):
            load_recipe(path)

    @pytest.mark.parametrize("source", [{"weight": 1.0}, {"format": None}])
    def test_a_format_is_needed(self, tree: dict, source: dict):
        tree["data"]["train"] = [source]
        with pytest.raises(RecipeError, match=r"`data\.train\.0\.format` is missing"):
            build_recipe(tree, "my", "my.yaml")

    @pytest.mark.parametrize(
        ("data", "source", "message"),
        [
            ({"block": 4}, {}, r"data\.block sets an order: add training\.train_sampling_strategy: sequential"),
            ({}, {"adapter": "fsdd"}, r"my\.yaml: unknown key `data\.train\.0\.adapter`; it is called `format` now"),
            ({}, {"span": [0, 2]}, r"my\.yaml: in `data\.train\.0`: span is"),
            (
                {},
                {"augment": {"audio_shfit": 1}},
                r"unknown key `data\.train\.0\.augment\.audio_shfit`.*`audio_shift`",
            ),
        ],
    )
    def test_what_a_source_says_has_to_fit(self, tree: dict, data: dict, source: dict, message: str):
        tree["data"] = {"train": [{"format": "fsdd", **source}], **data}
        with pytest.raises(RecipeError, match=message):
            build_recipe(tree, "my", "my.yaml")
