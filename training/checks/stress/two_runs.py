r"""Two runs in one folder: the second is refused while the first lasts, and takes over what a dead one left."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from training.checks.stress.file_changes import Moment
from training.checks.stress.judging import Case, check_finished, check_refused, check_told, require
from training.checks.stress.runs import Runs, Wrong


AT_ONCE = 4


def cases(runs: Runs, is_quick: bool) -> Iterator[Case]:
    changes = runs.changes("plain")
    begins = next(number for number, name in enumerate(changes, start=1) if "checkpoint-1" in name)
    saves = next(number for number, name in enumerate(changes, start=1) if name.startswith("mkdir .model"))
    yield second_is_refused(runs, begins, "while it trains")
    if is_quick:
        return
    yield second_is_refused(runs, saves, "while it saves its model")
    yield several_at_once(runs)
    yield owner_on_another_host(runs, begins)
    yield damaged_lock(runs, begins)


def second_is_refused(runs: Runs, number: int, when: str) -> Case:
    def check(folder: Path) -> None:
        first = runs.start("plain", folder / "run", moment=Moment(number, "wait"))
        try:
            first.wait_until(first.waits)
            second = runs.run("plain", folder / "run")
            other = runs.run("plain", folder / "run", "training.learning_rate=5e-4")
        finally:
            first.go_on()
        for refused in (second, other):
            check_refused(refused, str(folder / "run"), str(first.process.pid))
        check_finished(first.wait(), folder / "run", runs.whole("plain"))

    return Case(f"a second run {when}", check)


def several_at_once(runs: Runs) -> Case:
    """Whoever comes first runs to its end; the others are refused, or come when there is nothing left to do."""

    def check(folder: Path) -> None:
        started = [runs.start("plain", folder / "run") for _ in range(AT_ONCE)]
        ended = [run.wait() for run in started]
        finished = [one for one in ended if one.status == 0]
        require(bool(finished), "none finished")
        for one in ended:
            if one.status != 0:
                check_refused(one, str(folder / "run"))
        for one in finished:
            check_finished(one, folder / "run", runs.whole("plain"))

    return Case(f"{AT_ONCE} runs started at once", check)


def lock_of_a_killed_run(runs: Runs, output: Path, number: int) -> Path:
    """The file that says whose the folder is: the one that names this host."""
    runs.run("plain", output, moment=Moment(number, "SIGKILL"))
    host = socket.gethostname()
    found = [path for path in output.iterdir() if path.is_file() and host in path.read_text(errors="replace")]
    if len(found) != 1:
        raise Wrong(f"no lock names the host of the run: {[path.name for path in output.iterdir()]}")
    return found[0]


def owner_on_another_host(runs: Runs, number: int) -> Case:
    def check(folder: Path) -> None:
        lock = lock_of_a_killed_run(runs, folder / "run", number)
        lock.write_text(lock.read_text().replace(socket.gethostname(), "another-host"))
        shutil.copy(lock, folder / "lock")
        check_refused(runs.run("plain", folder / "run"), "another-host", str(lock))
        require(lock.read_bytes() == (folder / "lock").read_bytes(), "it changed the other's lock")
        lock.unlink()
        check_finished(runs.run("plain", folder / "run"), folder / "run", runs.whole("plain"))

    return Case("the lock of a run on another host", check)


def damaged_lock(runs: Runs, number: int) -> Case:
    """It names nobody: either the system knows that nobody holds it, or the file to remove is named."""

    def check(folder: Path) -> None:
        lock = lock_of_a_killed_run(runs, folder / "run", number)
        lock.write_bytes(b"")
        ended = runs.run("plain", folder / "run")
        check_told(ended)
        if ended.status != 0:
            check_refused(ended, str(lock))
            lock.unlink()
            ended = runs.run("plain", folder / "run")
        check_finished(ended, folder / "run", runs.whole("plain"))

    return Case("an empty lock", check)
