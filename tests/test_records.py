"""Records: what cannot be read any more is named and left out, or is an error, in memory and in a stream."""

import json
import os
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from training.data.records import (
    DataError,
    load_records,
    reader_of,
    stamp_of,
    state_of,
    stream_records,
    streamed_files,
)
from training.data.samples import LeftOut
from training.recipe import SourceArguments


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, first: int, count: int = 4) -> None:
    records = [{"name": f"a{index}", "text": "x" * 50} for index in range(first, first + count)]
    if path.suffix == ".parquet":
        Dataset.from_list(records).to_parquet(path, batch_size=2)
    else:
        path.write_text("\n".join(map(json.dumps, records)))


@pytest.fixture(params=["jsonl", "parquet"])
def shards(request, tmp_path) -> list[Path]:
    """Three files of four records each; parquet in two row groups."""
    paths = [tmp_path / f"a-{index}.{request.param}" for index in range(3)]
    for index, path in enumerate(paths):
        write(path, 4 * index)
    return paths


def source(paths: list[Path], **fields) -> SourceArguments:
    return SourceArguments("text", "train", files=f"a-*{paths[0].suffix}", name="mine", **fields)


def names(records) -> list[str]:
    return [record["name"] for record in records]


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(b"\x00{" * (len(data) // 2))
    elif how == "cut":
        path.write_bytes(data[: 2 * len(data) // 3])
    else:
        write(path, 100)


class TestInMemory:
    @pytest.mark.parametrize("how", ["damaged", "cut"])
    def test_a_file_that_cannot_be_read_is_left_out_by_name(self, shards, tmp_path, how, caplog):
        spoil(shards[1], how)
        left_out = LeftOut()
        assert names(load_records(source(shards), tmp_path, left_out)) == [f"a{i}" for i in (0, 1, 2, 3, 8, 9, 10, 11)]
        assert len(left_out.names) == 1 and f"left out: mine, split train: {shards[1]} cannot be read: " in caplog.text

    def test_with_strict_it_is_an_error_of_one_line(self, shards, tmp_path):
        spoil(shards[1], "cut")
        with pytest.raises(DataError, match=f"^mine, split train: {shards[1]} cannot be read: ") as error:
            load_records(source(shards, strict=True), tmp_path, LeftOut())
        assert "\n" not in str(error.value)

    def test_where_no_file_can_be_read_there_is_nothing_to_go_on_with(self, shards, tmp_path):
        for path in shards:
            spoil(path, "cut")
        with pytest.raises(DataError, match="cannot be read"):
            load_records(source(shards), tmp_path, LeftOut())

    def test_another_content_at_the_same_time_is_read_anew(self, shards, tmp_path):
        assert names(load_records(source(shards), tmp_path, LeftOut()))[4] == "a4"
        times = os.stat(shards[1])
        write(shards[1], 200)
        os.utime(shards[1], ns=(times.st_atime_ns, times.st_mtime_ns))
        assert names(load_records(source(shards), tmp_path, LeftOut()))[4] == "a200"

    def test_a_mistake_in_the_recipe_is_one_line_too(self, shards, tmp_path):
        with pytest.raises(DataError, match=r"mine, split train: .*nonsense"):
            load_records(source(shards, load={"nonsense": 1}), tmp_path, LeftOut())


class TestInAStream:
    def stream(self, shards, root, left_out, **fields):
        made = source(shards, **fields)
        return stream_records(made, root, streamed_files(made, root), left_out)

    def test_each_row_group_is_a_shard(self, shards, tmp_path):
        stream = self.stream(shards, tmp_path, LeftOut())
        assert stream.num_shards == (6 if shards[0].suffix == ".parquet" else 3)
        assert names(stream) == [f"a{index}" for index in range(12)]

    @pytest.mark.parametrize("how", ["gone", "damaged", "cut", "changed"])
    def test_a_file_that_is_not_what_it_was_is_left_out_by_name(self, shards, tmp_path, how, caplog):
        left_out = LeftOut()
        stream = self.stream(shards, tmp_path, left_out)
        spoil(shards[1], how)
        for _ in range(2):
            assert names(stream) == [f"a{i}" for i in (0, 1, 2, 3, 8, 9, 10, 11)]
        reason = "is gone" if how == "gone" else "is not what it was when the run began"
        assert f"{shards[1]} {reason}" in caplog.text
        assert len(left_out.names) == stream.num_shards / 3, "named once, however often it is met"

    def test_with_strict_it_is_an_error(self, shards, tmp_path):
        stream = self.stream(shards, tmp_path, LeftOut(), strict=True)
        spoil(shards[1], "gone")
        with pytest.raises(DataError, match=f"^mine, split train: {shards[1]} is gone"):
            names(stream)

    @pytest.mark.parametrize("how", ["damaged", "cut"])
    def test_a_file_that_was_damaged_from_the_beginning(self, shards, tmp_path, how, caplog):
        spoil(shards[1], how)
        assert names(self.stream(shards, tmp_path, LeftOut())) == [f"a{i}" for i in (0, 1, 2, 3, 8, 9, 10, 11)]
        assert "a-1" in caplog.text and "cannot be read" in caplog.text

    def test_what_it_was_is_known_by_content_and_not_by_time_or_place(self, shards, tmp_path):
        made = source(shards)
        files = streamed_files(made, tmp_path)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for path in shards:
            (elsewhere / path.name).write_bytes(path.read_bytes())
        assert streamed_files(made, elsewhere) == files
        assert names(stream_records(made, elsewhere, files, LeftOut())) == [f"a{index}" for index in range(12)]

    def test_files_that_come_later_are_not_read_by_a_run_that_goes_on(self, shards, tmp_path):
        made = source(shards)
        files = streamed_files(made, tmp_path)
        write(shards[0].with_stem("a-00"), 300)
        assert names(stream_records(made, tmp_path, files, LeftOut())) == [f"a{index}" for index in range(12)]

    def test_a_folder_that_has_changed_is_an_error_since_nothing_tells_its_parts_apart(self, tmp_path):
        folder = tmp_path / "pages"
        folder.mkdir()
        for index in range(2):
            write(folder / f"train-{index}.jsonl", 4 * index)
        made = SourceArguments("text", "train", files="pages", name="mine")
        stream = stream_records(made, tmp_path, streamed_files(made, tmp_path), LeftOut())
        assert len(names(stream)) == 8
        (folder / "train-0.jsonl").unlink()
        assert len(names(stream)) == 8 - 4


class TestKindsOfFiles:
    def test_unknown_kinds_of_file(self, tmp_path):
        with pytest.raises(DataError, match=r"no reader for '\.xlsx'"):
            reader_of([tmp_path / "a.xlsx"])
        with pytest.raises(DataError, match="several kinds"):
            reader_of([tmp_path / "a.csv", tmp_path / "b.parquet"])

    def test_the_state_of_files_is_their_content(self, tmp_path):
        (tmp_path / "in").mkdir()
        write(tmp_path / "in" / "a.jsonl", 0)
        before = state_of([tmp_path / "in"])
        assert state_of([tmp_path / "in"]) == before and stamp_of(tmp_path / "none") is None
        write(tmp_path / "in" / "a.jsonl", 1)
        assert state_of([tmp_path / "in"]) != before
