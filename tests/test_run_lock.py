"""One run at a time in a folder."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from training.recipe_files import RecipeError
from training.run_lock import locked, process_of


HERE = {"host": socket.gethostname()}


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    refused = pytest.raises(RecipeError, match=rf"run in progress \(process {os.getpid()}\)")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / "run.lock").is_file()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    "owner",
    [
        {**HERE, "pid": dead_process(), "started": "then"},
        {**HERE, "pid": os.getpid(), "started": "before this process, whose number is the same"},
        {**HERE, "pid": 1, "started": "of another boot"},
    ],
)
def test_the_lock_of_a_dead_process_of_this_host_is_taken_over(tmp_path, owner):
    (tmp_path / "run.lock").write_text(json.dumps(owner))
    with locked(tmp_path):
        held = json.loads((tmp_path / "run.lock").read_text())
        assert held == {**HERE, **process_of(os.getpid())}
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize(
    "text", [json.dumps({"host": "elsewhere", "pid": 1, "started": None}), "", "{}", "[]", "half{"]
)
def test_of_any_other_lock_the_file_to_remove_is_named(tmp_path, text):
    (tmp_path / "run.lock").write_text(text)
    with pytest.raises(RecipeError, match=re.escape(str(tmp_path / "run.lock"))), locked(tmp_path):
        pass
    assert (tmp_path / "run.lock").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_what_killed_runs_left_half_written_is_removed(tmp_path):
    for name in (".model.x1.saving", ".adapter.x2.saving", ".checkpoint-3.removed", "model", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "recipe.part").write_text("half")
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model", "run.lock"]
