r"""Checkpoints of which a file was damaged: each file, in every way. The run takes the checkpoint before, or says that there is none."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from training.checks.stress.judging import (
    Case,
    check_finished,
    check_passed_over,
    check_refused,
    check_told,
    copy_run,
    require,
)
from training.checks.stress.runs import KINDS, Runs


LAST, BEFORE = "checkpoint-4", "checkpoint-3"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path, place: float = 0.5) -> None:
    """One bit, in the middle unless said otherwise; size and time of the file stay."""
    data, status = bytearray(path.read_bytes()), path.stat()
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def missing(path: Path) -> None:
    path.unlink()


def of_the_one_before(path: Path) -> None:
    shutil.copyfile(path.parents[1] / BEFORE / path.name, path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (cut, empty, flipped, missing)


def cases(runs: Runs, is_quick: bool) -> Iterator[Case]:
    if is_quick:
        yield passed_over(runs, "plain", "optimizer.pt", flipped)
        yield nothing_before(runs, "plain", "model.safetensors", cut)
        return
    known: set[str] = set()
    for kind in KINDS:
        files = sorted(path.name for path in (runs.whole(kind) / LAST).iterdir() if path.is_file())
        for file in files:
            if kind == "plain" or file not in known or file.startswith(("manifest", "trainer_state", "optimizer")):
                yield from (passed_over(runs, kind, file, damage) for damage in DAMAGES)
                yield from (nothing_before(runs, kind, file, damage) for damage in DAMAGES)
        known |= set(files)
    for file in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        yield from (passed_over(runs, "plain", file, damage) for damage in (of_the_one_before, a_folder))
    yield from (odd_folder(runs, name, make) for name, make in ODD_FOLDERS.items())
    for file in ("recipe.yaml", "training.json"):
        yield from (damaged_beside(runs, file, damage) for damage in DAMAGES)
    for file in ("model/model.safetensors", "model/config.json"):
        yield from (damaged_model(runs, file, damage) for damage in DAMAGES)


def is_manifest(name: str) -> bool:
    return "manifest" in name


def passed_over(runs: Runs, kind: str, file: str, damage: Callable[[Path], None]) -> Case:
    def check(folder: Path) -> None:
        copy_run(runs.whole(kind), folder / "run")
        damage(folder / "run" / LAST / file)
        ended = runs.run(kind, folder / "run")
        check_told(ended, "goes on from")
        if is_manifest(file) and f"{LAST}, step" in ended.text:  # nothing else is damaged: it may be taken
            return same_model(folder / "run", runs.whole(kind))
        check_passed_over(ended, LAST, file)
        check_told(ended, f"{BEFORE}, step 3")
        check_finished(ended, folder / "run", runs.whole(kind))

    return Case(f"{kind}: {file} {damage.__name__}, another checkpoint before", check)


def nothing_before(runs: Runs, kind: str, file: str, damage: Callable[[Path], None]) -> Case:
    def check(folder: Path) -> None:
        copy_run(runs.whole(kind), folder / "run", LAST)
        damage(folder / "run" / LAST / file)
        ended = runs.run(kind, folder / "run")
        if is_manifest(file) and f"{LAST}, step" in ended.text:
            return same_model(folder / "run", runs.whole(kind))
        check_refused(ended, LAST, file)
        require((folder / "run" / LAST).is_dir() and not (folder / "run" / "model").exists(), "it wrote something")

    return Case(f"{kind}: {file} {damage.__name__}, no other checkpoint", check)


def half_deleted(output: Path) -> None:
    for path in sorted((output / LAST).iterdir())[::2]:
        path.unlink()


def left_over_of_a_rotation(output: Path) -> None:
    shutil.copytree(output / BEFORE, output / ".checkpoint-2.removed")
    (output / ".checkpoint-2.removed" / "config.json").unlink()


def left_over_of_a_save(output: Path) -> None:
    shutil.copytree(output / BEFORE, output / ".model.0a1b2c3d.saving")


def moved_and_linked(output: Path) -> None:
    (output / LAST).rename(output.parent / "elsewhere")
    (output / LAST).symlink_to(output.parent / "elsewhere")


def dangling_link(output: Path) -> None:
    (output / "checkpoint-5").symlink_to(output / "nowhere")


ODD_FOLDERS = {
    "a half deleted checkpoint": half_deleted,
    "an empty folder checkpoint-5": lambda output: (output / "checkpoint-5").mkdir(),
    "a file checkpoint-5": lambda output: (output / "checkpoint-5").write_text("mine"),
    "a dangling link checkpoint-5": dangling_link,
    "a folder checkpoint-best": lambda output: (output / "checkpoint-best").mkdir(),
    "a copy of checkpoint-3 as checkpoint-9": lambda output: shutil.copytree(output / BEFORE, output / "checkpoint-9"),
    "a checkpoint moved elsewhere and linked": moved_and_linked,
    "a file of its owner in the checkpoint": lambda output: (output / LAST / "notes.txt").write_text("mine"),
    "the left-over of a rotation": left_over_of_a_rotation,
    "the left-over of a save": left_over_of_a_save,
}


def odd_folder(runs: Runs, name: str, make: Callable[[Path], None]) -> Case:
    """Whatever else is there: the model of the uninterrupted run comes out."""

    def check(folder: Path) -> None:
        copy_run(runs.whole("plain"), folder / "run")
        make(folder / "run")
        ended = runs.run("plain", folder / "run")
        check_told(ended, "goes on from")
        require(ended.status == 0, f"exit status {ended.status}")
        same_model(folder / "run", runs.whole("plain"))
        left = [path.name for path in (folder / "run").glob(".*")]
        require(not left, f"left over: {left}")

    return Case(f"plain: {name}", check)


def same_model(output: Path, whole: Path) -> None:
    weights = [(one / "model" / "model.safetensors").read_bytes() for one in (output, whole)]
    require(weights[0] == weights[1], "the model differs from the uninterrupted run's")


def damaged_beside(runs: Runs, file: str, damage: Callable[[Path], None]) -> Case:
    """The recipe of the folder, or its report: another run is never taken for this one."""

    def check(folder: Path) -> None:
        shutil.copytree(runs.whole("plain"), folder / "run")
        damage(folder / "run" / file)
        ended = runs.run("plain", folder / "run")
        check_told(ended)
        if ended.status != 0:
            return check_refused(ended, str(folder / "run"))
        same_model(folder / "run", runs.whole("plain"))

    return Case(f"plain: {file} {damage.__name__} beside whole checkpoints", check)


def damaged_model(runs: Runs, file: str, damage: Callable[[Path], None]) -> Case:
    """A finished run whose model was damaged is no finished run: it is saved again, or the run says what is damaged."""

    def check(folder: Path) -> None:
        shutil.copytree(runs.whole("plain"), folder / "run")
        damage(folder / "run" / file)
        ended = runs.run("plain", folder / "run")
        check_told(ended)
        if ended.status != 0:
            return check_refused(ended, file.rpartition("/")[2])
        check_finished(ended, folder / "run", runs.whole("plain"))

    return Case(f"plain: {file} {damage.__name__} in a finished run", check)
