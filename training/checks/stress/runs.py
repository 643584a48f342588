r"""Tiny runs of training/train.py: each is a process of its own with the script's command line, and can be hit at any moment.

    runs = Runs(folder)
    ended = runs.run("plain", folder / "a", moment=Moment(17, "SIGKILL"))

The processes are forked from one that has imported the script, so that a run takes a second. The uninterrupted runs that all others
are compared with are started as a person starts them, with a Python of their own.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from training.checks.stress.file_changes import FileChanges, Moment
from training.checks.stress.tiny_recipe import adapter, plain, streaming, write_data


KINDS = ("plain", "streaming", "adapter")
LIMIT = 180  # seconds; a run that takes longer hangs
IMPORTED = ["training.train", "matplotlib.pyplot", "peft", "torchdata.stateful_dataloader"]
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # bit-equal results are promised for the CPU
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Wrong(Exception):
    """What a case found that should be otherwise, in a sentence."""


class Ended(NamedTuple):
    """status: as `subprocess` has it, negative for a signal; None of a run that hung and was killed. text: all that it printed."""

    status: int | None
    text: str


class Run:
    """A run in progress."""

    def __init__(self, process: multiprocessing.Process, aside: Path):
        self.process, self.aside = process, aside

    @property
    def text(self) -> str:
        return (self.aside / "output.txt").read_text(encoding="utf-8", errors="replace")

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self) -> Ended:
        self.process.join(LIMIT)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        return Ended(status, self.text)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Raises `Wrong` where the run ends before."""
        while not is_so():
            if not self.process.is_alive():
                raise Wrong(f"the run ended too soon, with status {self.process.exitcode}: {self.text[-300:]}")
            time.sleep(0.01)

    def go_on(self) -> None:
        """After a moment with "wait"."""
        (self.aside / "go").touch()

    def waits(self) -> bool:
        return (self.aside / "waits").exists()


class Runs:
    """folder (`Path`): for data, recipes, caches and what the uninterrupted runs leave."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        self.lock, self.finished = threading.RLock(), {}
        write_data(self.data)
        model = folder / "plain" / "model"  # of the uninterrupted run
        recipes = {
            "plain": plain(self.data),
            "streaming": streaming(self.data, model),
            "adapter": adapter(self.data, model),
        }
        for kind, recipe in recipes.items():
            (folder / f"{kind}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        os.environ |= ENVIRONMENT | {"HF_DATASETS_CACHE": str(folder / "cache")}  # before the first process is started
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(IMPORTED)

    def start(self, kind: str, output: Path, *overrides: str, moment: Moment | None = None) -> Run:
        """kind: of recipe; output: the run's output_dir; overrides: such as `training.max_steps=2`."""
        aside = self.folder / "asides" / f"{'-'.join(output.parts[-3:])}.{time.monotonic_ns()}"
        aside.mkdir(parents=True)
        (aside / "output.txt").touch()
        arguments = self.arguments(kind, output, overrides)
        process = self.context.Process(target=train_in_child, args=(arguments, output.absolute(), aside, moment))
        process.start()
        return Run(process, aside)

    def run(self, kind: str, output: Path, *overrides: str, moment: Moment | None = None) -> Ended:
        return self.start(kind, output, *overrides, moment=moment).wait()

    def command(self, kind: str, output: Path, *overrides: str, **environment: str) -> Ended:
        """The same, as a person starts it."""
        ended = subprocess.run(
            [sys.executable, "-m", "training.train", *self.arguments(kind, output, overrides)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT,
        )
        return Ended(ended.returncode, ended.stdout)

    def arguments(self, kind: str, output: Path, overrides: tuple[str, ...]) -> list[str]:
        if kind != "plain":
            self.whole("plain")  # whose model or tokenizer it starts from
        return [str(self.folder / f"{kind}.yaml"), f"training.output_dir={output}", *overrides]

    def whole(self, kind: str, *overrides: str) -> Path:
        """The output_dir of a run that nothing interrupts; it is run once."""
        with self.lock:
            if (kind, overrides) not in self.finished:
                output = self.folder / (kind if not overrides else f"{kind}-{len(self.finished)}")
                ended = self.command(kind, output, *overrides)
                if ended.status != 0:
                    raise RuntimeError(f"the uninterrupted run of kind {kind} failed:\n{ended.text}")
                self.finished[kind, overrides] = output
            return self.finished[kind, overrides]

    def changes(self, kind: str) -> list[str]:
        """What an uninterrupted run does to the files of its folder, in order."""
        output = self.folder / f"{kind}-recorded"
        with self.lock:
            if not output.exists():
                run = self.start(kind, output)
                if run.wait().status != 0:
                    raise RuntimeError(f"the recorded run of kind {kind} failed:\n{run.text}")
            record = next((self.folder / "asides").glob(f"*{output.name}.*/changes.json"))
            return json.loads(record.read_text(encoding="utf-8"))


def train_in_child(arguments: list[str], output: Path, aside: Path, moment: Moment | None) -> None:
    """What a forked process does. It ends as `python -m training.train` would."""
    file = os.open(aside / "output.txt", os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    multiprocessing.set_start_method(None, force=True)  # of its own data workers: as in any other process
    from training.train import main

    changes = FileChanges(output, moment, aside)
    sys.addaudithook(changes)
    sys.argv = ["training.train", *arguments]
    try:
        main()
    finally:
        (aside / "changes.json").write_text(json.dumps(changes.seen), encoding="utf-8")
