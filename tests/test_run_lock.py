"""One run at a time in a folder."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training.recipe_files import RecipeError
from training.run_lock import locked


HERE, BOOT = socket.gethostname(), Path("/proc/sys/kernel/random/boot_id")
HOLD = """
import os, sys
from pathlib import Path
from training.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
    os._exit(9)  # nothing is tidied up
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path until its input ends, and then dies."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.communicate()


def test_a_second_run_is_refused_while_the_first_lasts(tmp_path):
    refused = pytest.raises(RecipeError, match=rf"run in progress \(process {os.getpid()} on {HERE}")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / "run.lock").is_file()
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_of_another_process_holds_until_it_dies(tmp_path, other):
    with pytest.raises(RecipeError, match=rf"run in progress \(process {other.pid} on {HERE}"), locked(tmp_path):
        pass
    other.communicate()
    with locked(tmp_path):
        assert (tmp_path / "run.lock").read_text().startswith(f"{os.getpid()}\n{HERE}")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_outlives_its_run_holds_nothing(tmp_path):
    """A forked process has the descriptors of the run, as one that loads data has."""
    with locked(tmp_path):
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        os.waitpid(worker, os.WUNTRACED)
    with locked(tmp_path):
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        assert (tmp_path / "run.lock").is_file()


@pytest.mark.skipif(not BOOT.exists(), reason="this system does not tell when a process began")
def test_a_number_that_was_given_again_is_another_process(tmp_path):
    (tmp_path / "run.lock").write_text(f"{os.getpid()}\n{HERE}\n12345\n")
    with locked(tmp_path):
        assert "12345" not in (tmp_path / "run.lock").read_text()


@pytest.mark.parametrize("text", ["12\nelsewhere\n", "1\nelsewhere\n5\n", "", "{}", '{"host": "elsewhere", "pid": 1}'])
def test_of_any_other_lock_the_file_to_remove_is_named(tmp_path, text):
    """An owner on another host, whom nobody here can ask; a lock of nobody."""
    (tmp_path / "run.lock").write_text(text)
    owner = r"process \d+ on elsewhere" if "\n" in text else "its lock does not say"
    with pytest.raises(RecipeError, match=f"{owner}.* remove {tmp_path / 'run.lock'}"), locked(tmp_path):
        pass
    assert (tmp_path / "run.lock").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_what_killed_runs_left_half_written_is_removed(tmp_path):
    for name in (".model.x1.saving", "model/.model.x2.saving", ".checkpoint-3.removed", "mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "recipe.part").write_text("half")
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "model", "run.lock"]
