"""Training runs on synthetic samples of every modality are repeatable; the command line and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.toy_training import TOY_DATA, losses, toy_tree, train_toy
from training import train
from training.data.formats import OWN_DATA, BrokenSample
from training.data.samples import DataError
from training.recipe import RecipeError, build_recipe
from training.stopping import RunFailed, RunStopped


CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestTrain:
    def test_same_seed_same_losses(self, tree):
        tree["training"]["resume_from_checkpoint"] = False  # a finished run would be left as it is
        tree["augment"] = {"audio_noise": 0.5, "image_shift": 4, "spectrogram_bands": 1, "spectrogram_band_width": 4}
        first = losses(train_toy(tree))
        assert losses(train_toy(tree)) == first
        tree["training"]["seed"] = 7
        assert losses(train_toy(tree)) != first

    def test_random_state_outside_does_not_matter(self, tree):
        tree["training"]["resume_from_checkpoint"] = False
        torch.manual_seed(1)
        first = losses(train_toy(tree))
        torch.manual_seed(2)
        assert losses(train_toy(tree)) == first


class TestEndings:
    @pytest.mark.parametrize(
        ("error", "status", "told"),
        [
            (RunFailed("step 1: NaN"), 1, "The run went wrong: step 1: NaN"),
            (DataError("a.png is gone"), 1, "The data are wrong: a.png is gone"),
            (
                BrokenSample("Caught in a worker.\nTraceback:\nformats.BrokenSample: it is cut\n"),
                1,
                "The data are wrong: it is cut",
            ),
            (RecipeError("no such stage"), 2, "error: no such stage"),
            (RunStopped("after step 1"), 75, "Not finished: after step 1"),
        ],
    )
    def test_each_has_its_status_and_its_sentence(self, error, status, told, tree, monkeypatch, capsys):
        def end(recipe):
            raise error

        monkeypatch.setattr(train, "train", end)
        with pytest.raises(SystemExit) as ending:
            train.train_and_exit(build_recipe(tree, "toy", "toy.yaml"))
        assert ending.value.code == status and capsys.readouterr().err == f"{told}\n"


class TestCommandLine:
    def test_print_config_stops_before_training(self, monkeypatch, capsys):
        recipe = str(CHECKOUT / "configuration" / "recipes" / "fsdd.yaml")
        monkeypatch.setattr(sys, "argv", ["train.py", recipe, "training.max_steps=5", "--print-config"])
        train.main()
        printed = capsys.readouterr().out
        assert "max_steps: 5" in printed and "format: fsdd" in printed

    @pytest.mark.parametrize("argument", ["training.max_step=5", "modle.preset=nano", "data.root"])
    def test_mistakes_are_one_line(self, argument, monkeypatch, capsys):
        recipe = str(CHECKOUT / "configuration" / "recipes" / "fsdd.yaml")
        monkeypatch.setattr(sys, "argv", ["train.py", recipe, argument])
        with pytest.raises(SystemExit):
            train.main()
        assert "error: " in capsys.readouterr().err

    def test_runs_as_a_module_of_the_checkout(self):
        command = [sys.executable, "-m", "training.train", "--help"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "key=value" in done.stdout
