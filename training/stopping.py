r"""Runs that end before their last step: by a signal, or because something went wrong.

SIGTERM and SIGINT let the step in progress end, which is then saved as every other checkpoint is; a second signal ends the
process at once. Outside the main thread, where Python allows no handlers, signals do what they did before.
"""

import errno
import logging
import os
import signal
import threading
from pathlib import Path


logger = logging.getLogger(__name__)

# Of an OSError of any file: the disk is full, read-only, broken or gone, or the user has no more room on it.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
# What libraries say instead that write without Python: safetensors, PyTorch, datasets.
DISK_WORDS = ("No space left", "PytorchStreamWriter", "inline_container", "iostream error", "Not enough disk space")
UNFINISHED = 75  # exit status of a run that was stopped and can go on; EX_TEMPFAIL of sysexits.h


class RunFailed(RuntimeError):
    """The run went wrong: at which step, with which samples, and what can be done."""


class RunStopped(RuntimeError):
    """The run was asked to stop and has saved its place; the same command goes on from there."""


def unwritten(error: BaseException | None, folder: Path) -> str | None:
    """What to say of an error, or of one that it came from, that a file could not be written, in `folder` or on a full disk elsewhere.
    None of any other error."""
    folder = folder.absolute()
    while error is not None:
        name = getattr(error, "filename", None)
        path = Path(name).absolute() if isinstance(name, str | os.PathLike) else None
        own = path is not None and (path.is_relative_to(folder) or folder.is_relative_to(path))
        if own or getattr(error, "errno", None) in DISK_ERRORS or any(word in str(error) for word in DISK_WORDS):
            disk = f"the disk of {folder if own else path}"
            if path is None:
                disk = f"the disks of {folder} and of the data's cache (HF_DATASETS_CACHE)"
            return (
                f"a file could not be written ({error}). Checkpoints that are whole are as they were: see to {disk}, and give the "
                "same command again."
            )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


class StopSignals:
    """While the block runs, SIGTERM and SIGINT are noted in `received` instead of ending the process."""

    def __init__(self):
        self.received: str | None = None
        self.before = {}  # the handlers that were there

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            logger.warning("Not in the main thread: SIGTERM and SIGINT end this run without saving its place.")
            return self
        self.owner = os.getpid()
        self.before = {number: signal.signal(number, self.receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error):
        self.restore()

    def receive(self, number: int, frame) -> None:
        if os.getpid() != self.owner:  # a worker that loads data: the run tells it when to end, or has given it up
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.received = signal.Signals(number).name
        self.restore()
        os.write(2, f"\n{self.received}: the run stops when this step is saved; once more stops it now.\n".encode())

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
