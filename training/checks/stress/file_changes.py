r"""The changes that a process makes to the files of a folder, one after the other, and what befalls it before one of them.

sys.addaudithook(FileChanges(folder, Moment(17, "SIGKILL")))  # in the process that is to die before its 17th change

Python reports what it is about to do to a file; libraries that write without Python (safetensors, torch.save) are between two reports.
"""

import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


# Each with the places of its paths among the arguments, and how many places later a path's `dir_fd` stands.
CHANGES = {
    "os.chmod": ((0,), 2),
    "os.link": ((0, 1), 2),
    "os.mkdir": ((0,), 2),
    "os.remove": ((0,), 1),
    "os.rename": ((0, 1), 2),
    "os.rmdir": ((0,), 1),
    "os.symlink": ((1,), 1),
    "os.truncate": ((0,), None),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
BALLAST, MAY_BE_FILLED = "ballast", "may_be_filled"


@dataclass(frozen=True)
class Moment:
    """Before which change to a file, counted from 1, and what happens: a signal by its name; "full disk": nothing can be written
    any more; "wait": until the file `go` appears, beside the process's output, where `waits` tells that it waits."""

    number: int
    deed: str


class FileChanges:
    """An audit hook. `seen` lists the changes as texts such as `open checkpoint-3/config.json`.

    aside (`Path`): folder, on another disk than the watched one, for `waits` and `go`."""

    def __init__(self, folder: Path, moment: Moment | None, aside: Path):
        self.folder, self.moment, self.aside = str(folder), moment, aside
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        paths = changed_paths(event, arguments)
        names = [os.path.relpath(path, self.folder) for path in paths if f"{path}/".startswith(f"{self.folder}/")]
        if not names:
            return
        self.seen.append(f"{event.removeprefix('os.')} {names[-1]}")
        if self.moment is not None and len(self.seen) == self.moment.number:
            self.strike()

    def strike(self) -> None:
        if self.moment.deed == "full disk":
            fill_disk(Path(self.folder))
        elif self.moment.deed == "wait":
            (self.aside / "waits").touch()
            while not (self.aside / "go").exists():
                time.sleep(0.01)
        else:
            os.kill(os.getpid(), signal.Signals[self.moment.deed])


def changed_paths(event: str, arguments: tuple) -> list[str]:
    """The absolute paths that an audit event is about to change; none of other events."""
    if event == "open":
        path, _, flags = arguments
        return [os.path.abspath(path)] if isinstance(path, str | os.PathLike) and flags & WRITING else []
    if event not in CHANGES:
        return []
    places, further = CHANGES[event]
    paths = []
    for place in places:
        path = arguments[place]
        if isinstance(path, int):
            continue
        at = arguments[place + further] if further is not None else -1
        folder = os.readlink(f"/proc/self/fd/{at}") if isinstance(at, int) and at >= 0 else os.getcwd()
        paths.append(os.path.normpath(os.path.join(folder, os.fsdecode(path))))
    return paths


def fill_disk(folder: Path) -> None:
    """Writes a file until nothing more goes onto the disk of the folder, which must be one that was mounted for this."""
    disk = next(one for one in (folder, *folder.parents) if one.is_mount())
    if not (disk / MAY_BE_FILLED).exists():
        raise FileNotFoundError(f"{disk} is filled only where it holds a file {MAY_BE_FILLED}.")
    with open(disk / BALLAST, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def shape_of(change: str) -> str:
    """Equal for changes of the same kind: numbers of processes, drawn names and the files of code are left out."""
    change = re.sub(r"\.[a-z0-9_]{8}\.saving", ".*.saving", change)
    change = re.sub(r"\.lock\..*|(?<=checkpoint-)\d+", "*", change)
    return re.sub(r"[a-z_]+\.py$", "*.py", change)
