r"""Runs that end before their last step: by a signal, or because something went wrong.

SIGTERM and SIGINT let the step in progress end, which is then saved as every other checkpoint is; a second signal ends the
process at once. Outside the main thread, where Python allows no handlers, signals do what they did before.
"""

import logging
import os
import signal
import threading


logger = logging.getLogger(__name__)

UNFINISHED = 75  # exit status of a run that was stopped and can go on; EX_TEMPFAIL of sysexits.h


class RunFailed(RuntimeError):
    """The run went wrong: at which step, with which samples, and what can be done."""


class RunStopped(RuntimeError):
    """The run was asked to stop and has saved its place; the same command goes on from there."""


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
