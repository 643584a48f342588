"""Recipes: every shipped file loads, overrides apply, mistakes are named with the nearest valid name."""

from pathlib import Path

import pytest
import yaml

from training.recipe import (
    CONFIGURATION,
    Recipe,
    RecipeError,
    apply_override,
    build_recipe,
    format_recipe,
    load_recipe,
    merge,
    read_preset,
)


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
        printed = format_recipe(load_recipe(path))
        tree = yaml.safe_load(printed)
        again = build_recipe({key: tree[key] for key in tree if key != "name"}, tree["name"], "printed")
        assert format_recipe(again) == printed


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
        assert build_recipe(tree, "test", "test").model.config == {"text_config": {"hidden_size": 64}}

    @pytest.mark.parametrize("override", ["training.max_steps", "=3", "data.train.5.weight=1", "model.preset.name=x"])
    def test_impossible_override(self, tree: dict, override: str):
        with pytest.raises(RecipeError, match=override):
            apply_override(tree, override)


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

    def test_missing_preset_lists_those_there_are(self):
        with pytest.raises(FileNotFoundError, match=r"nanno\.yaml does not exist.*nano"):
            read_preset("nanno")

    def test_broken_yaml_is_named(self, tmp_path: Path):
        path = tmp_path / "broken.yaml"
        path.write_text("model: [")
        with pytest.raises(RecipeError, match=r"broken\.yaml is not valid YAML"):
            load_recipe(path)

    def test_a_format_is_needed(self, tree: dict):
        tree["data"]["train"] = [{"weight": 1.0}]
        with pytest.raises(RecipeError, match=r"`data\.train\.0\.format` is missing"):
            build_recipe(tree, "my", "my.yaml")

    @pytest.mark.parametrize("model", [{}, {"preset": "nano", "checkpoint": "outputs/x"}])
    def test_preset_or_checkpoint(self, tree: dict, model: dict):
        tree["model"] = model
        with pytest.raises(RecipeError, match=r"exactly one of model\.preset"):
            build_recipe(tree, "my", "my.yaml")

    def test_checkpoint_keeps_its_config(self, tree: dict):
        tree["model"] = {"checkpoint": "outputs/x", "config": {"vision_config": None}}
        with pytest.raises(RecipeError, match=r"model\.config can only change a preset"):
            build_recipe(tree, "my", "my.yaml")

    @pytest.mark.parametrize(
        ("data", "source", "message"),
        [
            ({"block": 4}, {}, r"data\.block sets an order: add training\.train_sampling_strategy: sequential"),
            ({"block": 0}, {}, r"data\.block is a number of rows"),
            ({}, {"span": [0, 0.5]}, r"data\.train\.0\.span needs data\.block"),
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

    @pytest.mark.parametrize("span", [[0.5, 0.5], [0, 2], [0.1]])
    def test_a_span_is_two_parts_of_the_epoch(self, tree: dict, span: list):
        tree["data"] = {"train": [{"format": "fsdd", "span": span}], "block": 4}
        tree["training"] = {"train_sampling_strategy": "sequential"}
        with pytest.raises(RecipeError, match=r"data\.train\.0\.span is"):
            build_recipe(tree, "my", "my.yaml")

    def test_no_training_data(self, tree: dict):
        tree["data"] = {"train": []}
        with pytest.raises(RecipeError, match=r"data\.train lists no source"):
            build_recipe(tree, "my", "my.yaml")


def test_merge_goes_into_dicts_and_replaces_the_rest():
    base = {"a": {"b": 1, "c": 2}, "d": {"e": 1}}
    assert merge(base, {"a": {"c": 3}, "d": None}) == {"a": {"b": 1, "c": 3}, "d": None}
    assert base == {"a": {"b": 1, "c": 2}, "d": {"e": 1}}
