"""Checkpoints that are damaged are passed over by name; older ones go only after the new one is whole."""

import json
import shutil

import pytest

from modeling_mmgpt.folders_mmgpt import describe_file, read_manifest, write_manifest
from tests.test_stopping import same_end, train_toy, tree  # noqa: F401 - a fixture
from tests.toy_training import losses
from training.checkpoints import MANIFEST, begin_checkpoint, checkpoints_in, finish_checkpoint, problem_of, rotate
from training.recipe import RecipeError, build_recipe
from training.resuming import checkpoint_to_resume, last_checkpoint


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


DAMAGES = {
    cut: "bytes in place of",
    empty: "bytes in place of",
    flip: "is not what was written",
    remove: "is missing",
}


def write_checkpoint(folder, step: int, best: str | None = None) -> None:
    begin_checkpoint(folder / f"checkpoint-{step}")
    for name in ("optimizer.pt", "part/weights.bin"):
        path = folder / f"checkpoint-{step}" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("state")
    state = {"best_model_checkpoint": best and str(folder / best)}
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    finish_checkpoint(folder / f"checkpoint-{step}")


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestRunsWithDamagedCheckpoints:
    def test_every_file_and_every_damage(self, tree, tmp_path, caplog):  # noqa: F811
        """The checkpoint before is taken, and the log says what is wrong with the last one."""
        tree["training"] |= {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
        train_toy(tree)
        folder = tmp_path / "run"
        last, kept = folder / "checkpoint-2", tmp_path / "kept"
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"} <= set(
            json.loads((last / MANIFEST).read_text())["files"]
        )
        shutil.copytree(last, kept)
        assert last_checkpoint(folder) == last
        for path in sorted(one for one in last.rglob("*") if one.is_file() and one.name != MANIFEST):
            for damage, reason in DAMAGES.items():
                if path.stat().st_size == 0:
                    continue
                caplog.clear()
                damage(path)
                assert last_checkpoint(folder) == folder / "checkpoint-1", (path, damage)
                assert f"{last} is passed over: {path.relative_to(last)} " in caplog.text and reason in caplog.text
                shutil.copyfile(kept / path.relative_to(last), path)
        assert last_checkpoint(folder) == last

    def test_the_run_goes_on_from_the_one_before_to_the_same_end(self, tree, tmp_path, caplog):  # noqa: F811
        tree["training"] |= {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
        tree["model"]["config"]["text_config"]["residual_dropout"] = 0.1
        whole = train_toy(tree)
        shutil.copytree(tmp_path / "run", tmp_path / "whole")
        (tmp_path / "run" / "training.json").unlink()
        flip(tmp_path / "run" / "checkpoint-6" / "optimizer.pt")
        report = train_toy(tree)
        assert report["steps_before"] == 4 and losses(report) == losses(whole)
        assert same_end(tmp_path / "run", tmp_path / "whole")
        assert f"The run goes on from {tmp_path / 'run' / 'checkpoint-4'}, step 4." in caplog.text
        assert [path.name for path in checkpoints_in(tmp_path / "run")] == ["checkpoint-4", "checkpoint-6"]
        assert problem_of(tmp_path / "run" / "checkpoint-6") is None

    def test_a_damaged_recipe_beside_checkpoints(self, tree, tmp_path):  # noqa: F811
        tree["training"] |= {"save_strategy": "steps", "max_steps": 1}
        train_toy(tree)
        for text in (b"", b"a: [", b"\xff\xfe", b"a list"):
            (tmp_path / "run" / "recipe.yaml").write_bytes(text)
            with pytest.raises(RecipeError, match=r"recipe\.yaml is damaged"):
                checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))

    def test_a_named_checkpoint_that_is_damaged(self, tree, tmp_path):  # noqa: F811
        write_checkpoint(tmp_path, 3)
        empty(tmp_path / "checkpoint-3" / "optimizer.pt")
        tree["training"]["resume_from_checkpoint"] = str(tmp_path / "checkpoint-3")
        with pytest.raises(RecipeError, match=r"optimizer\.pt has 0 bytes in place of 5"):
            checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))


