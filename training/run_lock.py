r"""One run at a time in a folder: while it lasts, output_dir/run.lock names its process and its host.

with locked(folder):
    ...  # another run that asks for this folder now is refused
"""

import shutil
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout

from training.recipe_files import RecipeError


WAIT_SECONDS = 0.2  # for a lock that is released or taken over just now


@contextmanager
def locked(folder: Path):
    """Holds the folder's lock while the block runs. The lock of a process that has died on this host is taken over: a file with
    the owner's number, start and host, which network file systems keep too, where locks of the kernel may hold for one host alone."""
    lock = SoftFileLock(folder / "run.lock", timeout=WAIT_SECONDS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except Timeout:
        raise RecipeError(
            f"{folder} belongs to a run in progress ({owner_of(folder / 'run.lock')}): wait for its end, or choose another "
            f"training.output_dir. If that run is no more, remove {folder / 'run.lock'}."
        ) from None
    with held:
        remove_left_overs(folder)
        yield


def owner_of(lock: Path) -> str:
    lines = lock.read_text(encoding="utf-8", errors="replace").split() if lock.is_file() else []
    return f"process {lines[0]} on {lines[1]}" if len(lines) in (2, 3) else "its lock does not say of whom"


def remove_left_overs(folder: Path) -> None:
    """What a killed run left half written; the lock is held, so that nobody writes it now."""
    for name in (".*.saving", "*/.*.saving", ".checkpoint-*.removed"):
        for path in folder.glob(name):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("*.part"):
        path.unlink(missing_ok=True)
