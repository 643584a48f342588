"""A whole training run on synthetic samples of every modality, and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTProcessor
from modeling_mmgpt.tools.model_card import licences_of, read_facts, record_results
from tests.conftest import section_of
from tests.toy_training import TOY_DATA, losses, toy_tree
from training import train
from training.data.formats import OWN_DATA
from training.recipe import build_recipe


CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestTrain:
    def test_leaves_a_model_a_curve_and_a_log(self, tree, tmp_path):
        report = train.train(build_recipe(tree, "toy", "toy.yaml"))
        folder = tmp_path / "run"
        assert sorted(path.name for path in folder.iterdir()) == ["loss.png", "model", "recipe.yaml", "training.json"]
        assert json.loads((folder / "training.json").read_text()) == report
        assert report["steps"] == 3 and report["samples"] == 24 and len(losses(report)) == 3
        assert Image.open(folder / "loss.png").width > 400

        training = section_of(folder / "model" / "README.md", "Training")
        assert training.startswith(f"Recipe `toy`, stage `finetune`: 3 steps, with {report['tokens']} tokens in ")
        assert f"Hardware: {report['hardware']}." in training and training.endswith("| toy | 24 | 1.0 |")

        model = MMGPTForConditionalGeneration.from_pretrained(folder / "model")
        assert model.num_parameters() == report["parameters"]
        processor = MMGPTProcessor.from_pretrained(folder / "model")
        assert processor.tokenizer.im_end_token_id in model.generation_config.eos_token_id

    def test_same_seed_same_losses(self, tree):
        tree["training"]["resume_from_checkpoint"] = False  # a finished run would be left as it is
        tree["augment"] = {"audio_noise": 0.5, "image_shift": 4, "spectrogram_bands": 1, "spectrogram_band_width": 4}
        first = losses(train.train(build_recipe(tree, "toy", "toy.yaml")))
        assert losses(train.train(build_recipe(tree, "toy", "toy.yaml"))) == first
        tree["training"]["seed"] = 7
        assert losses(train.train(build_recipe(tree, "toy", "toy.yaml"))) != first

    def test_accumulated_batches_are_one_batch(self, tree):
        tree["training"] |= {"max_steps": 2, "per_device_train_batch_size": 12}
        whole = losses(train.train(build_recipe(tree, "toy", "toy.yaml")))
        tree["training"] |= {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}
        np.testing.assert_allclose(losses(train.train(build_recipe(tree, "toy", "toy.yaml"))), whole, rtol=1e-4)

    def test_packed_batches_are_the_same_training(self, tree):
        """All samples in each step, packed or not: the losses are the same, step after step."""
        tree["training"]["per_device_train_batch_size"] = 24
        plain = losses(train.train(build_recipe(tree, "toy", "toy.yaml")))
        tree["sequence"] = {"pack_to": 150}
        report = train.train(build_recipe(tree, "toy", "toy.yaml"))
        np.testing.assert_allclose(losses(report), plain, rtol=1e-4)
        assert report["epochs"] == 3

    def test_goes_on_from_a_checkpoint(self, tree, tmp_path):
        first = losses(train.train(build_recipe(tree, "toy", "toy.yaml")))
        start = tmp_path / "start"
        (tmp_path / "run" / "model").rename(start)
        result = {"task": "see", "measure": "exact_match", "value": 0.5, "n": 8}
        record_results(start, [result], by="recipe `toy`, split `test`")
        tree["model"] = {"checkpoint": str(start)}
        tree["data"]["train"] = [{"format": "toy", "weight": 2, "license": "mit"}]
        assert losses(train.train(build_recipe(tree, "again", "again.yaml")))[0] < first[0]
        # The card tells both parts, and nothing of what the model could do before the second.
        path = tmp_path / "run" / "model" / "README.md"
        now, before = section_of(path, "Training").split("Before that, as `start`:")
        assert "Recipe `again`" in now and "| toy | 48 | 2 |" in now
        assert "Recipe `toy`" in before and "| toy | 24 | 1.0 |" in before
        assert read_facts(path.parent)["results"] == [] and licences_of(read_facts(path.parent)) == {"toy": "mit"}

    def test_evaluation_sees_samples_unchanged(self, tree, monkeypatch):
        changed = []
        monkeypatch.setattr(
            "training.data.augmentation.augment_sample", lambda one, augment: changed.append(one) or one
        )
        tree["training"] |= {"eval_strategy": "steps", "eval_steps": 4, "max_steps": 4}
        report = train.train(build_recipe(tree, "toy", "toy.yaml"))
        assert len(changed) == 24, "each training sample once, no validation sample"
        assert any("eval_loss" in entry for entry in report["log"])

    def test_answers_are_judged_during_training(self, tree, tmp_path):
        """The metrics of the validation samples stand in the log at each evaluation, choose the best checkpoint, and change nothing."""
        plain = losses(train.train(build_recipe(tree, "toy", "toy.yaml")))
        tree["training"] |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "save_total_limit": 1}
        tree["training"] |= {"metric_for_best_model": "eval_read_exact_match", "output_dir": str(tmp_path / "again")}
        report = train.train(build_recipe(tree, "toy", "toy.yaml"))
        assert losses(report) == plain
        for task in ("see", "hear", "read"):
            measured = [
                entry[f"eval_{task}_exact_match"] for entry in report["log"] if f"eval_{task}_exact_match" in entry
            ]
            assert len(measured) == 3 and all(0 <= value <= 1 for value in measured)
        state = json.loads(next((tmp_path / "again").glob("checkpoint-*/trainer_state.json")).read_text())
        assert state["best_metric"] in measured
        assert Image.open(tmp_path / "again" / "loss.png").height > Image.open(tmp_path / "run" / "loss.png").height

    def test_random_state_outside_does_not_matter(self, tree):
        tree["training"]["resume_from_checkpoint"] = False
        torch.manual_seed(1)
        first = losses(train.train(build_recipe(tree, "toy", "toy.yaml")))
        torch.manual_seed(2)
        assert losses(train.train(build_recipe(tree, "toy", "toy.yaml"))) == first


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
