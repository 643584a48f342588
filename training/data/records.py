r"""Files, folders and data sets of the Hub as records: in memory, or shard by shard in a stream; media stay undecoded.

    {files: photos/{split}.parquet, ...}    {dataset: HuggingFaceM4/the_cauldron, load: {name: vqav2}, ...}

A file that is damaged, has vanished or is not what it was when the run began is left out, named and counted; with `strict` it is
an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import pyarrow.parquet as parquet
from datasets import Audio, Dataset, Features, Image, IterableDataset, List, Video, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError
from pyarrow.lib import ArrowException

from training.data.samples import MEDIUM, DataError, LeftOut, find_files


if TYPE_CHECKING:
    from training.recipe import SourceArguments


READERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".txt": "text",
    ".tar": "webdataset",
}
AUDIO_FILES = (".wav", ".flac", ".ogg", ".mp3")
# What readers raise, of files that are damaged and of options that they do not have.
UNREADABLE = (OSError, ValueError, TypeError, EOFError, ArrowException, tarfile.TarError, zlib.error, DatasetsError)
KEPT_OPEN = 100  # files of a stream, since opening one takes longer than reading a small one
HASHED_END = 2**16  # bytes at each end of a file that tell, with its size, whether it has changed
CUT, LONGEST_LINE = "its last line is cut off", 2**24


# ---- in memory


def load_records(source: SourceArguments, root: Path, left_out: LeftOut) -> Dataset:
    """The records of a source, without those of files that cannot be read."""
    files, about = files_of(source, root), f"{source.task}, split {source.split}"
    problems = {path: CUT for path in files if is_cut(path)}
    if not problems:
        try:
            return open_records(source, files, streaming=False)
        except UNREADABLE as error:
            found = {path: problem_of(source, path) for path in files if path.is_file()}
            problems = {path: problem for path, problem in found.items() if problem is not None}
            if not problems:
                raise DataError(f"{about}: {one_line(error)}.") from error
    damaged = [f"{path} cannot be read: {problem}" for path, problem in problems.items()]
    whole = [path for path in files if path not in problems]
    if source.strict or not whole:
        raise DataError(f"{about}: {damaged[0]}.")
    for problem in damaged:
        left_out.add(problem, f"{about}: {problem}")
    return open_records(source, whole, streaming=False)


def is_cut(path: Path) -> bool:
    """Whether lines of JSON end within one, of which `datasets` says nothing."""
    if path.suffix not in (".jsonl", ".ndjson") or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_LINE))
        last = file.read().rstrip().rpartition(b"\n")[2]
    try:
        json.loads(last)
    except ValueError:
        return len(last) < LONGEST_LINE - 1  # of a longer one, the beginning was not read
    return False


def problem_of(source: SourceArguments, path: Path) -> str | None:
    """Why a file cannot be read to its end."""
    try:
        if is_cut(path):
            return CUT
        for _ in open_records(source, [path], streaming=True).iter(batch_size=1000):
            pass
    except UNREADABLE as error:
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    """What a library says was wrong, as a part of a sentence; `datasets` puts the cause behind a sentence of its own."""
    while isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")


def files_of(source: SourceArguments, root: Path) -> list[Path]:
    """The files or the one folder of a source; none of a data set of the Hub."""
    if source.dataset is not None:
        return []
    return [path for name in source.files for path in find_files(name.format(split=source.split), root)]


def open_records(source: SourceArguments, files: list[Path], streaming: bool) -> Dataset | IterableDataset:
    """Records of files, of a folder or of the source's data set of the Hub. A folder is read as `datasets` reads folders: images or
    audio with their classes as folder names, a metadata file, or data files."""
    load = {"split": source.split, "streaming": streaming, **source.load}
    if files and not streaming:  # `datasets` keeps what it read, and looks at nothing but the time of a file
        load.setdefault("cache_dir", str(Path(datasets.config.HF_DATASETS_CACHE, "by_files", state_of(files))))
    if not files:
        records = load_dataset(source.dataset, **load)
    elif files[0].is_dir() and any(path.suffix.lower() in AUDIO_FILES for path in files[0].rglob("*")):
        records = read_audio_folder(files[0], streaming)
    elif len(files) == 1 and files[0].is_dir():
        records = load_dataset(str(files[0]), **load)
    else:
        load["split"] = "train"  # what load_dataset calls files that are given by name
        records = load_dataset(reader_of(files), data_files=[str(path) for path in files], **load)
    if records.features is None:  # a stream that does not say, such as a text file
        return records
    features = Features({name: undecoded(feature) for name, feature in records.features.items()})
    return records if features == records.features else records.cast(features)


def state_of(files: list[Path]) -> str:
    """Changes with the content of files, of folders with all that is in them, or with their names."""
    everything = sorted(each for path in files for each in ([path] if path.is_file() else path.rglob("*")))
    return hashlib.sha256(repr([(str(path), stamp_of(path)) for path in everything]).encode()).hexdigest()[:16]


def stamp_of(path: str | Path) -> tuple[int, int, int] | None:
    """Another one when a file was written to, whatever its time of modification was set to; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def reader_of(paths: list[Path]) -> str:
    """The reader of `datasets` for files of one kind, by their ending."""
    endings = {next((end for end in reversed(path.suffixes) if end.lower() in READERS), path.suffix) for path in paths}
    if len(endings) > 1:
        raise DataError(f"{paths[0].parent}: files of several kinds ({', '.join(sorted(endings))}) are no one source.")
    ending = endings.pop().lower()
    if ending not in READERS:
        raise DataError(f"{paths[0]}: no reader for {ending!r}; there are readers for {', '.join(READERS)}.")
    return READERS[ending]


