r"""A run that was interrupted goes on when the same command is given again, and only when it is the same run.

Trainer's checkpoints hold everything a run needs: weights, optimizer, schedule, place in the data, random states. Two things are
added: a checkpoint that is damaged, or was being written when the process was killed, is passed over (checkpoints.py), and
output_dir/recipe.yaml tells whether the checkpoints beside it belong to the recipe that is to be run.
"""

import dataclasses
import json
import logging
import re
from pathlib import Path

import yaml

from training.checkpoints import CUT_SHORT, checkpoints_in, problem_of
from training.recipe import Recipe, RecipeError, build_sections
from training.recipe_files import with_new_names


logger = logging.getLogger(__name__)

# What may change between two parts of one run, since it does not change what the model learns.
FREE_TO_CHANGE = re.compile(
    r"data\.root|data\.train\.\d+\.(license|strict)|eval\..*|prepare\..*|data\.test.*"
    r"|training\.(output_dir|resume_from_checkpoint|report_to|run_name|disable_tqdm|logging_.*|log_.*|save_.*|use_cpu"
    r"|dataloader_.*|include_.*|push_to_hub|hub_.*|project|trackio_.*)"
)


def checkpoint_to_resume(recipe: Recipe) -> str | None:
    """Where the run goes on: the checkpoint that the recipe names, or the last whole one in its output_dir.

    `training.resume_from_checkpoint`: a path is taken as it is; true (the default): the last one, or none; false: none."""
    wish = recipe.training.resume_from_checkpoint
    if isinstance(wish, str):
        if not Path(wish).is_dir():
            raise FileNotFoundError(f"training.resume_from_checkpoint={wish} does not exist.")
        problem = problem_of(Path(wish), recipe.data.streaming)
        if problem is not None:
            raise RecipeError(f"training.resume_from_checkpoint={wish}: {problem}. Name another checkpoint.")
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


def finished_report(recipe: Recipe) -> dict | None:
    """What the same run left in training.json when it came to its end here; None where there is something to do."""
    folder = Path(recipe.training.output_dir)
    written = folder / "training.json"
    if recipe.training.resume_from_checkpoint is not True or not written.is_file() or not (folder / "model").is_dir():
        return None
    if not (folder / "recipe.yaml").is_file() or changed_keys(recipe, folder / "recipe.yaml"):
        return None
    try:
        return json.loads(written.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None


def last_checkpoint(folder: Path, streaming: bool = False) -> Path | None:
    """The newest whole checkpoint. What is passed over is said; where all are unfinished there is none, as before the first one."""
    problems = {}
    for path in reversed(checkpoints_in(folder)):
        problem = problem_of(path, streaming)
        if problem is None:
            return path
        problems[path.name] = problem
        logger.warning("%s is passed over: %s.", path, problem)
    damaged = [f"{name}: {problem}" for name, problem in problems.items() if problem != CUT_SHORT]
    if damaged:
        raise RecipeError(
            f"no checkpoint in {folder} is whole ({'; '.join(damaged)}): bring one back from a copy, or remove them all to begin "
            "from the beginning."
        )
    return None


def changed_keys(recipe: Recipe, written: Path) -> list[str]:
    """The dotted keys in which the recipe is not the one that was written when the run began."""
    before = flatten(read_written(written)) if written.is_file() else {}
    now = flatten(yaml.safe_load(recipe.to_yaml()))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    # Each worker has its part of a stream.
    bound = {"training.dataloader_num_workers"} if recipe.data.streaming else set()
    return [key for key in keys if key in bound or not FREE_TO_CHANGE.fullmatch(key)]


def read_written(path: Path) -> dict:
    """The recipe of an earlier run as it would be written today: its names may be old, and its preset not merged."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        tree = None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path} is damaged, so that nothing tells which run the folder belongs to: remove the file, and name the checkpoint to "
            "go on from as training.resume_from_checkpoint."
        )
    data = tree.get("data") or {}
    for split in ("train", "validation", "test"):
        data[split] = [with_new_names(source) for source in data.get(split) or []]
    try:
        sections = build_sections(tree)
    except (RecipeError, FileNotFoundError):  # a key or a preset that is no more: another run
        return tree
    # Not `training`: a second TrainingArguments would reset the state of the first. It is written without defaults, as now.
    return tree | {key: dataclasses.asdict(section) for key, section in sections.items()}


def flatten(tree, prefix: str = "") -> dict:
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix: tree}
    leaves = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves
