"""The Trainer of a recipe: its losses, its learning rates, what it measures on the way, and where it stops because something went wrong."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import make_model, make_processor
from tests.toy_training import TOY_DATA, losses, toy_tree, train_toy
from training.data.formats import OWN_DATA
from training.data.training_set import TrainingSet
from training.recipe import RecipeError, build_recipe
from training.stages import part_of
from training.stopping import RunFailed
from training.trainer import RecipeTrainer, split_learning_rates


pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


class TestLosses:
    def test_accumulated_batches_are_one_batch(self, tree):
        tree["training"] |= {"max_steps": 2, "per_device_train_batch_size": 12}
        whole = losses(train_toy(tree))
        tree["training"] |= {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}
        np.testing.assert_allclose(losses(train_toy(tree)), whole, rtol=1e-4)

    def test_packed_batches_are_the_same_training(self, tree):
        """All samples in each step, packed or not: the losses are the same, step after step."""
        tree["training"]["per_device_train_batch_size"] = 24
        plain = losses(train_toy(tree))
        tree["sequence"] = {"pack_to": 150}
        report = train_toy(tree)
        np.testing.assert_allclose(losses(report), plain, rtol=1e-4)
        assert report["epochs"] == 3


class TestLearningRates:
    def trainer(self, tree: dict, tokenizer) -> RecipeTrainer:
        recipe = build_recipe(tree, "toy", "toy.yaml")
        model = make_model()
        return RecipeTrainer(recipe, model, make_processor(model.config, tokenizer), TrainingSet(recipe))

    def test_every_parameter_has_its_rate_and_its_decay(self, tree, tokenizer):
        tree["learning_rates"] = {"vision_tower": 1e-5, "connectors": 5e-3}
        tree["training"] |= {"learning_rate": 1e-3, "weight_decay": 0.1, "lr_scheduler_type": "constant"}
        trainer = self.trainer(tree, tokenizer)
        optimizer = trainer.create_optimizer()
        rates = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
        expected = {"vision_tower": 1e-5, "connectors": 5e-3, "audio_tower": 1e-3, "decoder": 1e-3}
        decayed = trainer.get_decay_parameter_names(trainer.model)
        for name, parameter in trainer.model.named_parameters():
            assert rates[parameter] == (expected[part_of(name)], 0.1 if name in decayed else 0.0)

    def test_the_rates_are_used(self, tree, tokenizer):
        tree["learning_rates"] = {"vision_tower": 0.0, "audio_tower": 0.0, "decoder": 0.0}
        trainer = self.trainer(tree, tokenizer)
        before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        trainer.train()
        after = dict(trainer.model.named_parameters())
        assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == {"connectors"}

    def test_a_rate_for_what_is_not_there(self):
        model = make_model(audio=None)
        with pytest.raises(RecipeError, match="this run trains only: connectors, decoder, vision_tower"):
            split_learning_rates(torch.optim.AdamW(model.parameters()), model, {"audio_tower": 1e-5})


class TestEvaluation:
    def test_evaluation_sees_samples_unchanged(self, tree, monkeypatch):
        changed = []
        monkeypatch.setattr(
            "training.data.augmentation.augment_sample", lambda one, augment: changed.append(one) or one
        )
        tree["training"] |= {"eval_strategy": "steps", "eval_steps": 4, "max_steps": 4}
        report = train_toy(tree)
        assert len(changed) == 24, "each training sample once, no validation sample"
        assert any("eval_loss" in entry for entry in report["log"])

    def test_answers_are_judged_during_training(self, tree, tmp_path):
        """The metrics of the validation samples stand in the log at each evaluation, choose the best checkpoint, and change nothing."""
        plain = losses(train_toy(tree))
        tree["training"] |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "save_total_limit": 1}
        tree["training"] |= {"metric_for_best_model": "eval_read_exact_match", "output_dir": str(tmp_path / "again")}
        report = train_toy(tree)
        assert losses(report) == plain
        for task in ("see", "hear", "read"):
            measured = [
                entry[f"eval_{task}_exact_match"] for entry in report["log"] if f"eval_{task}_exact_match" in entry
            ]
            assert len(measured) == 3 and all(0 <= value <= 1 for value in measured)
        state = json.loads(next((tmp_path / "again").glob("checkpoint-*/trainer_state.json")).read_text())
        assert state["best_metric"] in measured
        assert Image.open(tmp_path / "again" / "loss.png").height > Image.open(tmp_path / "run" / "loss.png").height


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
            train_toy(tree)
        assert len(re.findall(r"\d \((see|hear|read)\)", str(failure.value))) == 6
        assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
        assert not (tmp_path / "run" / "model").exists()

    def test_weights_that_are_not_finite_are_not_saved(self, tree, tmp_path, monkeypatch):
        tree["training"] |= {"save_strategy": "steps", "save_steps": 1}
        spoil(monkeypatch, "weights", 2, float("inf"))
        with pytest.raises(RunFailed, match=r"step 2: weights .*embed_tokens.*checkpoint-2 is not written"):
            train_toy(tree)
        assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]

    def test_a_finished_model_is_checked_before_it_is_written(self, tree, tmp_path, monkeypatch):
        spoil(monkeypatch, "weights", 3, float("nan"))
        with pytest.raises(RunFailed, match="model/ is not written"):
            train_toy(tree)
        assert not (tmp_path / "run" / "model").exists()

    def test_blocks_are_named_by_their_texts(self, tree, monkeypatch):
        tree |= {"stage": "pretrain", "sequence": {"pack_to": 16}}
        tree["data"] = {"train": [{"format": "toy_texts"}]}
        spoil(monkeypatch, "loss", 1, float("nan"))
        with pytest.raises(RunFailed, match=r"samples of the batch: (\d+ to )?\d+, "):
            train_toy(tree)

    def test_packs_are_named_by_their_samples(self, tree, monkeypatch):
        tree["sequence"] = {"pack_to": 150}
        spoil(monkeypatch, "loss", 1, float("nan"))
        with pytest.raises(RunFailed, match=r"\d \((see|hear|read)\), .* and \d+ more|\d \((see|hear|read)\), "):
            train_toy(tree)

    def test_a_batch_without_a_label(self, tree, monkeypatch):
        plain = TrainingSet.collator

        def collator(self, processor):
            collate = plain(self, processor)
            return lambda samples: {**(batch := collate(samples)), "labels": torch.full_like(batch["labels"], -100)}

        monkeypatch.setattr(TrainingSet, "collator", collator)
        tree["training"]["eval_strategy"] = "no"
        with pytest.raises(RunFailed, match="no token of the batch has a label"):
            train_toy(tree)
