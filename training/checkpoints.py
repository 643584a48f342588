r"""The checkpoints of a run on the disk: whole or not, and how many are kept.

The manifest of each, which its model's own save begins (folders_mmgpt.py), describes all files at the end, and says `unfinished`
while they are written. One that does not describe Trainer's state is of a run before there were such manifests.
"""

import json
import os
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from modeling_mmgpt.folders_mmgpt import MANIFEST, describe_file, find_difference, read_manifest, write_manifest


CUT_SHORT = "it was not written to its end"


def checkpoints_in(folder: Path) -> list[Path]:
    """By their steps, the newest last."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and step_of(path) is not None]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int | None:
    step = checkpoint.name.removeprefix("checkpoint-")
    return int(step) if step.isdecimal() else None


def begin_checkpoint(checkpoint: Path) -> None:
    """A new folder that says of itself that it is unfinished; one of that name, damaged or of a part that is done anew, goes."""
    if checkpoint.exists():
        remove(checkpoint)
    checkpoint.mkdir(parents=True)
    write_manifest(checkpoint, {"unfinished": True, "files": {}})


def finish_checkpoint(checkpoint: Path) -> None:
    known = read_manifest(checkpoint)["files"]  # the weights, described when they were saved
    names = sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    files = {name: known.get(name) or describe_file(checkpoint / name) for name in names if name != MANIFEST}
    write_manifest(checkpoint, {"files": files})


def problem_of(checkpoint: Path, streaming: bool = False, checksums: bool = True) -> str | None:
    """Why nothing can go on from a checkpoint, or None. Without `checksums` only the sizes of its files are looked at."""
    manifest = read_manifest(checkpoint)
    if "damaged" in manifest:
        return f"{MANIFEST} is damaged"
    if "unfinished" in manifest:
        return CUT_SHORT
    for name, described in manifest["files"].items():
        difference = find_difference(checkpoint / name, described, checksums)
        if difference is not None:
            return f"{name} {difference}"
    return None if TRAINER_STATE_NAME in manifest["files"] else problem_without_manifest(checkpoint, streaming)


def problem_without_manifest(checkpoint: Path, streaming: bool) -> str | None:
    """Trainer writes its state last; of a stream the place of each process comes after it."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return CUT_SHORT
    places, processes = len(list(checkpoint.glob("stream_*.pt"))), len(list(checkpoint.glob("rng_state*.pth")))
    return CUT_SHORT if streaming and places != processes else None


def rotate(checkpoint: Path, limit: int | None) -> None:
    """Removes the oldest checkpoints before this one but `limit`, damaged ones first, and not the one that it calls the best."""
    if not limit or limit < 0:
        return
    older = [path for path in checkpoints_in(checkpoint.parent) if step_of(path) < step_of(checkpoint)]
    whole = [path for path in older if problem_of(path, checksums=False) is None]
    best = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8")).get("best_model_checkpoint")
    for path in [path for path in older if path not in whole] + whole:
        if len(older) < limit:
            return
        if path.name != Path(best or "").name:
            remove(path)
            older.remove(path)


def remove(checkpoint: Path) -> None:
    """Renamed first, so that a half deleted folder is no checkpoint."""
    gone = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(checkpoint, gone)
    shutil.rmtree(gone, ignore_errors=True)
