"""Streaming: every sample once a pass over all processes and workers, the mixture as it was asked for, and the exact sample
after an interruption, whatever the files are."""

import io
import itertools
import json
import logging
import os
import signal
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.conftest import make_image
from tests.test_distribution import launch
from tests.test_resuming import run
from tests.toy_training import losses, toy_samples, toy_tree
from training.data import loading
from training.data.formats import OWN_DATA, BrokenSample, OwnData
from training.data.samples import answer_of, text_of
from training.data.streaming import StreamingMixture
from training.data.synthetic.conversation import png_bytes
from training.recipe import DataArguments, RecipeError, SourceArguments, build_recipe
from training.resuming import changed_keys, checkpoint_to_resume, last_checkpoint


OPTIONS = {"prompt": "{question}", "answer": "answer", "id": "name"}


def source(files: str, name: str = "mine", **fields) -> SourceArguments:
    return SourceArguments(
        **{"format": "prompt_answer", "split": "train", "options": OPTIONS} | fields, files=files, name=name
    )


def write_records(folder: Path, name: str, shards: int, each: int) -> None:
    """Records `name0`, `name1`, ... in so many files of jsonl."""
    for shard in range(shards):
        names = [f"{name}{shard * each + index}" for index in range(each)]
        lines = [json.dumps({"name": one, "question": f"{one}?", "answer": one}) for one in names]
        (folder / f"{name}-{shard}.jsonl").write_text("\n".join(lines))


def write_tar(path: Path, indices: range) -> None:
    with tarfile.open(path, "w") as tar:
        for index in indices:
            members = {"png": png_bytes(make_image(index)), "json": json.dumps({"text": f"c{index}"}).encode()}
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{index:03}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def mixture(
    sources: list[SourceArguments], root: Path, buffer: int = 4, rank: int = 0, world_size: int = 1, seed: int = 0
):
    data = DataArguments(sources, root=str(root), shuffle_buffer=buffer)
    return StreamingMixture(data, seed, rank, world_size)


def loader(stream: StreamingMixture, workers: int, batch_size: int = 1) -> StatefulDataLoader:
    return StatefulDataLoader(stream, batch_size=batch_size, num_workers=workers, collate_fn=list)


def ids(batches, count: int) -> list[list[str]]:
    return [[sample["id"] for sample in batch] for batch in itertools.islice(batches, count)]


