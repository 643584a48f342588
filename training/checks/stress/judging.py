r"""A case, and what is right at its end: the bits of an uninterrupted run, or a sentence that says what is wrong."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.checks.stress.runs import Ended, Wrong


UNFINISHED = 75  # exit status of a run that was stopped and can go on
TOLD_APART = {"README.md", "card_facts.json"}  # they tell of seconds and tokens
BIT_EQUAL = {
    "model.safetensors",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
}  # of checkpoints


@dataclass(frozen=True)
class Case:
    """name: what is done and to what. check: called with an empty folder of its own; raises [`Wrong`]."""

    name: str
    check: Callable[[Path], None]


def require(is_so: bool, sentence: str) -> None:
    if not is_so:
        raise Wrong(sentence)


def check_finished(ended: Ended, output: Path, whole: Path) -> None:
    """The run came to its end, and left in `output` what the uninterrupted one left in `whole`, bit for bit, and nothing else."""
    require(ended.status == 0, f"exit status {ended.status} in place of 0: {last_line(ended.text)}")
    there, due = ({path.name for path in folder.iterdir()} for folder in (output, whole))
    oldest = min((name for name in due if name.startswith("checkpoint-")), default="")
    older = sorted(name for name in there - due if "checkpoint-" <= name < oldest)
    there -= set(older[-1:])  # it was to be removed when the run was hit, and no later checkpoint did it
    require(there == due, f"{output.name} has {sorted(there - due)} too many and lacks {sorted(due - there)}")
    losses, losses_due = (losses_of(folder) for folder in (output, whole))
    require(losses == losses_due, f"losses {losses} in place of {losses_due}")
    for one in due:
        if (whole / one).is_dir():
            check_equal(output / one, whole / one)


def losses_of(folder: Path) -> list[float]:
    report = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in report["log"] if "loss" in entry]


def check_equal(folder: Path, due: Path) -> None:
    """Two checkpoints, models or adapters; of checkpoints only the files that hold no times and paths are compared."""
    names, names_due = ({path.name for path in one.iterdir()} for one in (folder, due))
    require(names == names_due, f"{folder.name} has other files: {sorted(names ^ names_due)}")
    compared = names - TOLD_APART if "checkpoint" not in due.name else names & BIT_EQUAL
    other = [name for name in sorted(compared) if content_of(folder / name) != content_of(due / name)]
    require(not other, f"{folder.name} differs from the uninterrupted run's in {other}")


def content_of(path: Path) -> bytes | dict[str, bytes]:
    """The file's bytes; of one that PyTorch wrote its tensors', since what it pickles beside them tells equal objects from the same."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist() if "/data/" in name}


def check_refused(ended: Ended, *words: str) -> None:
    """The run ended with a sentence that has these words."""
    require(ended.status not in (0, None), "it hangs" if ended.status is None else "exit status 0")
    require(ended.status > 0, f"ended by signal {-(ended.status)}: {last_line(ended.text)}")
    check_told(ended, *words)


def check_told(ended: Ended, *words: str) -> None:
    """The run printed these words, and no raw error."""
    require("Traceback (most recent call last)" not in ended.text, f"a raw error: {last_line(ended.text)}")
    for word in words:
        require(word in ended.text, f"it does not tell {word!r}; it says: {last_line(ended.text)}")


def check_passed_over(ended: Ended, checkpoint: str, reason: str) -> None:
    """The run said which checkpoint it does not take, and why."""
    lines = [line for line in ended.text.splitlines() if "passed over" in line and f"{checkpoint} " in line]
    require(bool(lines), f"it does not tell that {checkpoint} is passed over")
    require(any(reason in line for line in lines), f"it does not tell {reason!r}: {lines[0]}")


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "(it printed nothing)"


def copy_run(whole: Path, output: Path, *checkpoints: str) -> None:
    """What a run left that was killed before its final save, with these of its checkpoints (by default all)."""
    output.mkdir(parents=True)
    shutil.copyfile(whole / "recipe.yaml", output / "recipe.yaml")
    for checkpoint in checkpoints or [path.name for path in whole.glob("checkpoint-*")]:
        shutil.copytree(whole / checkpoint, output / checkpoint)
