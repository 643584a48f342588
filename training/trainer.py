r"""The library's Trainer with what a recipe adds to it.

trainer = RecipeTrainer(recipe, model, processor, TrainingSet(recipe), checkpoint)
trainer.train()
"""

import dataclasses
import logging
import sys
import warnings
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from modeling_mmgpt import MMGPTProcessor
from training.checkpoints import begin_checkpoint, finish_checkpoint, rotate
from training.data.augmentation import AugmentingCollator
from training.data.batches import NOTES, TrainingCollator
from training.data.ledger import Ledger
from training.data.samples import LeftOut
from training.data.streaming import StreamingMixture
from training.data.training_set import TrainingSet
from training.evaluation.evaluate import evaluate_samples
from training.evaluation.metrics import find_metric
from training.recipe import Recipe, RecipeError
from training.recipe_files import write_atomically
from training.run_log import GroupLosses, LossProgress, PlainLines, memory_in_use
from training.stages import part_of, prepare_model
from training.step_checks import StepChecks, named, not_finite, total
from training.stopping import RunFailed, RunStopped, StopSignals
from training.throughput import Throughput, base_model


logger = logging.getLogger(__name__)

PLACE_IN_STREAM = "stream_{}.pt"  # of a process, in each checkpoint


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
        self.recipe_text = recipe.to_yaml()  # before the batch is shared out anew
        if data.earlier is not None:
            keep_samples_per_step(recipe.training, data.earlier.samples_per_step)
        self.parameters = model.num_parameters()  # without adapters
        self.steps_before = 0  # of the run, in the checkpoint; read now, since the run may remove it
        if checkpoint is not None:
            self.steps_before = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME))).global_step
        self.stops = StopSignals()
        self.saved, self.last_step = 0, None  # checkpoints of this process, and the step that ended last
        self.batches_of_epoch = 0  # that this process has taken
        self.learnt_tokens: torch.Tensor | int | None = None  # of the step in progress, in all processes
        context = model.config.get_text_config().max_position_embeddings
        collator = data.collator(processor)
        super().__init__(
            model=prepare_model(model, recipe.stage, recipe.peft),
            args=recipe.training,
            train_dataset=data.train_dataset(processor, context),
            eval_dataset=None if data.validation is None else data.prepare(data.validation, processor, context),
            data_collator=collator,
            processing_class=processor,
        )
        # What a stream leaves out is counted by the workers that read it, each for itself.
        self.checks = StepChecks(LeftOut() if recipe.data.streaming else data.left_out)
        augmented = {one.task: one.augment for one in recipe.data.train}
        self.augmenting = AugmentingCollator(collator, recipe.augment, recipe.training.seed, augmented)
        self.train_collator = TrainingCollator(self.augmenting, {one.task: one.strict for one in recipe.data.train})
        self.group_losses = GroupLosses()
        self.remove_callback(PrinterCallback if recipe.training.disable_tqdm else ProgressCallback)
        has_bar = sys.stderr.isatty() and not recipe.training.disable_tqdm
        self.add_callback(LossProgress if has_bar else PlainLines)
        # First of all, so that whatever else reads the log finds its numbers there.
        self.throughput = Throughput()
        self.callback_handler.callbacks.insert(0, self.throughput)

    def train(self):
        """What is left of the run. SIGTERM and SIGINT end it with its place saved."""
        self.check_weights("nothing is learnt from them")
        self.accelerator.wait_for_everyone()  # all have read what an earlier run left
        folder, args = Path(self.args.output_dir), self.args
        if self.is_world_process_zero():
            if self.checkpoint is not None:
                logger.warning("The run goes on from %s, step %d.", self.checkpoint, self.steps_before)
                if Path(self.checkpoint).parent == folder:  # the run may have died before it did so
                    rotate(Path(self.checkpoint), args.save_total_limit)
            (folder / "training.json").unlink(missing_ok=True)  # it stands for a finished run
            write_atomically(folder / "recipe.yaml", self.recipe_text)
            if self.data.earlier is None:
                samples_per_step = (
                    args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
                )
                Ledger(self.data.columns, samples_per_step).write(folder)
        watching = nullcontext() if args.torch_compile else self.group_losses.watching(base_model(self.model))
        with closing(self.data), self.stops, watching:
            return super().train(resume_from_checkpoint=self.checkpoint)

    # ---- batches and steps

    def get_train_dataloader(self):
        if isinstance(self.train_dataset, StreamingMixture):
            return self.stream_loader()
        plain, self.data_collator = self.data_collator, self.train_collator
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
            collate_fn=self.train_collator,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),  # else it draws from the one of dropout, which a checkpoint restores earlier
        )
        if self.checkpoint is not None:
            place = Path(self.checkpoint, PLACE_IN_STREAM.format(self.args.process_index))
            loader.load_state_dict(torch.load(place, weights_only=True))
        return loader

    def _run_epoch(self, model, *args, steps_trained_in_current_epoch: int, epoch: int, epochs_trained: int, **kwargs):
        """A run whose last step is in the checkpoint takes none: the library would take one more before it looks."""
        self.augmenting.epoch = int(self.state.epoch)
        self.batches_of_epoch = steps_trained_in_current_epoch if epoch == epochs_trained else 0
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        places = {"steps_trained_in_current_epoch": steps_trained_in_current_epoch, "epochs_trained": epochs_trained}
        super()._run_epoch(model, *args, epoch=epoch, **places, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Several processes fill the last batches of an epoch with samples from its beginning: these are not learnt from twice."""
        batches, learnt_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.world_size > 1 and not isinstance(self.train_dataset, StreamingMixture):
            size, processes = self._train_batch_size, self.args.world_size
            for number, batch in enumerate(batches, start=self.batches_of_epoch):
                first = (number * processes + self.args.process_index) * size  # its place in the epoch
                again = [first + row >= len(self.train_dataset) for row in batch[NOTES].rows]
                batch["labels"][: len(again)][torch.tensor(again, dtype=torch.bool)] = -100
            learnt_tokens = self._get_num_items_in_batch(batches, device)
        self.batches_of_epoch += len(batches)
        return batches, learnt_tokens

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Nothing here reads logits, since metrics are of generated answers, nor goes on from a cache."""
        return super().compute_loss(model, {**inputs, "skip_logits": True, "use_cache": False}, *args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        notes = inputs.pop(NOTES)
        self.learnt_tokens = num_items_in_batch
        if num_items_in_batch is not None:  # a step without any has a loss of 0, and is checked
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.checks.add(loss, notes)
        self.group_losses.add(notes)
        self.throughput.add("samples", len(notes.names))
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The library asks once a step, before the optimizer: the device is waited for here, so that losses can be read too."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scales_loss = self.accelerator.scaler is not None
        step = self.state.global_step + 1
        self.checks.check(step, norm, self.learnt_tokens, self.model, self.args.device, scales_loss)
        return norm

    def check_weights(self, what: str) -> None:
        """Refuses weights that are not finite; `what` is not done with them."""
        bad = not_finite(self.model)
        if total(bool(bad), self.args.device):
            where = named(bad) if bad else "those of another process"
            raise RunFailed(
                f"step {self.state.global_step}: weights are NaN or infinite ({where}), so that {what}. Earlier checkpoints are as they "
                "were: lower training.learning_rate or training.max_grad_norm and go on from one of them."
            )

    def log(self, logs, start_time=None):
        if "loss" in logs:
            left_out = self.checks.count_left_out(self.args.device)
            logs |= self.group_losses.take() | {"memory_gb": round(memory_in_use(), 3), "left_out": left_out}
        super().log(logs, start_time)

    # ---- checkpoints and the end

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs):
        """Called after each step and at the end of each epoch: where the run saves and stops if a signal came."""
        saved_before, is_step_end = self.saved, self.last_step != self.state.global_step
        self.last_step = self.state.global_step
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if not total(self.stops.received is not None, self.args.device):
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

    def _save_checkpoint(self, model, trial):
        """The library's checkpoint, then the place in the stream, a manifest of all of it, and only then the removal of older ones."""
        folder, step = Path(self.args.output_dir), self.state.global_step
        checkpoint = folder / f"checkpoint-{step}"
        self.check_weights(f"{checkpoint.name} is not written")
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
            rotate(checkpoint, limit)
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


def keep_samples_per_step(args: TrainingArguments, wanted: int) -> None:
    """Shares out the samples of a step among another number of processes than the run began with."""
    share, rest = divmod(wanted, args.world_size)
    if rest or not share:
        raise RecipeError(
            f"the run takes {wanted} samples a step, which {args.world_size} processes cannot share equally: start another number."
        )
    size = next(size for size in range(min(args.per_device_train_batch_size, share), 0, -1) if share % size == 0)
    if (size, share // size) != (args.per_device_train_batch_size, args.gradient_accumulation_steps):
        logger.warning(
            "%d samples a step, as when the run began: %d at a time, %d times, in each of %d processes.",
            wanted,
            size,
            share // size,
            args.world_size,
        )
        args.per_device_train_batch_size, args.gradient_accumulation_steps = size, share // size