def read_audio_folder(folder: Path, streaming: bool) -> Dataset | IterableDataset:
    """`audio` and `label`, the name of the file's folder. `datasets` reads such folders only where torchcodec is installed."""
    metadata = next(folder.glob("metadata.*"), None)
    if metadata is not None:
        raise DataError(
            f"{folder} has a {metadata.name}: name that file as `files`, its column of file names as option `audio`, and the "
            "folder as option `media_folder`."
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_FILES)
    columns = {"audio": [str(path.absolute()) for path in paths], "label": [path.parent.name for path in paths]}
    records = Dataset.from_dict(columns)
    return records.to_iterable_dataset() if streaming else records


def undecoded(feature: Any) -> Any:
    """The feature with media left as bytes or path: decoding is the collator's, for the samples of one batch."""
    if isinstance(feature, Audio):  # as plain fields: the feature needs torchcodec even where it does not decode
        return MEDIUM
    if isinstance(feature, (Image, Video)):
        return type(feature)(decode=False)
    if isinstance(feature, List):
        return List(undecoded(feature.feature), length=feature.length)
    if isinstance(feature, dict):
        return {name: undecoded(inner) for name, inner in feature.items()}
    return feature


# ---- in a stream


class StreamedFile(NamedTuple):
    """A file of a stream as it was when the run began; without a name, the whole of a folder or of a data set of the Hub."""

    name: str  # relative to the root of the data, where it lies there
    bytes: int
    digest: str  # of its two ends; of a folder, of all names and sizes; of a data set of the Hub its commit
    shards: int  # row groups of parquet, else 1


def streamed_files(source: SourceArguments, root: Path) -> list[StreamedFile]:
    """What a stream of the source reads, in order."""
    files = files_of(source, root)
    if not files or files[0].is_dir():
        shards = open_records(source, files, streaming=True).reshard().num_shards
        return [StreamedFile("", 0, digest_of_whole(source, files), shards)]
    is_parquet = reader_of(files) == "parquet"
    found = []
    for path in files:
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        try:
            shards = parquet.ParquetFile(path).num_row_groups if is_parquet else 1
        except UNREADABLE:  # it is named when it is to be read
            shards = 1
        found.append(StreamedFile(name, path.stat().st_size, digest_of_ends(path), shards))
    return found


