r"""Runs that are killed or stopped, at every kind of change that they make to a file and at other times, and go on."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from training.checks.stress.file_changes import Moment, shape_of
from training.checks.stress.judging import (
    UNFINISHED,
    Case,
    check_finished,
    check_told,
    last_line,
    require,
)
from training.checks.stress.runs import KINDS, Runs, Wrong


STARTS = 60  # after which a run that is killed again and again should have ended
LONG = ("training.max_steps=24", "training.save_strategy=no")


def cases(runs: Runs, is_quick: bool) -> Iterator[Case]:
    if is_quick:
        yield killed_at(runs, "plain", *moments(runs.changes("plain"))[40])
        yield stopped_without_checkpoints(runs, "SIGTERM")
        return
    known: set[str] = set()
    for kind in KINDS:
        changes = runs.changes(kind)
        for number, name in moments(changes):
            if shape_of(name) not in known or kind == "plain":
                yield killed_at(runs, kind, number, name)
        known |= set(map(shape_of, changes))
        for tenth in range(1, 10, 1 if kind == "plain" else 3):
            yield killed_after(runs, kind, tenth / 10)
        for seed in range(2):
            yield killed_again_and_again(runs, kind, seed)
        for name in ("SIGTERM", "SIGINT"):
            for number in stops(changes):
                yield stopped_at(runs, kind, name, number)
    for name in ("SIGTERM", "SIGINT"):
        yield stopped_without_checkpoints(runs, name)
    yield finished_started_again(runs)


def moments(changes: list[str]) -> list[tuple[int, str]]:
    """By number and name, the last change of each kind, and the first of every third kind, when there are fewer checkpoints."""
    first, last = {}, {}
    for number, name in enumerate(changes, start=1):
        first.setdefault(shape_of(name), number)
        last[shape_of(name)] = number
    numbers = sorted({*last.values(), *list(first.values())[::3]})
    return [(number, changes[number - 1]) for number in numbers]


def stops(changes: list[str]) -> list[int]:
    """When the run writes its recipe, its second checkpoint, its last one and its model."""
    marks = ("recipe", "checkpoint-2/", "checkpoint-4/", ".model")
    return [next(number for number, name in enumerate(changes, start=1) if mark in name) for mark in marks]


def killed_at(runs: Runs, kind: str, number: int, name: str) -> Case:
    def check(folder: Path) -> None:
        ended = runs.run(kind, folder / "run", moment=Moment(number, "SIGKILL"))
        require(ended.status == -signal.SIGKILL, f"not killed, but exit status {ended.status}")
        check_goes_on(runs, kind, folder / "run")

    return Case(f"{kind}: SIGKILL before change {number}: {shape_of(name)}", check)


def check_goes_on(runs: Runs, kind: str, output: Path, *overrides: str) -> None:
    ended = runs.run(kind, output, *overrides)
    check_told(ended)
    check_finished(ended, output, runs.whole(kind, *overrides))


def killed_after(runs: Runs, kind: str, part: float) -> Case:
    def check(folder: Path) -> None:
        begun = time.monotonic()
        require(runs.run(kind, folder / "measured").status == 0, "the run that tells how long it takes failed")
        run = runs.start(kind, folder / "run")
        time.sleep(part * (time.monotonic() - begun))
        run.send(signal.SIGKILL)
        run.wait()
        check_goes_on(runs, kind, folder / "run")

    return Case(f"{kind}: SIGKILL after {part:.0%} of its time", check)


def killed_again_and_again(runs: Runs, kind: str, seed: int) -> Case:
    def check(folder: Path) -> None:
        draw = random.Random(f"{kind} {seed}")
        for _ in range(STARTS):
            ended = runs.run(kind, folder / "run", moment=Moment(draw.randint(20, 500), "SIGKILL"))
            if ended.status != -signal.SIGKILL:
                return check_finished(ended, folder / "run", runs.whole(kind))
        raise Wrong(f"not at its end after {STARTS} starts")

    return Case(f"{kind}: SIGKILL again and again, series {seed}", check)


def stopped_at(runs: Runs, kind: str, name: str, number: int) -> Case:
    """During training the run is saved; before and after that a signal may end it at once."""
    change = runs.changes(kind)[number - 1]

    def check(folder: Path) -> None:
        ended = runs.run(kind, folder / "run", moment=Moment(number, name))
        if "checkpoint" in change:
            require(ended.status == UNFINISHED, f"exit status {ended.status} in place of {UNFINISHED}")
            check_told(ended, "Not finished", name)
            require(not (folder / "run" / "model").exists(), "there is a model/ of a run that is not finished")
        else:
            require(ended.status != 0 or (folder / "run" / "model").exists(), "exit status 0 without a model/")
        check_goes_on(runs, kind, folder / "run")

    return Case(f"{kind}: {name} before change {number}: {shape_of(change)}", check)


def stopped_without_checkpoints(runs: Runs, name: str) -> Case:
    """The run would save none of its own, and does when it is stopped."""

    def check(folder: Path) -> None:
        run = runs.start("plain", folder / "run", *LONG)
        run.wait_until(lambda: "| loss " in run.text)
        run.send(signal.Signals[name])
        ended = run.wait()
        require(ended.status == UNFINISHED, f"exit status {ended.status} in place of {UNFINISHED}")
        check_told(ended, "Not finished", name)
        saved = [path.name for path in (folder / "run").glob("checkpoint-*")]
        require(len(saved) == 1, f"checkpoints {saved} in place of one")
        ended = runs.run("plain", folder / "run", *LONG)
        check_told(ended, f"{saved[0]}")
        whole = runs.whole("plain", *LONG)
        require(ended.status == 0, f"exit status {ended.status} in place of 0: {last_line(ended.text)}")
        same = (folder / "run/model/model.safetensors").read_bytes() == (
            whole / "model/model.safetensors"
        ).read_bytes()
        require(same, "the model differs from the uninterrupted run's")

    return Case(f"plain: {name} in a run that saves no checkpoints", check)


def finished_started_again(runs: Runs) -> Case:
    def check(folder: Path) -> None:
        whole = runs.whole("plain")
        before = times(whole)
        ended = runs.run("plain", whole)
        check_told(ended, "finished")
        require(ended.status == 0 and times(whole) == before, "it wrote something")

    return Case("plain: a finished run started again", check)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
