r"""Train a model as a recipe says, with Hugging Face's Trainer, and save it as one complete folder.

    python -m training.train configuration/recipes/fsdd.yaml data.root=../shared/data training.seed=1

leaves in the recipe's output_dir: model/ (loads with AutoModel anywhere), loss.png, training.json and recipe.yaml (the recipe
with its overrides); with peft also adapter/. Where the recipe saves checkpoints (training.save_strategy), a run that was
interrupted goes on when the same command is given again.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, set_seed

from modeling_mmgpt import (
    MMGPTBlockCollator,
    MMGPTCollator,
    MMGPTPackingCollator,
    PackedDataset,
    count_tokens,
    save_checkpoint,
)
from modeling_mmgpt.tools.model_card import licences_of, read_facts, training_text
from training.data.augmentation import AugmentingCollator
from training.data.mixture import augmentations, describe_mixture, load_mixture
from training.data.numbering import NumberedSamples, SeededCollator
from training.data.streaming import StreamingMixture, stream_packs
from training.data.text_blocks import make_blocks, stream_blocks
from training.evaluation.evaluate import evaluate_samples
from training.evaluation.metrics import find_metric
from training.model_building import build_model_and_processor
from training.recipe import EvaluationArguments, Recipe, RecipeError, format_recipe, load_recipe
from training.resuming import (
    EpochOfCollator,
    PlaceInStream,
    checkpoint_to_resume,
    place_in_stream,
    steps_of,
    write_recipe,
)
from training.stages import merge_adapter, prepare_model, split_learning_rates
from training.throughput import Throughput
from training.train_tokenizer import load_rows


ROWS_AT_ONCE = 64  # while their tokens are counted for packing


class RecipeTrainer(Trainer):
    """Trainer with a learning rate for each part of the model, and random changes to the samples it trains on alone."""

    def __init__(self, *, recipe: Recipe, own_changes: dict | None = None, checkpoint: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.checkpoint = checkpoint
        self.learning_rates = recipe.learning_rates.given()
        augmenting = AugmentingCollator(self.data_collator, recipe.augment, own_changes)
        self.train_collator = SeededCollator(augmenting, recipe.training.seed)
        self.add_callback(EpochOfCollator(self.train_collator))

    def get_train_dataloader(self):
        if isinstance(self.train_dataset, StreamingMixture):
            return self.stream_loader()
        plain = self.data_collator
        self.data_collator = self.train_collator
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
            generator=torch.Generator(),  # else it draws from the one of dropout, which a checkpoint puts back before
        )
        if self.checkpoint is not None:
            place = place_in_stream(Path(self.checkpoint), self.args.process_index)
            loader.load_state_dict(torch.load(place, weights_only=True))
        return loader

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Nothing here reads logits, since metrics are of generated answers (AnswerMetrics), nor goes on from a cache."""
        return super().compute_loss(model, {**inputs, "skip_logits": True, "use_cache": False}, *args, **kwargs)

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        if self.learning_rates:
            split_learning_rates(optimizer, model or self.model, self.learning_rates)
        return optimizer


class AnswerMetrics(TrainerCallback):
    """At each evaluation: what the model answers to the validation rows, judged by their metrics, beside the loss in the log.

    Every process answers all rows: where the weights lie in pieces, none can do it alone."""

    def __init__(self, trainer: Trainer, rows, arguments: EvaluationArguments):
        self.trainer, self.rows = trainer, rows
        self.arguments = dataclasses.replace(arguments, baselines=False)

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        tasks = evaluate_samples(model, self.trainer.processing_class, self.rows, self.arguments)["tasks"]
        measures = {task: find_metric(scores["metric"]).measure for task, scores in tasks.items()}
        measured = {f"eval_{task}_{measure}": tasks[task][measure] for task, measure in measures.items()}
        metrics.update(measured)  # where `metric_for_best_model` looks
        self.trainer.log(measured)


