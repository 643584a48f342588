r"""One run at a time in a folder: while it lasts, output_dir/run.lock names its host and process.

with locked(folder):
    ...  # another run that asks for this folder now is refused
"""

import json
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

from training.recipe_files import RecipeError


@contextmanager
def locked(folder: Path):
    """Holds the folder's lock while the block runs. The lock of a process that has died on this host is taken over."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, mine = folder / "run.lock", folder / f".run.lock.{socket.gethostname()}.{os.getpid()}"
    mine.write_text(json.dumps({"host": socket.gethostname(), **process_of(os.getpid())}), encoding="utf-8")
    try:
        take(lock, mine)
    finally:
        mine.unlink()
    try:
        remove_left_overs(folder)
        yield
    finally:
        lock.unlink(missing_ok=True)


def take(lock: Path, mine: Path) -> None:
    """A hard link appears with its whole content, and only where no file of that name is."""
    while True:
        try:
            return os.link(mine, lock)
        except FileExistsError:
            pass
        try:
            text = lock.read_text(encoding="utf-8")
        except FileNotFoundError:  # released just now
            continue
        refuse_if_alive(lock, text)
        stale = mine.with_suffix(".stale")
        try:
            os.rename(lock, stale)  # of several that find it stale, one succeeds
        except FileNotFoundError:
            continue
        if stale.read_text(encoding="utf-8") != text:  # another has taken it over since it was read: it is put back
            os.rename(stale, lock)
            continue
        stale.unlink()


def refuse_if_alive(lock: Path, text: str) -> None:
    try:
        owner = json.loads(text)
        host, pid, started = owner["host"], owner["pid"], owner["started"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise RecipeError(f"{lock} cannot be read: remove it if no other run writes to {lock.parent}.") from None
    if host != socket.gethostname():
        raise RecipeError(
            f"{lock.parent} belongs to a run on {host} (process {pid}): choose another training.output_dir, or remove {lock} "
            "if that run is no more."
        )
    if process_of(pid) == {"pid": pid, "started": started}:
        raise RecipeError(
            f"{lock.parent} belongs to a run in progress (process {pid}): wait for its end, or choose another "
            "training.output_dir."
        )


def process_of(pid: int) -> dict:
    """A process by its number and, where the system tells, when it began: numbers are used again. A dead one has no number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return {"pid": None, "started": None}
    except PermissionError:  # it lives, and is another user's
        pass
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return {"pid": pid, "started": None}
    return {"pid": pid, "started": f"{boot} {ticks}"}


def remove_left_overs(folder: Path) -> None:
    """What a killed run left half written; the lock is held, so that nobody writes it now."""
    for name in (".model.*.saving", ".adapter.*.saving", ".checkpoint-*.removed"):
        for path in folder.glob(name):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.glob("*.part"), *folder.glob(".run.lock.*")):
        path.unlink(missing_ok=True)
