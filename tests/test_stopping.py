"""Runs that are asked to stop, and runs at their end."""

import errno
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.test_distribution import launch
from tests.test_streaming import toy_stream
from tests.toy_training import TOY_DATA, Killed, losses, toy_tree, train_toy
from training import train
from training.data.formats import OWN_DATA
from training.recipe import build_recipe
from training.stopping import UNFINISHED, RunStopped, StopSignals, unwritten


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


def signal_at(monkeypatch, step: int, name: str) -> None:
    """During the step after this many."""
    monkeypatch.setattr("training.trainer.Throughput", Killed)
    monkeypatch.setenv("KILLED_AT_STEP", str(step))
    monkeypatch.setenv("KILLED_WITH", name)


def same_end(folder, other) -> bool:
    """Equal losses and equal weights, bit for bit."""
    reports = [json.loads((one / "training.json").read_text()) for one in (folder, other)]
    weights = [load_file(one / "model" / "model.safetensors") for one in (folder, other)]
    same_weights = all((weights[0][name] == weights[1][name]).all() for name in weights[0].keys() | weights[1].keys())
    return losses(reports[0]) == losses(reports[1]) and same_weights


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestSignals:
    @pytest.fixture(autouse=True)
    def python_handler(self):
        """A shell starts what it runs in the background with SIGINT ignored."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.parametrize(
        ("name", "step", "changes"),
        [
            ("SIGTERM", 2, {}),
            ("SIGINT", 3, {"save_strategy": "epoch"}),  # the step ends an epoch
            (
                "SIGTERM",
                1,
                {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 1},
            ),
            ("SIGTERM", 3, {"eval_strategy": "epoch"}),
            ("SIGINT", 5, {"dataloader_num_workers": 2}),  # the last step
        ],
    )
    def test_end_the_step_save_it_and_say_not_finished(self, tree, tmp_path, monkeypatch, capsys, name, step, changes):
        """And what goes on from there ends as a run without the signal."""
        tree["model"]["config"]["text_config"]["residual_dropout"] = 0.1
        tree["training"] |= {"max_steps": 6, "metric_for_best_model": "eval_loss", **changes}
        with monkeypatch.context() as patch:
            signal_at(patch, step, name)
            with pytest.raises(SystemExit) as end:
                train.train_and_exit(build_recipe(tree, "toy", "toy.yaml"))
        assert end.value.code == UNFINISHED
        told = capsys.readouterr().err
        assert f"Not finished: {name} after step {step + 1} of 6" in told and "goes on from there" in told
        assert (tmp_path / "run" / f"checkpoint-{step + 1}").is_dir() and not (tmp_path / "run" / "model").exists()
        assert not (tmp_path / "run" / "run.lock").exists()
        train_toy(tree)
        tree["training"]["output_dir"] = str(tmp_path / "whole")
        train_toy(tree)
        assert same_end(tmp_path / "run", tmp_path / "whole")

    def test_of_one_of_two_streaming_processes_stops_both(self, tmp_path, monkeypatch):
        tree = toy_stream(tmp_path / "run", dataloader_num_workers=2, per_device_train_batch_size=3, max_steps=4)
        tree["model"]["config"]["text_config"]["residual_dropout"] = 0.1
        tree["training"]["save_strategy"] = "no"
        for name in ("run", "whole"):
            tree["training"]["output_dir"] = str(tmp_path / name)
            (tmp_path / f"{name}.yaml").write_text(json.dumps(tree))
        with monkeypatch.context() as patch:
            signal_at(patch, 1, "SIGTERM")
            patch.setenv("KILLED_RANK", "1")
            with pytest.raises(Exception):  # noqa: B017 - torchrun's status is not 0
                launch(2, "-m", "tests.toy_training", str(tmp_path / "run.yaml"))
        assert (tmp_path / "run" / "checkpoint-2" / "stream_1.pt").is_file()
        assert not (tmp_path / "run" / "model").exists()
        for name in ("run", "whole"):
            launch(2, "-m", "tests.toy_training", str(tmp_path / f"{name}.yaml"))
        assert same_end(tmp_path / "run", tmp_path / "whole")

    def test_a_second_one_ends_the_process_at_once(self):
        with StopSignals() as stops, pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            assert stops.received == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)

    def test_handlers_are_those_of_before_afterwards(self):
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        with StopSignals():
            assert signal.getsignal(signal.SIGTERM) is not before[0]
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

    def test_outside_the_main_thread_there_are_no_handlers_and_one_line(self, caplog):
        before = signal.getsignal(signal.SIGTERM)

        def run():
            with StopSignals():
                assert signal.getsignal(signal.SIGTERM) is before

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert [record.message for record in caplog.records] == [
            "Not in the main thread: SIGTERM and SIGINT end this run without saving its place."
        ]


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestTheEnd:
    def test_a_finished_run_started_again_does_nothing_and_says_so(self, tree, tmp_path, monkeypatch, caplog):
        report = train_toy(tree)
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
        tree["eval"] = {"max_new_tokens": 3}  # no part of what is learnt
        monkeypatch.setattr(train, "TrainingSet", None)
        assert train_toy(tree) == report
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files
        assert "finished after 3 steps: nothing is done" in caplog.text

    def test_another_recipe_or_a_wish_to_begin_anew_trains(self, tree):
        first = losses(train_toy(tree))
        tree["training"]["seed"] = 7
        assert losses(train_toy(tree)) != first
        tree["training"] |= {"seed": 42, "resume_from_checkpoint": False}
        assert losses(train_toy(tree)) == first

    def test_a_run_that_was_begun_anew_and_killed_is_not_finished(self, tree, tmp_path, monkeypatch):
        train_toy(tree)
        tree["training"]["seed"] = 7
        with monkeypatch.context() as patch:
            signal_at(patch, 0, "SIGTERM")
            with pytest.raises(RunStopped):
                train_toy(tree)
        assert not (tmp_path / "run" / "training.json").exists()
        assert train_toy(tree)["steps_before"] == 1

    @pytest.mark.parametrize("changes", [{"max_steps": 6}, {"max_steps": -1, "num_train_epochs": 2}])
    def test_a_kill_during_the_final_save_takes_no_step_more(self, tree, tmp_path, monkeypatch, changes):
        tree["training"] |= {"save_strategy": "steps", "save_steps": 100, **changes}
        if "num_train_epochs" not in changes:
            tree["training"]["max_steps"] = 6  # in the middle of an epoch
        with monkeypatch.context() as patch:

            def killed(folder, *args, **kwargs):
                (folder.parent / ".model.x.saving").mkdir()
                raise KeyboardInterrupt

            patch.setattr("training.run_results.save_checkpoint", killed)
            with pytest.raises(KeyboardInterrupt):
                train_toy(tree)
        report = train_toy(tree)
        steps = 6 if "num_train_epochs" not in changes else 8
        assert report["steps"] == report["steps_before"] == steps and report["tokens"] == 0
        assert f"{steps} steps, the last of them before" in (tmp_path / "run" / "model" / "README.md").read_text()
        assert not list((tmp_path / "run").glob(".*"))
        tree["training"]["output_dir"] = str(tmp_path / "whole")
        assert losses(train_toy(tree)) == losses(report)
        assert same_end(tmp_path / "run", tmp_path / "whole")


class TestUnwritten:
    """What ended a run was a file that could not be written."""

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),  # of pyarrow: without a name
            OSError(errno.EROFS, "Read-only file system", "/elsewhere/cache"),
            PermissionError(errno.EACCES, "Permission denied", "run/recipe.part"),
            PermissionError(errno.EACCES, "Permission denied", "/"),  # on the way to the folder
            FileNotFoundError(errno.ENOENT, "No such file or directory", "run/checkpoint-1/config.json"),  # removed
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 227520 vs 227412"),
        ],
    )
    def test_is_told_with_the_disk(self, error):
        told = unwritten(error, Path("run"))
        disk = f"disk of {Path('run').absolute()}"
        if getattr(error, "filename", None) == "/elsewhere/cache":
            disk = "disk of /elsewhere/cache"
        elif getattr(error, "filename", None) is None:
            disk = f"disks of {Path('run').absolute()} and of the data's cache"
        assert f"({error})" in told and f"see to the {disk}" in told

    def test_what_it_led_to_is_told_as_the_error_that_it_came_from(self):
        try:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as full:
                raise ValueError("could not save") from full
        except ValueError as error:
            assert "No space left on device" in unwritten(error, Path("run"))

    @pytest.mark.parametrize(
        "error", [ValueError("wrong"), FileNotFoundError(errno.ENOENT, "No such file", "data/a.png"), MemoryError()]
    )
    def test_other_errors_are_not(self, error):
        assert unwritten(error, Path("run")) is None

    def test_a_full_disk_ends_the_process_with_the_sentence(self, tree, monkeypatch, capsys):
        def full(recipe):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(train, "train", full)
        with pytest.raises(SystemExit) as end:
            train.train_and_exit(build_recipe(tree, "toy", "toy.yaml"))
        assert str(end.value.code).startswith("The run went wrong: a file could not be written ([Errno 28] No space")
