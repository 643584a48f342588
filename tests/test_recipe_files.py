"""Recipe files: overrides, merging, and the names that are valid now."""

import pytest

from training.recipe_files import RENAMED, RecipeError, apply_override, merge, read_preset, valid_name, with_new_names


def test_missing_preset_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"nanno\.yaml does not exist.*nano"):
        read_preset("nanno")


@pytest.mark.parametrize("override", ["training.max_steps", "=3", "data.train.5.weight=1", "model.preset.name=x"])
def test_impossible_override(override: str):
    tree = {"model": {"preset": "nano"}, "data": {"train": [{"format": "fsdd"}]}}
    with pytest.raises(RecipeError, match=override):
        apply_override(tree, override)


def test_merge_goes_into_dicts_and_replaces_the_rest():
    base = {"a": {"b": 1, "c": 2}, "d": {"e": 1}}
    assert merge(base, {"a": {"c": 3}, "d": None}) == {"a": {"b": 1, "c": 3}, "d": None}
    assert base == {"a": {"b": 1, "c": 2}, "d": {"e": 1}}


class TestRenamed:
    def test_an_old_name_is_answered_with_the_new_one_where_that_is_valid(self):
        assert valid_name("rows", ["samples", "text"]) == "it is called 'samples' now"
        assert valid_name("rows", ["row", "text"]) == "the nearest valid name is 'row'"

    def test_sources_of_before_are_translated(self):
        old = {"adapter": "demo", "options": {"source": "sounds", "rows": 8, "exchanges": {"sounds": 2}}}
        assert with_new_names(old) == {
            "format": "demo",
            "options": {"source": "audio", "samples": 8, "turns": {"audio": 2}},
        }
        assert with_new_names({"adapter": "summarisation"}) == {"format": "summarization"}
        assert with_new_names({"format": "text", "files": "rows.txt"}) == {"format": "text", "files": "rows.txt"}

    def test_no_new_name_is_an_old_one(self):
        assert not set(RENAMED) & set(RENAMED.values())
