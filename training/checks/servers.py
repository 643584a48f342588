"""A server in a process of its own, up while a block runs: what the checks and the tests ask over HTTP."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Server(NamedTuple):
    address: str
    pid: int


@contextmanager
def serving(
    command: list[str], log: Path, environment: dict[str, str] | None = None, seconds: float = 600
) -> Iterator[Server]:
    """Starts `command` on a free port, in the folder of its `log`; yields it once it answers /health.

    A server that ends before, or is not up after so many `seconds`, is a `RuntimeError` with the last lines of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for(server, f"http://127.0.0.1:{port}/health", log, seconds)
        yield Server(f"http://127.0.0.1:{port}", server.pid)
    finally:
        stop(server)


def stop(server: subprocess.Popen) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            os.killpg(server.pid, end)
            with suppress(subprocess.TimeoutExpired):
                server.wait(30)


def wait_for(server: subprocess.Popen, url: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"{tail(log)}\nThe server ended by itself: its last lines are above.")
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{tail(log)}\nThe server was not up after {seconds} s: its last lines are above.")


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
