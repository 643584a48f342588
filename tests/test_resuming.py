"""A run that is killed and started again ends as if nothing had happened, bit for bit; another run's checkpoints are not taken."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.conftest import section_of
from tests.toy_training import losses, toy_tree
from training.recipe import RecipeError, build_recipe
from training.resuming import changed_keys, checkpoint_to_resume, last_checkpoint


def run(folder: Path, tree: dict, **environment) -> int:
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "tests.toy_training", str(file)]
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True).returncode


def test_killed_and_started_again_is_never_killed(tmp_path):
    """Weights, losses, order of the data, random changes to the samples and dropout, through the end of an epoch, and with
    another number of data workers."""
    results = {}
    for name, kill_at, workers in (("whole", None, 0), ("killed", "7", 2)):
        folder = tmp_path / name
        tree = toy_tree(folder)
        tree["model"]["config"]["text_config"]["residual_dropout"] = 0.1
        tree["augment"] = {"audio_noise": 0.3, "image_shift": 4, "spectrogram_bands": 1, "spectrogram_band_width": 4}
        tree["training"] |= {
            "max_steps": 11,
            "save_strategy": "steps",
            "save_steps": 3,
            "dataloader_num_workers": workers,
        }
        if kill_at is not None:
            assert run(folder, tree, KILLED_AT_STEP=kill_at) == -signal.SIGKILL
            assert last_checkpoint(folder).name == "checkpoint-6" and not (folder / "model").exists()
        assert run(folder, tree) == 0
        results[name] = (
            load_file(folder / "model" / "model.safetensors"),
            json.loads((folder / "training.json").read_text()),
        )
    (weights, report), (weights_again, report_again) = results.values()
    assert losses(report) == losses(report_again) and len(losses(report)) == 11
    assert all((weights[name] == weights_again[name]).all() for name in weights)
    # Time and tokens are those of the last part, and the card says so.
    assert (report["steps_before"], report_again["steps_before"]) == (0, 6)
    assert 0 < report_again["tokens"] < report["tokens"]
    training = section_of(tmp_path / "killed" / "model" / "README.md", "Training")
    assert f"11 steps, the last 5 of them with {report_again['tokens']} tokens in" in training


class TestWhereToGoOn:
    @pytest.fixture
    def tree(self, tmp_path) -> dict:
        tree = {"model": {"preset": "nano"}, "data": {"train": [{"format": "fsdd"}]}}
        return {**tree, "training": {"output_dir": str(tmp_path), "learning_rate": 1e-3}}

    @pytest.fixture
    def interrupted(self, tree, tmp_path):
        build_recipe(tree, "toy", "toy.yaml").write(tmp_path / "recipe.yaml")
        for step, state in ((9, "{}"), (20, "{}"), (100, '{"half')):
            (tmp_path / f"checkpoint-{step}").mkdir()
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
        (tmp_path / "checkpoint-200").mkdir()

    def test_a_new_run_begins_at_the_beginning(self, tree):
        assert checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml")) is None

    def test_the_last_whole_checkpoint(self, tree, interrupted, tmp_path):
        assert checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml")) == str(tmp_path / "checkpoint-20")

    def test_what_changes_nothing_may_change(self, tree, interrupted, tmp_path):
        tree["training"] |= {"logging_steps": 7, "save_strategy": "steps", "save_steps": 100, "report_to": "none"}
        tree["data"] |= {"root": "/elsewhere", "train": [{"format": "fsdd", "license": "cc-by-sa-4.0"}]}
        assert checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml")) is not None

    def test_another_runs_checkpoints_are_refused(self, tree, interrupted):
        tree["training"]["learning_rate"] = 2e-3
        with pytest.raises(RecipeError, match=r"checkpoint-20\): it differs in training.learning_rate"):
            checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))

    def test_a_named_checkpoint_is_taken(self, tree, interrupted, tmp_path):
        tree["training"] |= {"learning_rate": 2e-3, "resume_from_checkpoint": str(tmp_path / "checkpoint-9")}
        assert checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml")) == str(tmp_path / "checkpoint-9")
        tree["training"]["resume_from_checkpoint"] = str(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))

    def test_a_fresh_start_does_not_write_between_old_checkpoints(self, tree, interrupted):
        tree["training"]["resume_from_checkpoint"] = False
        with pytest.raises(RecipeError, match="holds checkpoints of an earlier run"):
            checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))

    def test_a_recipe_of_before_in_its_old_names_is_the_same_run(self, tree, interrupted, tmp_path):
        """Written with another key for `format`, old names of formats, one file in place of a list, and the preset not merged."""
        tree["data"]["train"] = [
            {"format": "fsdd", "weight": 2.0},
            {"format": "summarization", "files": "news/{split}.jsonl"},
            {"format": "samples", "files": ["prepared/*.parquet"]},
        ]
        recipe = build_recipe(tree, "toy", "toy.yaml")
        recipe.write(tmp_path / "recipe.yaml")
        written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
        written["model"] = {"preset": "nano", "config": {}, "image_processor": {}}
        for source, name in zip(written["data"]["train"], ("fsdd", "summarisation", "rows"), strict=True):
            del source["format"]
            source |= {"adapter": name, "augment": {}, "license": None}
        written["data"]["train"][1]["files"] = "news/{split}.jsonl"
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
        assert changed_keys(recipe, tmp_path / "recipe.yaml") == []
        assert checkpoint_to_resume(recipe) == str(tmp_path / "checkpoint-20")
        written["data"]["train"][0]["weight"] = 3.0
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
        assert changed_keys(recipe, tmp_path / "recipe.yaml") == ["data.train.0.weight"]

    def test_a_recipe_that_can_no_longer_be_read_is_another_run(self, tree, interrupted, tmp_path):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": {"preset": "gone"}}))
        with pytest.raises(RecipeError, match=r"it differs in .*model\.preset"):
            checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))