class TestWhole:
    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {"optimizer.pt": 3}}', '{"files": 3}'])
    def test_a_damaged_manifest(self, tmp_path, text):
        write_checkpoint(tmp_path, 3)
        (tmp_path / "checkpoint-3" / MANIFEST).write_text(text)
        assert problem_of(tmp_path / "checkpoint-3") == f"{MANIFEST} is damaged"

    def test_nothing_but_damaged_ones_is_an_error_that_names_them(self, tmp_path):
        for step, damage, name in ((3, flip, "optimizer.pt"), (6, remove, "trainer_state.json")):
            write_checkpoint(tmp_path, step)
            damage(tmp_path / f"checkpoint-{step}" / name)
        with pytest.raises(
            RecipeError, match=r"checkpoint-6: trainer_state.json is missing; checkpoint-3: optimizer.pt is"
        ):
            last_checkpoint(tmp_path)

    def test_a_kill_during_the_first_one_begins_from_the_beginning(self, tmp_path):
        write_checkpoint(tmp_path, 3)
        begin_checkpoint(tmp_path / "checkpoint-3")
        (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("{}")
        assert last_checkpoint(tmp_path) is None

    def test_a_manifest_of_the_model_alone_is_that_of_a_run_of_before(self, tmp_path):
        """They had another file, manifest.json, for the checkpoint; its model's own still counts."""
        checkpoint = tmp_path / "checkpoint-3"
        checkpoint.mkdir()
        for name in ("model.safetensors", "optimizer.pt"):
            (checkpoint / name).write_text(name)
        (checkpoint / "manifest.json").write_text('{"files": {}}')
        write_manifest(checkpoint, {"files": {"model.safetensors": describe_file(checkpoint / "model.safetensors")}})
        assert last_checkpoint(tmp_path) is None
        (checkpoint / "trainer_state.json").write_text("{}")
        assert last_checkpoint(tmp_path) == checkpoint
        flip(checkpoint / "model.safetensors")
        assert problem_of(checkpoint) == "model.safetensors is not what was written"

    def test_a_models_save_into_it_describes_what_it_replaces(self, tmp_path, model, processor):
        """Unfinished it stays so, and finished it stays whole."""
        checkpoint = tmp_path / "checkpoint-3"
        begin_checkpoint(checkpoint)
        model.save_pretrained(checkpoint)
        weights = read_manifest(checkpoint)["files"]["model.safetensors"]
        assert problem_of(checkpoint) == "it was not written to its end"
        processor.save_pretrained(checkpoint)
        (checkpoint / "trainer_state.json").write_text("{}")
        finish_checkpoint(checkpoint)
        files = {path.name for path in checkpoint.iterdir()}
        assert read_manifest(checkpoint)["files"].keys() == files - {MANIFEST}
        assert read_manifest(checkpoint)["files"]["model.safetensors"] == weights
        model.lm_head.weight.data += 1
        processor.tokenizer.add_tokens("new")
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        assert problem_of(checkpoint) is None and read_manifest(checkpoint)["files"]["model.safetensors"] != weights
        (checkpoint / "tokenizer.json").unlink()
        assert problem_of(checkpoint) == "tokenizer.json is missing"

    def test_files_that_do_not_belong_to_it_do_not_matter(self, tmp_path):
        write_checkpoint(tmp_path, 3)
        (tmp_path / "checkpoint-3" / "notes.txt").write_text("mine")
        (tmp_path / "checkpoint-best").mkdir()
        (tmp_path / "checkpoint-9").write_text("a file")
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


class TestRotation:
    @pytest.mark.parametrize(
        ("limit", "keep", "left"),
        [
            (None, None, [3, 6, 9, 12, 20]),
            (0, None, [3, 6, 9, 12, 20]),
            (1, None, [12, 20]),
            (2, None, [9, 12, 20]),
            (1, "checkpoint-3", [3, 12, 20]),
            (2, "checkpoint-3", [3, 12, 20]),
            (3, "checkpoint-12", [6, 9, 12, 20]),
        ],
    )
    def test_the_newest_and_the_best_stay(self, tmp_path, limit, keep, left):
        for step in (3, 6, 9, 12, 20):
            write_checkpoint(tmp_path, step, keep)
        rotate(tmp_path / "checkpoint-12", limit)
        assert sorted(int(path.name[11:]) for path in tmp_path.iterdir()) == left

    def test_damaged_ones_go_first(self, tmp_path):
        for step in (3, 6, 9):
            write_checkpoint(tmp_path, step)
        cut(tmp_path / "checkpoint-6" / "optimizer.pt")
        rotate(tmp_path / "checkpoint-9", 2)
        assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-3", "checkpoint-9"]
