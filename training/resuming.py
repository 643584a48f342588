r"""A run that was interrupted goes on when the same command is given again, and only when it is the same run.

Trainer's checkpoints hold everything a run needs: weights, optimizer, schedule, place in the data, random states. Two things are
added: a checkpoint that was being written when the process was killed is passed over, and output_dir/recipe.yaml tells
whether the checkpoints beside it belong to the recipe that is to be run. Where the data are streamed, each process adds its place in
the stream to the checkpoint.
"""

import json
import os
import re
from pathlib import Path

import torch
import yaml
from transformers.trainer_callback import TrainerCallback

from training.recipe import Recipe, RecipeError, recipe_tree


# What may change between two parts of one run, for it changes nothing that is learnt.
FREE_TO_CHANGE = re.compile(
    r"name|data\.root|data\.train\.\d+\.license|eval\..*|prepare\..*|data\.test.*|training\.(output_dir|resume_from_checkpoint|report_to|run_name|disable_tqdm"
    r"|logging_.*|log_.*|save_.*|use_cpu|dataloader_.*|include_.*|push_to_hub|hub_.*|project|trackio_.*)"
)


def checkpoint_to_resume(recipe: Recipe) -> str | None:
    """Where the run goes on: the checkpoint that the recipe names, or the last whole one in its output_dir.

    `training.resume_from_checkpoint`: a path is taken as it is; true (the default): the last one, or none; false: none."""
    wish = recipe.training.resume_from_checkpoint
    if isinstance(wish, str):
        if not Path(wish).is_dir():
            raise FileNotFoundError(f"training.resume_from_checkpoint={wish} does not exist.")
        return wish
    folder = Path(recipe.training.output_dir)
    last = last_checkpoint(folder, recipe.data.streaming)
    if last is None:
        return None
    if not wish:
        raise RecipeError(
            f"{folder} holds checkpoints of an earlier run ({last.name}): remove them, choose another "
            "training.output_dir, or let the run go on from them with training.resume_from_checkpoint=true."
        )
    changed = changed_keys(recipe, folder / "recipe.yaml")
    if changed:
        raise RecipeError(
            f"{folder} holds checkpoints of another run ({last.name}): it differs in {', '.join(changed)}. Remove them, choose "
            f"another training.output_dir, or name the checkpoint: training.resume_from_checkpoint={last}."
        )
    processes = len(list(last.glob("rng_state*.pth")))
    if recipe.data.streaming and processes != recipe.training.world_size:
        raise RecipeError(
            f"{last} was written by {processes} processes, each of which had its own part of the stream; "
            f"{recipe.training.world_size} cannot go on from there: start as many, or another training.output_dir."
        )
    return str(last)


def last_checkpoint(folder: Path, streaming: bool = False) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = [(int(path.name.split("-")[1]), path) for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    return next((path for _, path in sorted(found, reverse=True) if is_whole(path, streaming)), None)


def is_whole(checkpoint: Path, streaming: bool) -> bool:
    """Trainer's last file is there, trainer_state.json, and of a stream the place of each process."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    places, processes = list(checkpoint.glob("stream_*.pt")), list(checkpoint.glob("rng_state*.pth"))
    return not streaming or len(places) == len(processes)


def changed_keys(recipe: Recipe, written: Path) -> list[str]:
    """The dotted keys in which the recipe is not the one that was written when the run began."""
    before = flatten(yaml.safe_load(written.read_text(encoding="utf-8"))) if written.is_file() else {}
    now = flatten(yaml.safe_load(yaml.safe_dump(recipe_tree(recipe))))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    # Each worker has its part of a stream.
    bound = {"training.dataloader_num_workers"} if recipe.data.streaming else set()
    return [key for key in keys if key in bound or not FREE_TO_CHANGE.fullmatch(key)]


def steps_of(checkpoint: str) -> int:
    """How many steps of the run a checkpoint holds."""
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


def flatten(tree, prefix: str = "") -> dict:
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix: tree}
    leaves = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The recipe with its overrides and defaults, as a file that training/train.py takes again."""
    tree = recipe_tree(recipe)
    del tree["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(unfinished, path)


class PlaceInStream(TrainerCallback):
    """Adds the place of this process in its stream to each checkpoint."""

    def on_save(self, args, state, control, train_dataloader=None, **kwargs):
        path = place_in_stream(Path(args.output_dir) / f"checkpoint-{state.global_step}", args.process_index)
        unfinished = path.with_suffix(".part")
        torch.save(train_dataloader.state_dict(), unfinished)
        os.replace(unfinished, path)


def place_in_stream(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"stream_{process}.pt"


class EpochOfCollator(TrainerCallback):
    """Tells a [`SeededCollator`] which pass over the data begins, or goes on."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)
