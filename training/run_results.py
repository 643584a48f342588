r"""What a run leaves in its output_dir: the model with its card, the adapter, training.json, the curves of the losses."""

import json
import os
import platform
from pathlib import Path

import torch

from modeling_mmgpt import MMGPTForConditionalGeneration, save_checkpoint
from modeling_mmgpt.tools.model_card import licences_of, read_facts, training_text
from training.recipe import Recipe
from training.recipe_files import write_atomically
from training.trainer import RecipeTrainer


# What the evaluation of a run logs beside its loss and its metrics.
TIMINGS = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_input_tokens_seen"}


def report_of(trainer: RecipeTrainer) -> dict:
    """What a finished run knows of itself."""
    data, state = trainer.data, trainer.state
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {
        "recipe": trainer.recipe.name,
        "train_seconds": round(state.log_history[-1]["train_runtime"], 3),
        "parameters": trainer.parameters,
        "steps_before": trainer.steps_before,
        "trained_parameters": sum(one.numel() for one in trainer.model.parameters() if one.requires_grad),
        "samples": None if data.samples is None else len(data.samples),
        "mixture": data.describe(),
        "steps": state.global_step,
        "tokens": int(trainer.throughput.tokens),
        "epochs": None if data.samples is None else round(state.epoch, 3),
        "loss": losses[-1] if losses else None,
        "hardware": describe_hardware(),
        "log": state.log_history,
    }


def describe_hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads"


def save_run(trainer: RecipeTrainer) -> dict:
    """Writes all of it and returns the report. Every process takes part where the weights are sharded; the first one writes."""
    recipe, report = trainer.recipe, report_of(trainer)
    trainer.check_weights("model/ is not written")
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_sharded else None
    if not trainer.is_world_process_zero():
        return report
    folder = Path(recipe.training.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model)
    card = card_of_run(recipe, report)
    if recipe.peft is not None:
        from peft import PeftModel

        save_checkpoint(folder / "adapter", model, trainer.processing_class, card=card, state_dict=state_dict)
        # From the files, not from the model in training, which may be sharded over many devices.
        base = MMGPTForConditionalGeneration.from_pretrained(recipe.model.checkpoint)
        model, state_dict = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload(), None
    save_checkpoint(folder / "model", model, trainer.processing_class, card=card, state_dict=state_dict)
    write_curves(report["log"], folder / "loss.png")
    # Last, since it stands for a finished run.
    write_atomically(folder / "training.json", json.dumps(report, indent=1) + "\n")
    return report


def card_of_run(recipe: Recipe, report: dict) -> dict:
    """The facts of the model card that a run knows. Of the model that it started from, the card tells how that was trained; what
    was measured of that one is no longer true."""
    steps, before = report["steps"], report["steps_before"]
    part = f"the last {steps - before:,} of them " if before else ""
    effort = f"{part}with {report['tokens']:,} tokens in {report['train_seconds']:,.0f} s"
    if steps == before:  # only the model was left to be saved
        effort = "the last of them before the run was taken up again to save the model"
    told = f"Recipe `{report['recipe']}`, stage `{recipe.stage}`: {steps:,} steps, {effort}."
    facts = {
        "training": told,
        "hardware": report["hardware"],
        "mixture": report["mixture"],
        "datasets": sorted({source.dataset for source in recipe.data.train if source.dataset}) or None,
        "results": [],
        "calibration": [],
        "bias": [],
    }
    return facts if recipe.model.checkpoint is None else facts | facts_of_origin(recipe.model.checkpoint)


def facts_of_origin(checkpoint: str) -> dict:
    """What the card tells of the model that the run started from: how it was trained, and the licences of what it is made of."""
    is_folder = Path(checkpoint).is_dir()
    facts = {} if is_folder else {"base_model": checkpoint}
    earlier = read_facts(checkpoint)
    if not earlier:
        return facts
    name = Path(checkpoint).name if is_folder else checkpoint
    licences = {name: earlier["license"]} if earlier.get("license") else {}
    return facts | {
        "licences": licences | licences_of(earlier),
        "history": f"Before that, as `{name}`:\n\n{training_text(earlier)}",
        "data": None,  # `history` tells of the data
    }


def write_curves(log: list[dict], path: Path) -> None:
    """Training loss over the steps, and the validation loss where there is one, on a logarithmic scale; below it the metrics of
    the validation data, where there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    evaluated = {key for entry in log for key in entry if key.startswith("eval_")}
    metrics = sorted(evaluated - TIMINGS - {"eval_loss"})
    panels = 2 if metrics else 1
    figure, grid = pyplot.subplots(panels, figsize=(7, 4 * panels), layout="constrained", squeeze=False)
    top, bottom = grid[0, 0], grid[-1, 0]
    curves = [(top, "loss", "training"), (top, "eval_loss", "validation")]
    curves += [(bottom, key, key.removeprefix("eval_")) for key in metrics]
    for axes, key, label in curves:
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    top.set(xlabel="step", ylabel="loss (nats per answer token)", yscale="log")
    if metrics:
        bottom.set(xlabel="step", ylabel="validation metrics")
    for axes in grid[:, 0]:
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
