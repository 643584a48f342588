r"""The library's Trainer with what a recipe adds to it.

trainer = RecipeTrainer(recipe, model, processor, TrainingSet(recipe), checkpoint)
trainer.train()
"""

import dataclasses
import logging
import math
import warnings
from contextlib import closing
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from modeling_mmgpt import MMGPTProcessor
from modeling_mmgpt.tools.packing import open_packs
from training.checkpoints import begin_checkpoint, finish_checkpoint, rotate
from training.data.augmentation import AugmentingCollator
from training.data.streaming import StreamingMixture
from training.data.training_set import TrainingSet
from training.evaluation.evaluate import evaluate_samples
from training.evaluation.metrics import find_metric
from training.recipe import Recipe, RecipeError
from training.stages import part_of, prepare_model
from training.stopping import RunFailed, RunStopped, StopSignals
from training.throughput import Throughput


logger = logging.getLogger(__name__)

PLACE_IN_STREAM = "stream_{}.pt"  # of a process, in each checkpoint
SAMPLE_NAMES = "sample_names"  # beside the tensors of a batch, until the step takes them
NAMED_AT_MOST = 20  # samples in an error


class RecipeTrainer(Trainer):
    """Trainer of a recipe: each part of the model with its learning rate or frozen, samples changed at random in training alone,
    answers judged at each evaluation, and a run that stops where it goes wrong or is asked to.

    model (`PreTrainedModel`): all of it trainable; what the recipe's stage and `peft` say is done here.
    checkpoint (`str`, *optional*): where the run goes on; of a stream it holds the place."""

    def __init__(
        self,
        recipe: Recipe,
        model: PreTrainedModel,
        processor: MMGPTProcessor,
        data: TrainingSet,
        checkpoint: str | None = None,
    ):
        self.recipe, self.data, self.checkpoint = recipe, data, checkpoint
        self.parameters = model.num_parameters()  # without adapters
        self.steps_before = 0  # of the run, in the checkpoint; read now, since the run may remove it
        if checkpoint is not None:
            self.steps_before = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME))).global_step
        self.stops = StopSignals()
        self.saved, self.last_step = 0, None  # checkpoints of this process, and the step that ended last
        self.micro_batches: list[tuple[torch.Tensor, list[str]]] = []  # of the step in progress: loss and samples
        self.learnt_tokens: torch.Tensor | int | None = None  # of that step, in all processes
        by_task = {one.task: one.augment for one in recipe.data.train}
        collator = data.collator(processor)
        self.train_collator = AugmentingCollator(collator, recipe.augment, recipe.training.seed, by_task)
        context = model.config.get_text_config().max_position_embeddings
        super().__init__(
            model=prepare_model(model, recipe.stage, recipe.peft),
            args=recipe.training,
            train_dataset=data.train_dataset(processor, context),
            eval_dataset=None if data.validation is None else data.prepare(data.validation, processor, context),
            data_collator=collator,
            processing_class=processor,
        )
        if not recipe.training.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(LossProgress)
        # First of all, so that whatever else reads the log finds its numbers there.
        self.throughput = Throughput()
        self.callback_handler.callbacks.insert(0, self.throughput)

    def train(self):
        """What is left of the run. SIGTERM and SIGINT end it with its place saved."""
        self.accelerator.wait_for_everyone()  # all have read what an earlier run left
        if self.is_world_process_zero():
            if self.checkpoint is not None:
                logger.warning("The run goes on from %s, step %d.", self.checkpoint, self.steps_before)
            Path(self.args.output_dir, "training.json").unlink(missing_ok=True)  # it stands for a finished run
            self.recipe.write(Path(self.args.output_dir, "recipe.yaml"))
        with closing(self.data), self.stops:
            return super().train(resume_from_checkpoint=self.checkpoint)

    def get_train_dataloader(self):
        if isinstance(self.train_dataset, StreamingMixture):
            return self.stream_loader()
        plain = self.data_collator
        self.data_collator = NamingCollator(self.train_collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def stream_loader(self):
        """It knows its place, and its data set which part of the stream belongs to this process: nothing is left to Accelerate."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 with torch 2.14
        loader = StatefulDataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=NamingCollator(self.train_collator),
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),  # else it draws from the one of dropout, which a checkpoint restores earlier
        )
        if self.checkpoint is not None:
            place = Path(self.checkpoint, PLACE_IN_STREAM.format(self.args.process_index))
            loader.load_state_dict(torch.load(place, weights_only=True))
        return loader

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Nothing here reads logits, since metrics are of generated answers (AnswerMetrics), nor goes on from a cache."""
        return super().compute_loss(model, {**inputs, "skip_logits": True, "use_cache": False}, *args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        names = inputs.pop(SAMPLE_NAMES)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.micro_batches.append((loss, names))
        self.learnt_tokens = num_items_in_batch
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The library asks once a step, before the optimizer: the device is waited for here, so that losses can be read too."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.check_step(norm)
        return norm

    def check_step(self, norm: float | torch.Tensor | None) -> None:
        """Refuses a step whose loss or gradients are not finite. Gradients that overflow in fp16 are left to the loss scaler."""
        micro_batches, self.micro_batches = self.micro_batches, []
        finite = torch.stack([loss for loss, _ in micro_batches]).isfinite().tolist()
        overflows = norm is not None and not math.isfinite(norm) and self.accelerator.scaler is None
        if all(finite) and not overflows:
            return
        names = [
            name
            for (_, batch), is_finite in zip(micro_batches, finite, strict=True)
            if not is_finite
            for name in batch
        ]
        what = "the loss is NaN or infinite"
        if self.learnt_tokens is not None and self.learnt_tokens == 0:
            what = "no token of the batch has a label, so that there is no loss"
        if all(finite):
            what = "the gradients are NaN or infinite, though the loss is finite"
            names = [name for _, batch in micro_batches for name in batch]
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        raise RunFailed(
            f"step {self.state.global_step + 1}, process {self.args.process_index}: {what}. The samples of the batch: "
            f"{', '.join(names[:NAMED_AT_MOST])}{more}. Nothing of this step was learnt, and earlier checkpoints are as they were: "
            "look at these samples, or lower training.learning_rate or training.max_grad_norm."
        )

    def check_weights(self, what: str) -> None:
        """Refuses to save weights that are not finite; `what` is to be saved."""
        weights = {
            name: one.to_local() if isinstance(one, DTensor) else one for name, one in self.model.named_parameters()
        }
        bad = [name for name, one in weights.items() if not one.isfinite().all()]
        if self.any_process(bool(bad)):
            where = f"{bad[0]} and {len(bad) - 1} more" if bad else "those of another process"
            raise RunFailed(
                f"step {self.state.global_step}: weights are NaN or infinite ({where}), so that {what} is not written. Earlier "
                "checkpoints are as they were: lower training.learning_rate or training.max_grad_norm and go on from one of them."
            )

    def _run_epoch(self, model, *args, **kwargs):
        """A run whose last step is in the checkpoint takes none: the library would take one more before it looks."""
        self.train_collator.epoch = int(self.state.epoch)
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(model, *args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs):
        """Called after each step and at the end of each epoch: where the run saves and stops if a signal came."""
        saved_before, is_step_end = self.saved, self.last_step != self.state.global_step
        self.last_step = self.state.global_step
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if not self.any_process(self.stops.received is not None):
            return
        if is_step_end and self.state.epoch % 1 == 0:
            return  # what is due at the end of the epoch comes first
        if self.saved == saved_before:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        step, steps = self.state.global_step, self.state.max_steps
        raise RunStopped(
            f"{self.stops.received or 'a signal to another process'} after step {step} of {steps}, which is saved in "
            f"{Path(self.args.output_dir, f'checkpoint-{step}')}. The same command goes on from there."
        )

    def any_process(self, flag: bool) -> bool:
        """Whether it is true in any process; each must ask."""
        if self.args.world_size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.args.device)
        torch.distributed.all_reduce(count)
        return count.item() > 0

    def _save_checkpoint(self, model, trial):
        """The library's checkpoint, then the place in the stream, a manifest of all of it, and only then the removal of older ones."""
        folder, step = Path(self.args.output_dir), self.state.global_step
        checkpoint = folder / f"checkpoint-{step}"
        self.check_weights(checkpoint.name)
        if self.is_world_process_zero():
            begin_checkpoint(checkpoint)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if isinstance(self.train_dataset, StreamingMixture):
            place = self.callback_handler.train_dataloader.state_dict()
            torch.save(place, checkpoint / PLACE_IN_STREAM.format(self.args.process_index))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            finish_checkpoint(checkpoint)
            best = self.state.best_model_checkpoint
            rotate(folder, step, limit, keep=None if best is None else Path(best).name)
        self.saved += 1

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Several processes on CPUs: transformers 5.17 asks torch to load for "cpu:0", which it does not know."""
        if checkpoint is None or self.args.device.type != "cpu" or self.args.world_size == 1:
            return super()._load_optimizer_and_scheduler(checkpoint)
        for name, state in ((OPTIMIZER_NAME, self.optimizer), (SCHEDULER_NAME, self.lr_scheduler)):
            state.load_state_dict(torch.load(Path(checkpoint, name), map_location="cpu", weights_only=True))

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        rates = self.recipe.learning_rates.given()
        if rates:
            split_learning_rates(optimizer, model or self.model, rates)
        return optimizer

    def evaluate(self, *args, **kwargs):
        """The loss, and how the model's answers to the validation samples are judged, in the log and for `metric_for_best_model`.

        Every process answers all samples: where the weights are sharded, none can do it alone."""
        metrics = super().evaluate(*args, **kwargs)
        if self.recipe.stage != "pretrain":
            limits = dataclasses.replace(self.recipe.eval, baselines=False)
            tasks = evaluate_samples(self.model, self.processing_class, self.data.validation, limits)["tasks"]
            measures = {task: find_metric(scores["metric"]).measure for task, scores in tasks.items()}
            measured = {f"eval_{task}_{measure}": tasks[task][measure] for task, measure in measures.items()}
            self.log(measured)
            metrics |= measured
        self.throughput.restart()  # its time is not training's
        return metrics


def split_learning_rates(optimizer, model: nn.Module, rates: dict[str, float]) -> None:
    """Takes the parameters of each part in `rates` out of the optimizer's groups into groups with that rate."""
    parts = {parameter: part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part in rates:
        if part not in parts.values():
            trained = ", ".join(sorted(set(parts.values())))
            raise RecipeError(f"learning_rates.{part} is set, but this run trains only: {trained}. Leave it out.")
    groups = []
    for group in optimizer.param_groups:
        by_rate: dict[float, list] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rates.get(parts.get(parameter), group["lr"]), []).append(parameter)
        groups += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    optimizer.param_groups.clear()
    for group in groups:
        optimizer.add_param_group(group)


class NamingCollator:
    """Adds to a batch what its samples are called."""

    def __init__(self, collator: AugmentingCollator):
        self.collator = collator

    def __call__(self, samples: list[dict]) -> dict:
        return {**self.collator(samples), SAMPLE_NAMES: [name_of(sample) for sample in open_packs(samples)]}


def name_of(sample: dict) -> str:
    """A sample by its id and its task, a block of several texts by its place."""
    if sample.get("id") is not None:
        return f"{sample['id']} ({sample['task']})" if sample.get("task") else str(sample["id"])
    return f"block {sample['place']}" if "place" in sample else "a block of the stream"


class LossProgress(ProgressCallback):
    """The library's progress bar with its time left, and the last losses beside it instead of a line for each."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            losses = {key: f"{float(logs[key]):.3f}" for key in ("loss", "eval_loss") if key in logs}
            self.training_bar.set_postfix(losses)
