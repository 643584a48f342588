r"""The checkpoints of a run on the disk: whole or not, and how many are kept.

manifest.json in each holds the size and the hash of all its other files. It says "unfinished" while they are written. A
checkpoint without one is of a run before there were manifests, and is whole when its last file is.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path


logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
UNFINISHED = "it was not written to its end"


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
    write_manifest(checkpoint, {"unfinished": True})


def finish_checkpoint(checkpoint: Path) -> None:
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            files[str(path.relative_to(checkpoint))] = {"bytes": path.stat().st_size, "sha256": hash_of(path)}
    write_manifest(checkpoint, {"files": files})


def write_manifest(checkpoint: Path, content: dict) -> None:
    unfinished = checkpoint / f"{MANIFEST}.part"
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, checkpoint / MANIFEST)


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem_of(checkpoint: Path, streaming: bool = False, contents: bool = True) -> str | None:
    """Why nothing can go on from a checkpoint, or None. Without `contents` only the sizes of its files are looked at."""
    if not (checkpoint / MANIFEST).is_file():
        return problem_without_manifest(checkpoint, streaming)
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("unfinished"):
            return UNFINISHED
        known = [(name, one["bytes"], one["sha256"]) for name, one in manifest["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, size, digest in known:
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes in place of {size:,}"
        if contents and hash_of(path) != digest:
            return f"{name} is not what was written"
    return None


def problem_without_manifest(checkpoint: Path, streaming: bool) -> str | None:
    """Trainer writes trainer_state.json last; of a stream the place of each process comes after it."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return UNFINISHED
    places, processes = len(list(checkpoint.glob("stream_*.pt"))), len(list(checkpoint.glob("rng_state*.pth")))
    return UNFINISHED if streaming and places != processes else None


def rotate(folder: Path, step: int, limit: int | None, keep: str | None) -> None:
    """Removes the oldest checkpoints up to `step` but `limit`, damaged ones first, and not the one named `keep`."""
    if not limit or limit < 0:
        return
    older = [path for path in checkpoints_in(folder) if step_of(path) < step]
    whole = [path for path in older if problem_of(path, contents=False) is None]
    kept = limit - 1  # beside the new one
    for path in [path for path in older if path not in whole] + whole:
        if len(older) <= kept:
            return
        if path.name != keep:
            remove(path)
            older.remove(path)


def remove(checkpoint: Path) -> None:
    """Renamed first, so that a half deleted folder is no checkpoint."""
    gone = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(checkpoint, gone)
    shutil.rmtree(gone, ignore_errors=True)
