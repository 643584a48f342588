r"""The disk is full from some change to a file on: during a checkpoint, during the final save, in the cache of the data.

The disks are in memory, mounted for each case, for which one has to be root, or root of a namespace of one's own.
"""

import functools
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.checks.stress.file_changes import BALLAST, MAY_BE_FILLED, Moment, shape_of
from training.checks.stress.judging import Case, check_finished, check_refused, require
from training.checks.stress.runs import KINDS, Runs


SIZE, CACHE_SIZE = "16m", "12k"
NOT_WRITTEN = "a file could not be written"


def cases(runs: Runs, is_quick: bool) -> Iterator[Case]:
    why_not = why_not_mounted()
    if why_not is not None:
        print(f"full_disk      not run: {why_not}", flush=True)
        return
    known: set[str] = set()
    for kind in KINDS[:1] if is_quick else KINDS:
        found = {}
        for number, name in enumerate(runs.changes(kind), start=1):
            if shape_of(name) not in known and not name.startswith(("chmod", "mkdir", "remove", "rmdir")):
                found[shape_of(name)] = number, name  # the last of its kind: there are checkpoints to keep
        known |= found.keys()
        for number, name in list(found.values())[:: len(found) - 1 if is_quick else 1]:
            yield full_at(runs, kind, number, name)
    if not is_quick:
        yield full_cache(runs)


@functools.cache
def why_not_mounted() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder, "disk"), CACHE_SIZE):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            way_out = "`unshare --map-root-user --mount make stress` runs it where the system allows that"
            return f"No disk can be mounted here ({error}): {way_out}."


@contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "stress", str(folder)], check=True)
    try:
        (folder / MAY_BE_FILLED).touch()
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_at(runs: Runs, kind: str, number: int, name: str) -> Case:
    """The run says so, and when there is space again, goes on from what is whole."""

    def check(folder: Path) -> None:
        with small_disk(folder / "disk", SIZE) as disk:
            ended = runs.run(kind, disk / "run", moment=Moment(number, "full disk"))
            require((disk / BALLAST).exists(), "the disk was not filled")
            finished = ended.status == 0  # nothing was left to be written
            if not finished:
                check_refused(ended, NOT_WRITTEN, str(disk))
            (disk / BALLAST).unlink()
            again = runs.run(kind, disk / "run")
            check_finished(again, disk / "run", runs.whole(kind))

    return Case(f"{kind}: full before change {number}: {shape_of(name)}", check)


def full_cache(runs: Runs) -> Case:
    def check(folder: Path) -> None:
        with small_disk(folder / "disk", CACHE_SIZE) as disk:
            ended = runs.command("plain", folder / "run", HF_DATASETS_CACHE=str(disk / "cache"))
            check_refused(ended, NOT_WRITTEN, "HF_DATASETS_CACHE")
        check_finished(runs.run("plain", folder / "run"), folder / "run", runs.whole("plain"))

    return Case("plain: a full disk under the cache of the data", check)