class LossProgress(ProgressCallback):
    """The library's bar with its time left, and the last losses beside it instead of a line for each."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            losses = {key: f"{float(logs[key]):.3f}" for key in ("loss", "eval_loss") if key in logs}
            self.training_bar.set_postfix(losses)


def train(recipe: Recipe) -> dict:
    """Run the recipe, or what is left of it; returns what is also written to training.json."""
    checkpoint = checkpoint_to_resume(recipe)
    steps_before = 0 if checkpoint is None else steps_of(checkpoint)  # later the run may remove it
    set_seed(recipe.training.seed)
    rows, rows_of_sources = load_rows(recipe)
    validation = None
    if recipe.training.eval_strategy != "no":
        validation = load_mixture(recipe.data.validation, recipe.data.root)
    model, processor = build_model_and_processor(recipe, rows)
    text_config, parameters = model.config.get_text_config(), model.num_parameters()
    model = prepare_model(model, recipe)
    trainer = RecipeTrainer(
        recipe=recipe,
        own_changes=augmentations(recipe, None if recipe.data.streaming else rows),
        model=model,
        args=recipe.training,
        checkpoint=checkpoint,
        train_dataset=rows_to_train_on(rows, recipe, processor, text_config),
        eval_dataset=None if validation is None else prepare_rows(validation, recipe, processor, text_config),
        data_collator=make_collator(recipe, processor),
        processing_class=processor,
    )
    if not recipe.training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossProgress)
    if validation is not None and recipe.stage != "pretrain":
        trainer.add_callback(AnswerMetrics(trainer, validation, recipe.eval))
    if recipe.data.streaming:
        trainer.add_callback(PlaceInStream)
    # First of all, so that whatever else reads the log finds its numbers there.
    throughput = Throughput()
    trainer.callback_handler.callbacks.insert(0, throughput)
    if trainer.is_world_process_zero():
        write_recipe(recipe, Path(recipe.training.output_dir) / "recipe.yaml")

    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        if recipe.data.streaming:
            trainer.train_dataset.close()
    report = {
        "recipe": recipe.name,
        "train_seconds": round(time.monotonic() - started, 1),
        "parameters": parameters,
        "trained_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "samples": None if recipe.data.streaming else len(rows),
        "mixture": describe_mixture(recipe.data.train, rows_of_sources),
        "steps": trainer.state.global_step,
        "steps_before": steps_before,
        "tokens": int(throughput.tokens),
        "epochs": None if recipe.data.streaming else round(trainer.state.epoch, 3),
        "loss": last_loss(trainer.state.log_history),
        "hardware": describe_hardware(),
        "log": trainer.state.log_history,
    }
    save(trainer, recipe, report)
    return report


def rows_to_train_on(rows, recipe: Recipe, processor, text_config):
    if not recipe.data.streaming:
        return NumberedSamples(prepare_rows(rows, recipe, processor, text_config))
    finish, budget = None, recipe.sequence.pack_to
    if recipe.stage == "pretrain":
        length = budget or text_config.max_position_embeddings
        finish = partial(stream_blocks, tokenizer=processor.tokenizer, length=length)
    elif budget is not None:
        collator = MMGPTCollator(processor, max_length=recipe.sequence.max_length)
        finish = partial(stream_packs, collator=collator, pack_to=budget)
    arguments = recipe.training
    return StreamingMixture(
        recipe.data.train,
        recipe.data.root,
        seed=arguments.seed,
        shuffle_buffer=recipe.data.shuffle_buffer,
        rank=arguments.process_index,
        world_size=arguments.world_size,
        finish=finish,
    )


def make_collator(recipe: Recipe, processor):
    if recipe.stage == "pretrain":
        return MMGPTBlockCollator()
    longest, budget = recipe.sequence.max_length, recipe.sequence.pack_to
    if budget is None:
        return MMGPTCollator(processor, max_length=longest)
    return MMGPTPackingCollator(processor, max_length=longest, pack_to=budget)


def prepare_rows(rows, recipe: Recipe, processor, text_config):
    """The rows as the stage wants them: conversations as they are, in packs, or their texts in blocks."""
    budget = recipe.sequence.pack_to
    if recipe.stage == "pretrain":
        return make_blocks(rows, processor.tokenizer, budget or text_config.max_position_embeddings)
    if budget is None:
        return rows
    collator = MMGPTCollator(processor, max_length=recipe.sequence.max_length)
    lengths = []
    for start in tqdm(range(0, len(rows), ROWS_AT_ONCE), desc="tokens of each row"):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        lengths += count_tokens(collator, [rows[index] for index in range(start, stop)])
    in_order = recipe.training.train_sampling_strategy == "sequential"
    return PackedDataset(rows, lengths, budget, seed=None if in_order else 0)


def save(trainer: RecipeTrainer, recipe: Recipe, report: dict) -> None:
    """Every process takes part where the weights lie in pieces; the first one writes."""
    in_pieces = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped) if in_pieces else None
    if not trainer.is_world_process_zero():
        return
    folder = Path(recipe.training.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model)
    card = card_of_run(recipe, report)
    if recipe.peft is not None:
        save_checkpoint(folder / "adapter", model, trainer.processing_class, card=card, state_dict=state_dict)
        model, state_dict = merge_adapter(recipe.model.checkpoint, folder / "adapter"), None
    save_checkpoint(folder / "model", model, trainer.processing_class, card=card, state_dict=state_dict)
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_curves(report["log"], folder / "loss.png")


def card_of_run(recipe: Recipe, report: dict) -> dict:
    """The facts of the model card that a run knows. Of the model that it went on from, the card tells how that was trained; what
    was measured of that one is no longer true."""
    steps, before = report["steps"], report["steps_before"]
    part = f"the last {steps - before:,} of them " if before else ""
    told = (
        f"Recipe `{report['recipe']}`, stage `{recipe.stage}`: {steps:,} steps, {part}with {report['tokens']:,} tokens in "
        f"{report['train_seconds']:,.0f} s."
    )
    facts = {
        "training": told,
        "hardware": report["hardware"],
        "mixture": report["mixture"],
        "datasets": sorted({source.dataset for source in recipe.data.train if source.dataset}) or None,
        "results": [],
        "bias": [],
    }
    return facts if recipe.model.checkpoint is None else facts | what_came_before(recipe.model.checkpoint)


def what_came_before(checkpoint: str) -> dict:
    is_folder = Path(checkpoint).is_dir()
    facts = {} if is_folder else {"base_model": checkpoint}
    earlier = read_facts(checkpoint)
    if not earlier:
        return facts
    name = Path(checkpoint).name if is_folder else checkpoint
    licences = {name: earlier["license"]} if earlier.get("license") else {}
    history = f"Before that, as `{name}`:\n\n{training_text(earlier)}"
    return facts | {
        "licences": licences | licences_of(earlier),
        "history": history,
        "data": None,
    }  # `history` tells of the data


def last_loss(log: list[dict]) -> float | None:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return losses[-1] if losses else None


def write_curves(log: list[dict], path: Path) -> None:
    """Training loss over the steps, and the validation loss where there is one, on a logarithmic scale; below it the metrics of
    the validation data, where there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    timings = (
        "eval_loss",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "eval_num_input_tokens_seen",
    )
    metrics = sorted({key for entry in log for key in entry if key.startswith("eval_")} - set(timings))
    panels = 2 if metrics else 1
    figure, grid = pyplot.subplots(panels, figsize=(7, 4 * panels), layout="constrained", squeeze=False)
    top, bottom = grid[0, 0], grid[-1, 0]
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        draw_curve(top, log, key, label)
    top.set(xlabel="step", ylabel="loss (nats per answer token)", yscale="log")
    for key in metrics:
        draw_curve(bottom, log, key, key.removeprefix("eval_"))
    if metrics:
        bottom.set(xlabel="step", ylabel="validation metrics")
    for axes in grid[:, 0]:
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_curve(axes, log: list[dict], key: str, label: str) -> None:
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=label)


def describe_hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example training.max_steps=100")
    parser.add_argument("--print-config", action="store_true", help="print the recipe with all its defaults and stop")
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
    except (RecipeError, FileNotFoundError) as error:
        parser.error(str(error))
    if arguments.print_config:
        print(format_recipe(recipe), end="")
        return
    report = train(recipe)
    print(
        f"{report['parameters']:,} parameters, {report['steps']} steps in {report['train_seconds']:.0f} s on "
        f"{report['hardware']}; saved in {recipe.training.output_dir}/model"
    )


if __name__ == "__main__":
    main()
