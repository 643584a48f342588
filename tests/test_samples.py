"""The one sample format: every column is there, and the answer is the last turn."""

from pathlib import Path

import pytest

from training.data.samples import (
    FEATURES,
    MissingData,
    answer_of,
    assistant_turn,
    find_files,
    make_dataset,
    text_of,
    user_turn,
)
from training.recipe import CONFIGURATION, load_recipe
from training.train import train_and_exit


def test_all_columns_are_there():
    turns = [user_turn("which?"), assistant_turn("this")]
    samples = make_dataset([{"id": "0", "task": "text", "messages": turns}])
    assert samples.features == FEATURES
    assert samples[0]["images"] == [] and samples[0]["audios"] == []


def test_text_and_answer():
    sample = {"messages": [user_turn("which?", media=("image",)), assistant_turn(" this ")]}
    assert text_of(sample["messages"][0]) == "which?"
    assert text_of({"role": "user", "content": "plain"}) == "plain"
    assert answer_of(sample) == "this"


def test_a_sample_without_an_answer_is_named():
    with pytest.raises(ValueError, match="sample '7' ends with a user turn"):
        answer_of({"id": "7", "messages": [user_turn("which?")]})


class TestMissingData:
    def test_names_the_command_that_brings_a_known_set(self):
        with pytest.raises(
            MissingData,
            match=r"data/fsdd/train\.parquet does not exist: `python -m training\.data\.fetch fsdd` brings",
        ):
            find_files("fsdd/train.parquet", Path("data"))
        with pytest.raises(MissingData, match=r"fetch gsm8k --root /elsewhere` brings .*data\.root=FOLDER"):
            find_files("gsm8k/*.jsonl.gz", Path("/elsewhere"))

    def test_of_ones_own_names_the_folder_alone(self, tmp_path):
        with pytest.raises(MissingData, match=r"birds does not exist: name its folder with data\.root=FOLDER"):
            find_files("birds", tmp_path)

    def test_ends_training_with_this_sentence(self, tmp_path, monkeypatch, capsys):
        recipe = load_recipe(CONFIGURATION / "recipes" / "gsm8k.yaml", [f"training.output_dir={tmp_path / 'run'}"])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            train_and_exit(recipe)
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith(
            "error: data/gsm8k/train.jsonl.gz does not exist: `python -m training.data.fetch gsm8k`"
        )


def test_every_recipe_reads_the_data_folder_of_the_checkout():
    for path in (CONFIGURATION / "recipes").glob("*.yaml"):
        recipe = load_recipe(path)
        files = [file for source in (*recipe.data.train, *recipe.data.test) for file in source.files or []]
        assert recipe.data.root == ("data" if files or path.stem == "fsdd" or path.stem == "easy_vqa" else None)
        assert {Path(file).parts[0] for file in files} <= {
            path.stem for path in (CONFIGURATION / "datasets").glob("*.yaml")
        }
