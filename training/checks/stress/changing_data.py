r"""Data that vanish, change or are damaged, between two starts of a run and while it runs.

What is lost is named: it is left out, or an error where the source is `strict`; a raw error of a library is always wrong, and so is
a run that does not tell of it.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from training.checks.stress.damage import cut, empty, missing
from training.checks.stress.file_changes import Moment
from training.checks.stress.judging import UNFINISHED, Case, check_refused, check_told, require
from training.checks.stress.runs import KINDS, Ended, Runs


LONG = "training.max_steps=9"  # three times through the data


def line_cut(path: Path) -> None:
    """In the middle of its last line, as by a copy that did not end."""
    path.write_text(path.read_text()[:-20])


def column_renamed(path: Path) -> None:
    path.write_text(path.read_text().replace('"answer"', '"label"'))


def infinite(path: Path) -> None:
    soundfile.write(path, np.full(2000, np.inf, dtype=np.float32), 8000, subtype="FLOAT")


def loud(path: Path) -> None:
    soundfile.write(path, np.full(2000, 3e38, dtype=np.float32), 8000, subtype="FLOAT")


# What happens, to which file, and the words of which one must be told.
CHANGES = [
    (missing, "see/1.png", ("see-1", "see/1.png")),
    (empty, "see/1.png", ("see-1", "see/1.png")),
    (cut, "see/1.png", ("see-1", "see/1.png")),
    (missing, "hear/1.wav", ("hear-1", "hear/1.wav")),
    (empty, "hear/1.wav", ("hear-1", "hear/1.wav")),
    (infinite, "hear/1.wav", ("hear-1", "hear/1.wav")),
    (missing, "read/1.jsonl", ("read/1.jsonl",)),
    (empty, "read/1.jsonl", ("read/1.jsonl",)),
    (line_cut, "read/1.jsonl", ("read/1.jsonl",)),
    (column_renamed, "read/1.jsonl", ("answer",)),
    (shutil.rmtree, "read", ("read",)),
    (shutil.rmtree, "", ("data.root", "does not exist")),
]


def cases(runs: Runs, is_quick: bool) -> Iterator[Case]:
    for kind in KINDS[:1] if is_quick else KINDS[:2]:
        for change, file, words in CHANGES[:1] if is_quick else CHANGES:
            yield between_starts(runs, kind, change, file, words)
            if is_quick:
                return
            yield between_starts(
                runs, kind, change, file, words, "data.train.0.strict=true", "data.train.1.strict=true"
            )
        for change, file, words in CHANGES[:9]:
            yield while_it_runs(runs, kind, change, file, words)
        yield too_loud(runs, kind)


def own_data(runs: Runs, folder: Path) -> tuple[Path, str]:
    """A copy that may be changed, and the override that names it."""
    shutil.copytree(runs.data, folder / "data")
    return folder / "data", f"data.root={folder / 'data'}"


def check_named(ended: Ended, words: tuple[str, ...], is_strict: bool) -> None:
    require(ended.status is not None, "it hangs")
    if is_strict or ended.status != 0:
        check_refused(ended)
    check_told(ended)
    require(any(word in ended.text for word in words), f"it tells none of {words}")


def between_starts(
    runs: Runs, kind: str, change: Callable[[Path], None], file: str, words: tuple, *strict: str
) -> Case:
    def check(folder: Path) -> None:
        data, root = own_data(runs, folder)
        number = next(n for n, name in enumerate(runs.changes(kind), start=1) if "checkpoint-2" in name)
        ended = runs.run(kind, folder / "run", root, LONG, *strict, moment=Moment(number, "SIGTERM"))
        require(ended.status == UNFINISHED, f"exit status {ended.status} of the stopped run: {ended.text[-300:]}")
        change(data / file)
        is_strict = bool(strict) and file.endswith((".png", ".wav"))
        check_named(runs.run(kind, folder / "run", root, LONG, *strict), words, is_strict)

    return Case(f"{kind}: between two starts {file or 'all'} {change.__name__} {' '.join(strict)}".strip(), check)


def while_it_runs(runs: Runs, kind: str, change: Callable[[Path], None], file: str, words: tuple) -> Case:
    def check(folder: Path) -> None:
        data, root = own_data(runs, folder)
        number = next(n for n, name in enumerate(runs.changes(kind), start=1) if "checkpoint-1" in name)
        run = runs.start(kind, folder / "run", root, LONG, moment=Moment(number, "wait"))
        try:
            run.wait_until(run.waits)
            change(data / file)
        finally:
            run.go_on()
        ended = run.wait()
        is_read_again = file.endswith((".png", ".wav")) or kind == "streaming"
        if is_read_again:
            return check_named(ended, words, False)
        check_told(ended)
        require(ended.status == 0, f"exit status {ended.status}, though its records were read before")

    return Case(f"{kind}: while it runs {file} {change.__name__}", check)


def too_loud(runs: Runs, kind: str) -> Case:
    """Values near the largest that fp32 has: the run stops and names the sample, leaves it out, or has finite losses."""

    def check(folder: Path) -> None:
        data, root = own_data(runs, folder)
        loud(data / "hear/1.wav")
        ended = runs.run(kind, folder / "run", root)
        if ended.status != 0:
            return check_refused(ended, "hear-1")
        check_told(ended)
        log = json.loads((folder / "run" / "training.json").read_text())["log"]
        bad = [entry for entry in log if not np.isfinite(entry.get("loss", 0.0))]
        require(not bad, f"losses that are not finite: {bad}")

    return Case(f"{kind}: an audio clip of 3e38", check)
