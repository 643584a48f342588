"""Values of recipes: read as a person means them, and refused with their place and the way out."""

import re
from typing import Any, Literal

import pytest

from training.recipe import build_recipe, load_recipe
from training.recipe_files import RecipeError, apply_override, parse, read_yaml, without_words
from training.recipe_types import typed


def recipe_with(*overrides: str):
    tree = {"model": {"preset": "nano"}, "data": {"train": [{"format": "fsdd"}], "validation": [{"format": "fsdd"}]}}
    for override in overrides:
        apply_override(tree, override)
    return build_recipe(tree, "toy", "toy.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2E4", 20000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("017", 17),
        ("0x10", 16),
        ("-3", -3),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("~", None),
        ("", None),
        ("true", True),
        ("no", False),
        ("On", True),
        ("'no'", "no"),
        ("[no, yes, n]", [False, True, "n"]),
        ("{on: off}", {"on": False}),
        ("1.2.3", "1.2.3"),
    ],
)
def test_yaml_reads_what_a_person_means(text, value):
    read = without_words(parse(text, "here"))
    assert read == value and type(read) is type(value)


class TestWordsAndNumbers:
    @pytest.mark.parametrize(
        ("override", "read"),
        [
            ("training.save_strategy=no", lambda recipe: recipe.training.save_strategy.value == "no"),
            ("training.eval_strategy=no", lambda recipe: recipe.training.eval_strategy.value == "no"),
            ("prepare.languages=[no, en]", lambda recipe: recipe.prepare.languages == ["no", "en"]),
            ("data.train.0.license=no", lambda recipe: recipe.data.train[0].license == "no"),
            ("data.streaming=no", lambda recipe: recipe.data.streaming is False),
            ("eval.baselines=off", lambda recipe: recipe.eval.baselines is False),
            ("training.gradient_checkpointing=yes", lambda recipe: recipe.training.gradient_checkpointing is True),
            ("training.resume_from_checkpoint=no", lambda recipe: recipe.training.resume_from_checkpoint is False),
            (
                "model.config.tie_word_embeddings=yes",
                lambda recipe: recipe.model.config["tie_word_embeddings"] is True,
            ),
            ("training.learning_rate='1e-3'", lambda recipe: recipe.training.learning_rate == 1e-3),
            ("training.max_steps=1e3", lambda recipe: repr(recipe.training.max_steps) == "1000"),
            ("eval.batch_size='8'", lambda recipe: recipe.eval.batch_size == 8),
            ("training.run_name=2024", lambda recipe: recipe.training.run_name == "2024"),
            ("data.train.0.weight=2", lambda recipe: recipe.data.train[0].weight == 2),
            ("eval.batch_size=", lambda recipe: recipe.eval.batch_size == 64),
            ("data.train.0.augment.image_flip=yes", lambda recipe: recipe.data.train[0].augment.image_flip is True),
        ],
    )
    def test_are_taken_as_their_field_has_them(self, override, read):
        assert read(recipe_with(override))

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("training.learning_rate=fast", "`training.learning_rate` is 'fast'; it must be a number"),
            ("training.max_steps=1.5", "`training.max_steps` is 1.5; it must be a whole number"),
            ("training.max_steps=yes", "`training.max_steps` is 'yes'; it must be a whole number"),
            ("training.learning_rate=.nan", "`training.learning_rate` is nan; it must be a number"),
            ("training.learning_rate=-1", "`training.learning_rate` is -1; it must be 0 or more"),
            ("training.adam_beta2=1.2", "it must be from 0 to 1"),
            ("training.bf16=maybe", "`training.bf16` is 'maybe'; it must be true or false"),
            ("training.save_strategy=never", "the nearest valid name is"),
            ("training.use_cpu=3", "`training.use_cpu` is 3; it must be true or false"),
            ("eval.batch_size=0", "`eval.batch_size` is 0; it must be 1 or more"),
            ("eval.batch_size=[8]", "`eval.batch_size` is [8]; it must be a whole number"),
            ("eval.baselines='yes'", "`eval.baselines` is 'yes'; it must be true or false"),
            ("prepare.languages=en", "`prepare.languages` is 'en'; it must be a list such as [a, b], each text"),
            ("prepare.similarity=80", "it must be from 0 to 1"),
            ("sequence.max_length=-4", "`sequence.max_length` is -4; it must be 1 or more"),
            ("augment.image_shift=2.5", "`augment.image_shift` is 2.5; it must be a whole number"),
            ("augment.audio_crop=1.5", "`augment.audio_crop` is 1.5; it must be from 0 to 1"),
            ("data.train.0.augment.audio_gain=loud", "`data.train.0.augment.audio_gain` is 'loud'"),
            ("data.train.0.span=[0, half]", "`data.train.0.span.1` is 'half'; it must be a number"),
            ("data.train.0.limit=0", "`data.train.0.limit` is 0; it must be 1 or more"),
            ("data.train=fsdd", "`data.train` is 'fsdd'; it must be a list of sources"),
            ("data.train=[fsdd]", "`data.train.0` must be a list of `key: value` lines, not 'fsdd'"),
            ("data=fsdd", "`data` must be a list of `key: value` lines"),
            ("training=3", "`training` must be a list of `key: value` lines"),
            ("model.config=3", "`model.config` is 3; it must be `key: value` lines"),
            ("model.prompts={ocr: [1]}", "`model.prompts.ocr` is [1]; it must be text"),
            ("learning_rates.decoder=-1e-3", "`learning_rates.decoder` is -0.001; it must be 0 or more"),
            ("tokenizer.vocab_size=many", "`tokenizer.vocab_size` is 'many'; it must be a whole number"),
            ("peft=LORA", "`peft` must be a list of `key: value` lines"),
        ],
    )
    def test_of_another_kind_are_refused_with_place_and_way_out(self, override, message):
        with pytest.raises(RecipeError, match=re.escape(message)):
            recipe_with(override)

    def test_unions_literals_and_lists(self):
        assert typed("a", Literal["a", "b"], "x") == "a" and typed(None, int | None, "x") is None
        assert typed((1, "2"), list[int], "x") == [1, 2] and typed("a", str | list[str], "x") == "a"
        assert typed([1, "a"], Any, "x") == [1, "a"]
        with pytest.raises(RecipeError, match="`x` is 'c'; it must be 'a' or 'b'"):
            typed("c", Literal["a", "b"], "x")


class TestBrokenYaml:
    @pytest.mark.parametrize(
        "content",
        [
            b"model: [",
            b"a: b: c",
            b"a: 'b",
            b"\ta: 1",
            b"a: 1\na: 2",
            b"a: !!python/object:x {}",
            b"\xff",
            b"a: \x00",
            b"a: =",
        ],
    )
    def test_in_a_file_is_one_sentence(self, tmp_path, content):
        (tmp_path / "toy.yaml").write_bytes(content)
        if content == b"a: =":
            assert read_yaml(tmp_path / "toy.yaml", tmp_path) == {"a": "="}
            return
        with pytest.raises(RecipeError, match=r"toy\.yaml is not valid YAML") as error:
            load_recipe(tmp_path / "toy.yaml")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("override", ["model.config={", "training.max_steps=[1", "data.root='x"])
    def test_in_an_override_too(self, override):
        with pytest.raises(RecipeError, match="is not valid YAML, line 1") as error:
            recipe_with(override)
        assert "\n" not in str(error.value) and override in str(error.value)
