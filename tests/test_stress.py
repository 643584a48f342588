"""The stress checks: they hit a process where they say, a case that is wrong is told, and a few cases of each group are right."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.checks.stress import __main__ as stress
from training.checks.stress.file_changes import BALLAST, FileChanges, Moment, fill_disk, shape_of
from training.checks.stress.full_disk import small_disk, why_not_mounted
from training.checks.stress.judging import (
    Case,
    check_finished,
    check_passed_over,
    check_refused,
    check_told,
    copy_run,
)
from training.checks.stress.kills import moments
from training.checks.stress.runs import Ended, Wrong


def change_files(folder: Path, moment: Moment | None, program: str) -> tuple[int, list[str]]:
    """Exit status of a process that runs the program in the folder, and the changes that it was seen to make."""
    hooked = (
        "import json, os, shutil, sys\n"
        "from pathlib import Path\n"
        "from training.checks.stress.file_changes import FileChanges, Moment\n"
        f"changes = FileChanges(Path({str(folder)!r}), {moment!r}, Path({str(folder.parent)!r}))\n"
        "sys.addaudithook(changes)\n"
        f"os.chdir({str(folder)!r})\n"
        f"{program}\n"
        "print(json.dumps(changes.seen))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", hooked], env=environment, capture_output=True, text=True)
    return ended.returncode, json.loads(ended.stdout) if ended.returncode == 0 else []


class TestFileChanges:
    def test_every_way_to_change_a_file_is_seen_and_reading_is_not(self, tmp_path):
        (tmp_path / "run" / "old").mkdir(parents=True)
        (tmp_path / "run" / "old" / "a.txt").write_text("a")
        program = (
            "Path('new').mkdir(); Path('new/b').write_text('b'); Path('new/b').read_text(); os.listdir('.')\n"
            "os.replace('new/b', 'c'); os.link('c', 'd'); os.symlink('c', 'e'); os.chmod('c', 0o600)\n"
            "shutil.rmtree('old'); Path('/dev/null').write_text('elsewhere')"
        )
        status, seen = change_files(tmp_path / "run", None, program)
        assert status == 0
        assert seen == [
            *("mkdir new", "open new/b", "rename c", "link d", "symlink e", "chmod c"),
            *("remove old/a.txt", "rmdir old"),  # by names inside an open folder
        ]

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_signal_comes_before_the_change(self, tmp_path, number):
        (tmp_path / "run").mkdir()
        program = "\n".join(f"Path('{name}').write_text('')" for name in "abc")
        status, _ = change_files(tmp_path / "run", Moment(number, "SIGKILL"), program)
        assert status == -signal.SIGKILL
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == list("abc")[: number - 1]

    def test_a_process_waits_until_it_may_go_on(self, tmp_path):
        changes = FileChanges(tmp_path / "run", Moment(1, "wait"), tmp_path)
        (tmp_path / "go").touch()
        begun = time.monotonic()
        changes("open", (str(tmp_path / "run" / "a"), "w", os.O_WRONLY))
        assert (tmp_path / "waits").exists() and time.monotonic() - begun < 5

    def test_only_a_disk_that_was_mounted_for_it_is_filled(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="filled only where it holds"):
            fill_disk(tmp_path)

    @pytest.mark.skipif(why_not_mounted() is not None, reason="no disk can be mounted here")
    def test_on_a_full_disk_nothing_more_is_written(self, tmp_path):
        with small_disk(tmp_path / "disk", "1m") as disk:
            (disk / "before").write_text("kept")
            fill_disk(disk)
            with pytest.raises(OSError, match="No space left"):
                (disk / "after").write_text("more")
            assert (disk / "before").read_text() == "kept"
            (disk / BALLAST).unlink()
            (disk / "after").write_text("more")
        assert not any((tmp_path / "disk").iterdir())


def test_of_each_kind_of_change_the_last_is_chosen_and_some_first_ones():
    names = ["open checkpoint-1/a", "open checkpoint-1/b_c.py", "open checkpoint-2/a", "open checkpoint-2/d.py"]
    assert moments([*names, "rename .model.a1b2c3d4.saving"]) == [
        (1, names[0]),
        (3, names[2]),
        (4, names[3]),
        (5, "rename .model.a1b2c3d4.saving"),
    ]
    assert shape_of("open .run.lock.host.12") == "open .run*"


class TestJudging:
    @pytest.fixture
    def whole(self, tmp_path) -> Path:
        """What a run left, as far as it is compared."""
        for folder in ("checkpoint-3", "checkpoint-4", "model"):
            (tmp_path / "whole" / folder).mkdir(parents=True)
            (tmp_path / "whole" / folder / "model.safetensors").write_bytes(folder.encode())
        (tmp_path / "whole" / "model" / "README.md").write_text("trained in 1 s")
        (tmp_path / "whole" / "training.json").write_text(json.dumps({"log": [{"loss": 2.0}, {"eval_loss": 1.0}]}))
        (tmp_path / "whole" / "recipe.yaml").write_text("model: {}")
        return tmp_path / "whole"

    @pytest.fixture
    def output(self, whole, tmp_path) -> Path:
        copy_run(whole, tmp_path / "run", "checkpoint-3", "checkpoint-4", "model")
        (tmp_path / "run" / "model" / "README.md").write_text("trained in 2 s")
        (tmp_path / "run" / "training.json").write_bytes((whole / "training.json").read_bytes())
        return tmp_path / "run"

    def test_what_is_equal_but_for_its_times_is_right(self, whole, output):
        check_finished(Ended(0, ""), output, whole)

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda run: (run / "model/model.safetensors").write_bytes(b"modem"), r"model differs .*model\.saf"),
            (lambda run: (run / "checkpoint-4/model.safetensors").write_bytes(b""), "checkpoint-4 differs"),
            (lambda run: (run / ".model.x.saving").mkdir(), r"\['.model.x.saving'\] too many"),
            (lambda run: (run / "recipe.yaml").unlink(), r"lacks \['recipe.yaml'\]"),
            (lambda run: (run / "model/config.json").touch(), "other files"),
            (
                lambda run: (run / "training.json").write_text('{"log": [{"loss": 2.5}]}'),
                r"losses \[2.5\] in place of",
            ),
        ],
    )
    def test_whatever_else_differs_is_wrong(self, whole, output, spoil, told):
        spoil(output)
        with pytest.raises(Wrong, match=told):
            check_finished(Ended(0, ""), output, whole)

    def test_another_exit_status_is_wrong(self, whole, output):
        with pytest.raises(Wrong, match="exit status 1 in place of 0: it failed"):
            check_finished(Ended(1, "first\nit failed\n"), output, whole)

    @pytest.mark.parametrize(
        ("ended", "told"),
        [
            (Ended(0, "no space left"), "exit status 0"),
            (Ended(None, "no space left"), "hangs"),
            (Ended(-6, "no space left"), "signal 6"),
            (Ended(1, "went wrong"), "does not tell 'no space left'; it says: went wrong"),
            (Ended(1, "Traceback (most recent call last):\nOSError: no space left"), "a raw error: OSError"),
        ],
    )
    def test_a_refusal_is_a_sentence_and_an_exit_status(self, ended, told):
        with pytest.raises(Wrong, match=told):
            check_refused(ended, "no space left")
        check_refused(Ended(2, "error: no space left"), "no space left")

    def test_a_checkpoint_is_passed_over_by_name_and_with_the_reason(self):
        text = "run/checkpoint-4 is passed over: optimizer.pt is missing."
        check_passed_over(Ended(0, text), "checkpoint-4", "optimizer.pt")
        for checkpoint, reason in (("checkpoint-3", "optimizer.pt"), ("checkpoint-4", "scheduler.pt")):
            with pytest.raises(Wrong, match="does not tell"):
                check_passed_over(Ended(0, text), checkpoint, reason)
        check_told(Ended(0, text))


class TestReport:
    def run(self, monkeypatch, *checks) -> int:
        """Exit status with cases of one group that are these checks."""

        class Group:
            @staticmethod
            def cases(runs, is_quick):
                return [Case(f"case {number}", check) for number, check in enumerate(checks)]

        monkeypatch.setattr(stress, "Runs", lambda folder: None)
        monkeypatch.setitem(stress.TRAINING, "kills", Group)
        monkeypatch.setattr(sys, "argv", ["stress", "--only", "kills"])
        with pytest.raises(SystemExit) as end:
            stress.main()
        return end.value.code

    def test_all_right(self, monkeypatch, capsys):
        assert self.run(monkeypatch, lambda folder: None) == 0
        assert "1 right, 0 wrong" in capsys.readouterr().out

    def test_one_wrong_and_a_check_that_breaks(self, monkeypatch, capsys):
        def is_wrong(folder: Path) -> None:
            raise Wrong("other weights")

        assert self.run(monkeypatch, lambda folder: None, is_wrong, lambda folder: 1 / 0) == 1
        printed = capsys.readouterr().out
        assert "1 right, 2 wrong" in printed and "other weights" in printed and "ZeroDivisionError" in printed

    def test_an_unknown_group_is_refused(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["stress", "--only", "floods"])
        with pytest.raises(SystemExit):
            stress.main()
        assert "--only floods: it is one of kills, damage" in capsys.readouterr().err


def test_a_few_cases_of_each_group_are_right():
    """The whole of it is `make stress`."""
    command = [sys.executable, "-m", "training.checks.stress", "--quick", "--only", ",".join(stress.TRAINING)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" right ") >= 8