class TestSharding:
    @pytest.mark.parametrize("buffer", [1, 3, 100])
    @pytest.mark.parametrize("shards", [8, 1])  # whole files for each worker, or every fourth record of one
    def test_every_sample_once_a_pass_over_two_processes_with_two_workers(self, tmp_path, shards, buffer):
        write_records(tmp_path, "a", shards, 24 // shards)
        stream = source("a-*.jsonl")
        passes = [[], []]
        for rank in range(2):
            batches = ids(loader(mixture([stream], tmp_path, buffer, rank, 2), workers=2), 24)
            names = [name for batch in batches for name in batch]
            passes[0] += names[:12]  # the two workers take turns
            passes[1] += names[12:]
        everything = sorted(f"a{index}" for index in range(24))
        assert sorted(passes[0]) == everything and sorted(passes[1]) == everything

    @pytest.mark.parametrize("kind", ["parquet", "webdataset", "dataset", "own data"])
    def test_files_of_every_kind(self, tmp_path, kind, monkeypatch):
        if kind == "parquet":  # one file, but each of its sample groups is a shard
            columns = {"image": [png_bytes(make_image(index)) for index in range(8)], "label": list(range(8))}
            Dataset.from_dict(columns).to_parquet(tmp_path / "a.parquet", batch_size=2)
            made = source("a.parquet", format="labelled_media", options={"image": "image", "prompt": "What?"})
        elif kind == "dataset":  # a folder as the Hub has it, by the name of the folder
            for shard in range(4):
                images = [png_bytes(make_image(index)) for index in (2 * shard, 2 * shard + 1)]
                columns = {"image": images, "label": [2 * shard, 2 * shard + 1]}
                Dataset.from_dict(columns).to_parquet(tmp_path / f"train-{shard:05}-of-00004.parquet")
            options = {"image": "image", "prompt": "What?"}
            made = SourceArguments("labelled_media", "train", dataset=str(tmp_path), options=options)
        elif kind == "webdataset":
            for shard in range(4):
                write_tar(tmp_path / f"{shard}.tar", range(2 * shard, 2 * shard + 2))
            made = source("*.tar", format="captions", options={"image": "png", "answer": "json.text"})
        else:
            monkeypatch.setitem(OWN_DATA, "toy", OwnData(toy_samples))
            made = SourceArguments("toy", "train")
        stream = mixture([made], tmp_path)
        count = 24 if kind == "own data" else 8
        parts = [stream.part(part, 2).iter(batch_size=1) for part in range(2)]
        samples = [next(part) for part in parts for _ in range(count // 2)]
        if kind == "own data":
            assert sorted(int(sample["id"][0]) for sample in samples) == list(range(24))
            return
        answers = [answer_of({"messages": sample["messages"][0]}) for sample in samples]
        assert sorted(answers) == [f"c{index}" if kind == "webdataset" else str(index) for index in range(8)]
        assert {sample["images"][0][0]["bytes"] for sample in samples} == {
            png_bytes(make_image(index)) for index in range(8)
        }
        assert stream.records[0].num_shards == 4

    def test_more_workers_than_samples(self, tmp_path):
        write_records(tmp_path, "a", 1, 3)
        with pytest.raises(ValueError, match="has no sample for part 3 of 4"):
            list(mixture([source("a-0.jsonl")], tmp_path, rank=3, world_size=4))


class TestOrder:
    def test_passes_differ_and_hold_every_sample_once(self, tmp_path):
        write_records(tmp_path, "a", 3, 10)
        names = [batch[0] for batch in ids(loader(mixture([source("a-*.jsonl")], tmp_path, 8), 0), 90)]
        passes = [names[start : start + 30] for start in (0, 30, 60)]
        assert len({tuple(one) for one in passes}) == 3 and all(len(set(one)) == 30 for one in passes)
        again = [batch[0] for batch in ids(loader(mixture([source("a-*.jsonl")], tmp_path, 8), 0), 90)]
        other = [batch[0] for batch in ids(loader(mixture([source("a-*.jsonl")], tmp_path, 8, seed=1), 0), 90)]
        assert names == again and names != other

    def test_a_buffer_of_one_keeps_the_order(self, tmp_path):
        write_records(tmp_path, "a", 3, 4)
        names = [batch[0] for batch in ids(loader(mixture([source("a-*.jsonl")], tmp_path, 1), 0), 24)]
        assert names == [f"a{index}" for index in range(12)] * 2

    def test_weights_are_shares_of_the_samples(self, tmp_path):
        write_records(tmp_path, "a", 2, 40)
        write_records(tmp_path, "b", 1, 5)
        sources = [source("a-*.jsonl", "a", weight=3.0), source("b-*.jsonl", "b", weight=1.0)]
        parts = [mixture(sources, tmp_path, rank=rank, world_size=2) for rank in range(2)]
        drawn = [[sample["task"] for sample in itertools.islice(part, 1000)] for part in parts]
        assert drawn[0] != drawn[1], "processes must not all draw from the same source at the same time"
        for tasks in drawn:  # four standard deviations of 1,000 draws
            assert Counter(tasks)["a"] / 1000 == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 1000) ** 0.5)

    def test_first_samples_are_the_same_in_every_process(self, tmp_path):
        write_records(tmp_path, "a", 2, 10)
        firsts = [list(mixture([source("a-*.jsonl")], tmp_path, rank=rank, world_size=2).first(20)) for rank in (0, 1)]
        assert firsts[0] == firsts[1]
        assert sorted(text_of(sample["messages"][0]) for sample in firsts[0]) == sorted(f"a{i}?" for i in range(20))


class TestGoingOn:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_at_the_exact_sample(self, tmp_path, workers):
        """In the middle of a buffer, of a pass, of a shard; the state is a plain file, read in another process too."""
        write_records(tmp_path, "a", 5, 7)
        write_records(tmp_path, "b", 1, 9)
        for shard in range(3):
            write_tar(tmp_path / f"{shard}.tar", range(3 * shard, 3 * shard + 3))
        images = source("*.tar", "c", format="captions", options={"image": "png", "answer": "json.text"})
        sources = [source("a-*.jsonl", weight=2.0), source("b-*.jsonl"), images]

        def new_loader() -> StatefulDataLoader:
            return loader(mixture(sources, tmp_path, buffer=6), workers, batch_size=3)

        whole = ids(new_loader(), 40)
        for batches in (1, 4, 17):
            interrupted = new_loader()
            taken = ids(iter(interrupted), batches)
            torch.save(interrupted.state_dict(), tmp_path / "state.pt")
            continued = new_loader()
            continued.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            assert taken + ids(continued, 40 - batches) == whole


class TestBrokenSamples:
    @pytest.fixture
    def broken(self, tmp_path) -> SourceArguments:
        answers = [
            {"name": f"a{index}", "question": "?", "answer": None if index in (2, 5) else "x"} for index in range(8)
        ]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, answers)))
        return source("a.jsonl")

    def test_are_left_out_and_named_once(self, tmp_path, broken, caplog):
        with caplog.at_level(logging.WARNING):
            samples = list(itertools.islice(mixture([broken], tmp_path), 36))
        assert Counter(sample["id"] for sample in samples) == {f"a{index}": 6 for index in (0, 1, 3, 4, 6, 7)}
        assert caplog.text.count("left out: sample 'a2' of mine") == caplog.text.count("left out: sample 'a5'") == 1

    def test_strict(self, tmp_path, broken):
        broken.strict = True
        with pytest.raises(BrokenSample, match=r"'a[25]' of mine, split train: column 'answer' is empty"):
            ids(loader(mixture([broken], tmp_path), 2), 20)

    def test_nothing_but_broken_samples_is_an_error_and_no_endless_search(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loading, "TRIED", 50)
        (tmp_path / "a.jsonl").write_text(json.dumps({"name": "a", "question": "?", "answer": None}))
        with pytest.raises(ValueError, match="no sample can be used of the first 50"):
            next(iter(mixture([source("a.jsonl")], tmp_path)))

    def test_columns_that_come_late(self, tmp_path):
        lines = [{"name": f"a{index}", "question": "?", "answer": "x"} for index in range(300)]
        lines[250]["remark"] = "late"
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
        samples = list(itertools.islice(mixture([source("a.jsonl")], tmp_path, buffer=20), 300))
        assert len({sample["id"] for sample in samples}) == 300

    def test_a_limit_of_a_stream_is_refused(self):
        with pytest.raises(RecipeError, match=r"data\.train\.0\.limit draws from all samples"):
            DataArguments([source("a-0.jsonl", limit=3)], streaming=True)


