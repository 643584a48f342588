"""Runs that end before their last step: with NaN, with a signal; and how the process says so."""

import re

import pytest
import torch

from tests.toy_training import TOY_DATA, toy_tree
from training import train
from training.data.formats import OWN_DATA
from training.recipe import build_recipe
from training.stopping import RunFailed
from training.trainer import RecipeTrainer


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


def spoil(monkeypatch, spoilt: str, step: int, value: float) -> None:
    """From the given step on, the loss or one gradient is `value`, or the optimizer leaves it in one weight."""
    if spoilt == "loss":
        plain = RecipeTrainer.compute_loss

        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = plain(self, model, inputs, *args, **kwargs)
            return loss * value if self.state.global_step + 1 == step else loss

        monkeypatch.setattr(RecipeTrainer, "compute_loss", compute_loss)
        return

    plain_step = RecipeTrainer.training_step

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = plain_step(self, model, inputs, num_items_in_batch)
        weight = model.get_input_embeddings().weight
        if self.state.global_step + 1 == step:
            if spoilt == "gradients":
                weight.grad[3, 3] = value
            else:
                self.optimizer.optimizer.register_step_post_hook(lambda *_: weight.data.__setitem__((3, 3), value))
        return loss

    monkeypatch.setattr(RecipeTrainer, "training_step", training_step)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestRunsThatGoWrong:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("spoilt", ["loss", "gradients"])
    def test_stop_at_the_step_and_name_its_samples(self, tree, tmp_path, monkeypatch, spoilt, value):
        tree["training"] |= {
            "save_strategy": "steps",
            "save_steps": 1,
            "gradient_accumulation_steps": 2,
            "max_steps": 2,
        }
        tree["training"]["per_device_train_batch_size"] = 3
        spoil(monkeypatch, spoilt, 2, value)
        with pytest.raises(RunFailed, match=f"^step 2, process 0: the {spoilt}") as failure:
            train.train(build_recipe(tree, "toy", "toy.yaml"))
        assert len(re.findall(r"\d \((see|hear|read)\)", str(failure.value))) == 6
        assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
        assert not (tmp_path / "run" / "model").exists()

    def test_weights_that_are_not_finite_are_not_saved(self, tree, tmp_path, monkeypatch):
        tree["training"] |= {"save_strategy": "steps", "save_steps": 1}
        spoil(monkeypatch, "weights", 2, float("inf"))
        with pytest.raises(RunFailed, match=r"step 2: weights .*embed_tokens.*checkpoint-2 is not written"):
            train.train(build_recipe(tree, "toy", "toy.yaml"))
        assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]

    def test_a_finished_model_is_checked_before_it_is_written(self, tree, tmp_path, monkeypatch):
        spoil(monkeypatch, "weights", 3, float("nan"))
        with pytest.raises(RunFailed, match="model/ is not written"):
            train.train(build_recipe(tree, "toy", "toy.yaml"))
        assert not (tmp_path / "run" / "model").exists()

    def test_blocks_are_named_by_their_places(self, tree, monkeypatch):
        tree |= {"stage": "pretrain", "sequence": {"pack_to": 16}}
        tree["data"] = {"train": [{"format": "toy_texts"}]}
        spoil(monkeypatch, "loss", 1, float("nan"))
        with pytest.raises(RunFailed, match=r"samples of the batch: block \d+, block"):
            train.train(build_recipe(tree, "toy", "toy.yaml"))

    def test_packs_are_named_by_their_samples(self, tree, monkeypatch):
        tree["sequence"] = {"pack_to": 150}
        spoil(monkeypatch, "loss", 1, float("nan"))
        with pytest.raises(RunFailed, match=r"\d \((see|hear|read)\), .* and \d+ more|\d \((see|hear|read)\), "):
            train.train(build_recipe(tree, "toy", "toy.yaml"))

    def test_a_batch_without_a_label(self, tree, monkeypatch):
        plain = train.TrainingSet.collator

        def collator(self, processor):
            collate = plain(self, processor)
            return lambda samples: {**(batch := collate(samples)), "labels": torch.full_like(batch["labels"], -100)}

        monkeypatch.setattr(train.TrainingSet, "collator", collator)
        tree["training"]["eval_strategy"] = "no"
        with pytest.raises(RunFailed, match="no token of the batch has a label"):
            train.train(build_recipe(tree, "toy", "toy.yaml"))

    def test_the_process_says_so(self, tree, monkeypatch, capsys):
        spoil(monkeypatch, "loss", 1, float("nan"))
        with pytest.raises(SystemExit) as end:
            train.train_and_exit(build_recipe(tree, "toy", "toy.yaml"))
        assert str(end.value.code).startswith("The run went wrong: step 1")  # printed by Python, which exits with 1