def digest_of_ends(path: Path) -> str:
    with path.open("rb") as file:
        first = file.read(HASHED_END)
        file.seek(max(0, path.stat().st_size - HASHED_END))
        return hashlib.sha256(first + file.read()).hexdigest()[:16]


def digest_of_whole(source: SourceArguments, files: list[Path]) -> str:
    if files:
        inside = sorted(path for path in files[0].rglob("*") if path.is_file())
        names = [(str(path.relative_to(files[0])), path.stat().st_size) for path in inside]
        return hashlib.sha256(repr(names).encode()).hexdigest()[:16]
    load = {name: value for name, value in source.load.items() if name != "split"}
    found = load_dataset_builder(source.dataset, **load).config.data_files or {}
    origins = {origin for listed in found.values() for origin in listed.origin_metadata}
    commits = {origin[1] for origin in origins if len(origin) == 2}
    return commits.pop() if len(commits) == 1 else hashlib.sha256(repr(sorted(origins)).encode()).hexdigest()[:16]


def stream_records(
    source: SourceArguments, root: Path, files: list[StreamedFile], left_out: LeftOut
) -> IterableDataset:
    """The records of these files, whatever has become of them."""
    features = None  # of the first file that can be read and says what it holds
    for file in files:
        try:
            features = ShardReader(source, root, left_out).open(file, 0).features
            break
        except UNREADABLE:
            continue
    shards = [(file, shard) for file in files for shard in range(file.shards)]
    reader = ShardReader(source, root, left_out)
    return IterableDataset.from_generator(reader, features=features, gen_kwargs={"shards": shards})


class ShardReader:
    """Yields the records of shards. The rest of a shard that cannot be read is left out, or an error with `strict`."""

    def __init__(self, source: SourceArguments, root: Path, left_out: LeftOut):
        self.source, self.root, self.left_out = source, root, left_out
        self.opened: dict[str, tuple] = {}  # files by their names: the stamp of each, and its records

    def __call__(self, shards: list[tuple[StreamedFile, int]]) -> Iterator[dict]:
        for file, shard in shards:
            try:
                # Its `__iter__` would share out among the workers once more.
                for batch in self.open(StreamedFile(*file), shard).iter(batch_size=1):
                    yield {name: values[0] for name, values in batch.items()}
            except UNREADABLE as error:
                what = file[0] or self.source.task
                problem = str(error) if isinstance(error, DataError) else f"{what} cannot be read: {one_line(error)}"
                problem = f"{self.source.task}, split {self.source.split}: {problem}"
                if self.source.strict or (isinstance(error, DataError) and not file[0]):
                    raise DataError(f"{problem}.") from error
                self.left_out.add(f"{what} {shard}", f"{problem}; nothing more is taken of it")

    def open(self, file: StreamedFile, shard: int) -> IterableDataset:
        """The records of one shard of a file that is still what it was."""
        path = self.root / file.name
        stamp = stamp_of(path) if file.name else None
        seen, records = self.opened.get(file.name, (None, None))
        if records is None or stamp != seen:
            self.check(file, path)
            paths = [path] if file.name else files_of(self.source, self.root)
            records = open_records(self.source, paths, streaming=True)
            records = records.reshard() if file.shards > 1 else records
            self.opened = {**dict(list(self.opened.items())[1 - KEPT_OPEN :]), file.name: (stamp, records)}
        return records.shard(file.shards, shard) if file.shards > 1 else records

    def check(self, file: StreamedFile, path: Path) -> None:
        if file.name:
            if not path.is_file():
                raise DataError(f"{path} is gone")
            if (path.stat().st_size, digest_of_ends(path)) != (file.bytes, file.digest):
                raise DataError(f"{path} is not what it was when the run began")
            if is_cut(path):
                raise DataError(f"{path} cannot be read: {CUT}")
            return
        files = files_of(self.source, self.root)
        if digest_of_whole(self.source, files) != file.digest:
            way_out = "bring it back" if files else f"name its commit as load: {{revision: {file.digest}}}"
            raise DataError(f"it is not what it was when the run began: {way_out}, or begin another run")