def toy_stream(folder: Path, **training) -> dict:
    """The recipe of toy_training.py on files: images, audio and texts in four shards, plain questions in another source."""
    folder.parent.mkdir(exist_ok=True)
    data = folder.parent / "data"
    if not data.exists():
        data.mkdir()
        samples = toy_samples(folder, "train").remove_columns(["task", "metric", "references", "videos"])
        for shard in range(4):
            samples.shard(4, shard).to_parquet(data / f"toy-{shard}.parquet")
        write_records(data, "a", 4, 5)
    tree = toy_tree(folder)
    toys = {"format": "messages", "files": "toy-*.parquet", "name": "toys", "weight": 2.0}
    texts = {"format": "prompt_answer", "files": "a-*.jsonl", "options": OPTIONS, "name": "texts"}
    tree["data"] = {"train": [toys, texts], "root": str(data), "streaming": True, "shuffle_buffer": 5}
    tree["model"]["config"]["text_config"]["residual_dropout"] = 0.1
    tree["augment"] = {"audio_noise": 0.3, "image_shift": 4}
    tree["training"] |= {"max_steps": 11, "save_strategy": "steps", "save_steps": 3, **training}
    return tree


class TestTraining:
    @pytest.mark.parametrize(("sequence", "workers"), [(None, 2), ({"pack_to": 100}, 0)])
    def test_killed_in_mid_stream_and_started_again_is_never_killed(self, tmp_path, sequence, workers):
        results = []
        for name, kill_at in (("whole", None), ("killed", "7")):
            folder = tmp_path / name
            tree = toy_stream(folder, dataloader_num_workers=workers, per_device_train_batch_size=2 if sequence else 6)
            tree["sequence"] = sequence
            if kill_at is not None:
                assert run(folder, tree, KILLED_AT_STEP=kill_at) == -signal.SIGKILL
                assert (
                    last_checkpoint(folder, streaming=True).name == "checkpoint-6" and not (folder / "model").exists()
                )
            assert run(folder, tree) == 0
            report = json.loads((folder / "training.json").read_text())
            results.append((load_file(folder / "model" / "model.safetensors"), losses(report)))
        (weights, curve), (weights_again, curve_again) = results
        assert curve == curve_again and len(curve) == 11
        assert all((weights[name] == weights_again[name]).all() for name in weights)

    def test_two_processes_with_two_workers(self, tmp_path):
        """They learn from their own parts, and go on from their own places."""
        tree = toy_stream(tmp_path / "run", dataloader_num_workers=2, per_device_train_batch_size=3, max_steps=6)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        launch(2, "-m", "tests.toy_training", str(tmp_path / "recipe.yaml"))
        curve = losses(json.loads((tmp_path / "run" / "training.json").read_text()))
        assert len(curve) == 6
        os.rename(tmp_path / "run" / "checkpoint-6", tmp_path / "last")
        os.remove(tmp_path / "run" / "training.json")  # else the run is finished
        launch(2, "-m", "tests.toy_training", str(tmp_path / "recipe.yaml"))
        assert losses(json.loads((tmp_path / "run" / "training.json").read_text())) == curve
        with pytest.raises(RecipeError, match="written by 2 processes"):
            checkpoint_to_resume(build_recipe(tree, "toy", "toy.yaml"))

    def test_pretraining_on_blocks(self, tmp_path):
        tree = toy_stream(tmp_path / "run", max_steps=2)
        data = tmp_path / "data"
        (data / "texts.txt").write_text("\n".join("to be or not to be " * (1 + index % 4) for index in range(20)))
        tree["data"]["train"] = [{"format": "text", "files": "texts.txt"}]
        tree |= {"stage": "pretrain", "sequence": {"pack_to": 32}, "augment": None}
        assert run(tmp_path / "run", tree) == 0
        assert len(losses(json.loads((tmp_path / "run" / "training.json").read_text()))) == 2

    def test_a_checkpoint_without_its_place_in_the_stream_is_not_whole(self, tmp_path):
        checkpoint = tmp_path / "checkpoint-3"
        checkpoint.mkdir()
        for name in ("trainer_state.json", "rng_state_0.pth", "rng_state_1.pth", "stream_0.pt"):
            (checkpoint / name).write_text("{}")
        assert last_checkpoint(tmp_path, streaming=True) is None and last_checkpoint(tmp_path) == checkpoint
        (checkpoint / "stream_1.pt").write_text("")
        assert last_checkpoint(tmp_path, streaming=True) == checkpoint

    def test_the_number_of_workers_belongs_to_a_stream(self, tmp_path):
        tree = toy_stream(tmp_path / "run")
        build_recipe(tree, "toy", "toy.yaml").write(tmp_path / "recipe.yaml")
        tree["training"]["dataloader_num_workers"] = 3
        for streaming, changed in ((True, ["training.dataloader_num_workers"]), (False, ["data.streaming"])):
            tree["data"]["streaming"] = streaming
            keys = changed_keys(build_recipe(tree, "toy", "toy.yaml"), tmp_path / "recipe.yaml")
            assert set(changed) <= set(keys) and (streaming or "training.dataloader_num_workers" not in keys)

    def test_a_stream_needs_an_end(self, tmp_path):
        tree = toy_stream(tmp_path / "run", max_steps=-1)
        with pytest.raises(RecipeError, match=r"set training\.max_steps"):
            build_recipe(tree, "toy", "toy.yaml")
