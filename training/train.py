r"""Train a model as a recipe says, with Hugging Face's Trainer, and save it as one complete folder.

    python -m training.train configuration/recipes/fsdd.yaml data.root=../shared/data training.seed=1

leaves in the recipe's output_dir: model/ (loads with AutoModel anywhere), loss.png and training.json.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path


if __package__ in (None, ""):  # run as a file: imports start at the checkout, not in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from transformers import ProgressCallback, Trainer, set_seed

from modeling_mmgpt import MMGPTCollator, save_checkpoint
from training.data.augmentation import AugmentingCollator
from training.data.mixture import load_mixture
from training.model_building import build_model_and_processor
from training.recipe import AugmentationArguments, Recipe, RecipeError, format_recipe, load_recipe


class AugmentingTrainer(Trainer):
    """Trainer that changes the training samples at random and leaves those it evaluates on as they are."""

    def __init__(self, *, augment: AugmentationArguments, **kwargs):
        super().__init__(**kwargs)
        self.augment = augment

    def get_train_dataloader(self):
        plain = self.data_collator
        self.data_collator = AugmentingCollator(plain, self.augment)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain


class LossProgress(ProgressCallback):
    """The library's bar with its time left, and the last losses beside it instead of a line for each."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            losses = {key: f"{float(logs[key]):.3f}" for key in ("loss", "eval_loss") if key in logs}
            self.training_bar.set_postfix(losses)


def train(recipe: Recipe) -> dict:
    """Run the recipe; returns what is also written to training.json."""
    set_seed(recipe.training.seed)
    rows = load_mixture(recipe.data.train, recipe.data.root)
    validation = None
    if recipe.training.eval_strategy != "no":
        validation = load_mixture(recipe.data.validation, recipe.data.root)
    model, processor = build_model_and_processor(recipe, rows)
    trainer = AugmentingTrainer(
        augment=recipe.augment,
        model=model,
        args=recipe.training,
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=MMGPTCollator(processor),
        processing_class=processor,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossProgress)

    started = time.monotonic()
    trainer.train(resume_from_checkpoint=recipe.training.resume_from_checkpoint)
    report = {
        "recipe": recipe.name,
        "train_seconds": round(time.monotonic() - started, 1),
        "parameters": model.num_parameters(),
        "samples": len(rows),
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch, 3),
        "loss": last_loss(trainer.state.log_history),
        "hardware": describe_hardware(),
        "log": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        write_outputs(Path(recipe.training.output_dir), trainer.accelerator.unwrap_model(model), processor, report)
    return report


def write_outputs(folder: Path, model, processor, report: dict) -> None:
    card = {
        "data": f"{report['samples']:,} samples, as the recipe `{report['recipe']}` mixes them.",
        "training": f"{report['steps']:,} steps in {report['train_seconds']:,.0f} s on {report['hardware']}.",
    }
    save_checkpoint(folder / "model", model, processor, card=card)
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_loss_curve(report["log"], folder / "loss.png")


def last_loss(log: list[dict]) -> float | None:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return losses[-1] if losses else None


def write_loss_curve(log: list[dict], path: Path) -> None:
    """Training loss over the steps, and the validation loss where there is one, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="step", ylabel="loss (nats per answer token)", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


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
