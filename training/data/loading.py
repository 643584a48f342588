r"""The one road from a source of a recipe to rows: `datasets.load_dataset`, for local files and the Hub, in memory or streamed.

    {files: photos/{split}.parquet, format: labelled_media, options: {image: image, prompt: What is it?}}
    {dataset: HuggingFaceM4/the_cauldron, load: {name: vqav2}, format: cauldron, split: train}

Media stay undecoded. A sample that is broken (a picture that cannot be opened, an empty sound, a missing value) is left
out, counted and named in the log; with `strict` it is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Audio, ClassLabel, Dataset, Features, Image, IterableDataset, List, Value, Video, load_dataset

from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from training.data.augmentation import read_sound
from training.data.formats import FORMATS, BrokenSample, MissingColumn, format_options
from training.data.samples import FEATURES, MEDIUM, complete_sample


if TYPE_CHECKING:
    from training.recipe import SourceArguments


logger = logging.getLogger(__name__)

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
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
NAMED_IN_LOG = 5  # broken samples of a source that are named one by one
IN_BATCHES = {"batched": True, "batch_size": 100, "with_indices": True}
STREAMED_AT_ONCE = 10  # few: a run that goes on in their midst makes their rows again
PROBLEM = "problem"
MADE = "rows"
NUMBER = "\0number"  # of a record in a stream that is shuffled
TRIED = 1000  # records of a stream, all of them broken, after which it is given up


def load_records(source: SourceArguments, root: Path, streaming: bool = False) -> Dataset | IterableDataset:
    """What the files or the Hub data set of a source hold, media undecoded. A folder is read as `datasets` reads folders:
    pictures or sounds with their classes as folder names, a metadata file, or data files."""
    load = {"split": source.split, "streaming": streaming, **source.load}
    if source.dataset is not None:
        records = load_dataset(source.dataset, **load)
    else:
        names = [source.files] if isinstance(source.files, str) else source.files
        paths = [path for name in names for path in find_files(name.format(split=source.split), root)]
        if paths[0].is_dir() and any(path.suffix.lower() in SOUNDS for path in paths[0].rglob("*")):
            records = read_sounds(paths[0], streaming)
        elif len(paths) == 1 and paths[0].is_dir():
            records = load_dataset(str(paths[0]), **load)
        else:
            load["split"] = "train"  # what load_dataset calls files that are given by name
            records = load_dataset(reader_of(paths), data_files=[str(path) for path in paths], **load)
    if records.features is None:  # a stream that does not say, such as a text file
        return records
    features = Features({name: undecoded(feature) for name, feature in records.features.items()})
    return records if features == records.features else records.cast(features)


def find_files(name: str, root: Path) -> list[Path]:
    """The file, the folder or the files of a pattern; relative names start at data.root."""
    path = Path(name)
    path = path if path.is_absolute() else root / path
    if path.exists():
        return [path]
    found = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else []
    if not found:
        raise FileNotFoundError(
            f"{path} does not exist: name the folder that holds the data sets with data.root=FOLDER."
        )
    return found


def reader_of(paths: list[Path]) -> str:
    """The reader of `datasets` for files of one kind, by their ending."""
    endings = {next((end for end in reversed(path.suffixes) if end.lower() in READERS), path.suffix) for path in paths}
    if len(endings) > 1:
        raise ValueError(
            f"{paths[0].parent}: files of several kinds ({', '.join(sorted(endings))}) are no one source."
        )
    ending = endings.pop().lower()
    if ending not in READERS:
        raise ValueError(f"{paths[0]}: no reader for {ending!r}; there are readers for {', '.join(READERS)}.")
    return READERS[ending]


def read_sounds(folder: Path, streaming: bool) -> Dataset | IterableDataset:
    """`audio` and `label`, the name of the file's folder. `datasets` reads such folders only where torchcodec is installed."""
    metadata = next(folder.glob("metadata.*"), None)
    if metadata is not None:
        raise ValueError(
            f"{folder} has a {metadata.name}: name that file as `files`, its column of file names as option `audio`, and the "
            "folder as option `media_folder`."
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    columns = {"audio": [str(path.absolute()) for path in paths], "label": [path.parent.name for path in paths]}
    records = Dataset.from_dict(columns)
    return records.to_iterable_dataset() if streaming else records


def undecoded(feature: Any) -> Any:
    """The feature with media left as bytes or path: decoding is the collator's, for the rows of one batch."""
    if isinstance(
        feature, Audio
    ):  # as plain fields: the feature itself needs torchcodec even where it does not decode
        return MEDIUM
    if isinstance(feature, (Image, Video)):
        return type(feature)(decode=False)
    if isinstance(feature, List):
        return List(undecoded(feature.feature), length=feature.length)
    if isinstance(feature, dict):
        return {name: undecoded(inner) for name, inner in feature.items()}
    return feature


# ---- records to rows


class SampleMaker:
    r"""Maps a batch of records to rows of the sample format, for `Dataset.map` and `IterableDataset.map` with indices.

    A broken sample becomes a row with its `problem`, or is an error with `strict`. With `drop` it is left out, and the result is
    one column, `rows`: the list of rows of each record.
    """

    def __init__(self, source: SourceArguments, root: Path, features: Features | None, drop: bool):
        check_options(source)
        options = dict(source.options)
        self.id_column = options.pop("id", "id")
        self.detokenise = options.pop("detokenise", {})
        folder = options.pop("media_folder", None)
        self.media_folder = None if folder is None else str(root / folder)
        self.shape, self.options = source.format, options
        self.task, self.split = task_of(source), source.split
        self.metric = source.metric or ("perplexity" if source.format == "text" else None)
        self.drop, self.strict = drop, source.strict
        self.class_names = {
            name: item.names for name, item in (features or {}).items() if isinstance(item, ClassLabel)
        }
        self.code = code_version()  # `map` keeps its results by this object's content: other code, other results
        self.broken: set[str] = set()
        self.tried, self.is_used = 0, False

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        records = ({name: values[place] for name, values in batch.items()} for place in range(len(indices)))
        made = [self.rows_of(record, index) for record, index in zip(records, indices, strict=True)]
        if self.drop:
            self.tried += len(made)
            self.is_used = self.is_used or any(made)
            if not self.is_used and self.tried >= TRIED:
                raise ValueError(f"{self.task}, split {self.split}: no sample can be used of the first {self.tried}.")
            return {MADE: made}
        rows = [row for rows in made for row in rows]
        return {name: [row[name] for row in rows] for name in (*FEATURES, PROBLEM)}

    def rows_of(self, record: dict, index: int) -> list[dict]:
        name = self.name_of(record, index)
        about = {"id": name, "task": self.task, "metric": self.metric, PROBLEM: None}
        try:
            made = FORMATS[self.shape](self.prepared(record), **self.options)
            rows = [complete_sample({**about, **row}) for row in (made if isinstance(made, list) else [made])]
            for number, row in enumerate(rows):
                row["id"] = name if len(rows) == 1 else f"{name}-{number}"
                for medium in (*row["images"], *row["audios"], *row["videos"]):
                    self.find_medium(medium)
                check_media(row)
            return rows
        except MissingColumn as error:
            raise MissingColumn(f"{self.task}, split {self.split}: {error}") from None
        except BrokenSample as error:
            problem = f"sample {name!r} of {self.task}, split {self.split}: {error}"
            if self.strict:
                raise BrokenSample(problem) from error
            if not self.drop:
                return [complete_sample({**about, PROBLEM: problem})]
            if name not in self.broken:  # it comes again in the next pass
                self.broken.add(name)
                log_skipped(problem, len(self.broken))
            return []

    def name_of(self, record: dict, index: int) -> str:
        for column in (self.id_column, "__key__"):
            if record.get(column) is not None:
                return str(record[column])
        return f"{self.split}-{record.get(NUMBER, index)}"

    def prepared(self, record: dict) -> dict:
        """The record with the names of its classes, and Moses-tokenised text as people write it."""
        record = dict(record)
        for column, names in self.class_names.items():
            if record[column] is not None and record[column] >= 0:
                record[column] = names[record[column]]
        for column, language in self.detokenise.items():
            if record.get(column) is not None:
                record[column] = detokeniser(language).detokenize(record[column].split())
        return record

    def find_medium(self, medium: dict) -> None:
        if medium["bytes"] is None and self.media_folder is not None:
            medium["path"] = str(Path(self.media_folder) / medium["path"])


def stream_samples(
    source: SourceArguments, root: Path, records: IterableDataset, features: Features | None
) -> IterableDataset:
    """The rows of records that are streamed, which had `features` when they were read; broken samples are left out."""
    maker = SampleMaker(source, root, features, drop=True)
    # A stream may not know its columns, and may meet new ones: what is made of each record goes into one of its own.
    made = records.map(maker, batched=True, batch_size=STREAMED_AT_ONCE, with_indices=True).select_columns([MADE])
    return made.map(unfold, batched=True, batch_size=1, remove_columns=[MADE], features=FEATURES)


def unfold(batch: dict[str, list]) -> dict[str, list]:
    """The rows of some records, column by column."""
    rows = [row for rows in batch[MADE] for row in rows]
    return {name: [row[name] for row in rows] for name in FEATURES}


def make_samples(source: SourceArguments, root: Path, streaming: bool = False) -> Dataset | IterableDataset:
    """The rows of a source; broken samples are left out, counted and named in the log."""
    if streaming:
        records = load_records(source, root, streaming)
        return stream_samples(source, root, records, records.features)
    rows = make_samples_and_problems(source, root)
    problems = rows[PROBLEM]
    for count, problem in enumerate((problem for problem in problems if problem is not None), start=1):
        log_skipped(problem, count)
    kept = [index for index, problem in enumerate(problems) if problem is None]
    if not kept:
        raise ValueError(f"{task_of(source)}, split {source.split}: no sample can be used; the last: {problems[-1:]}.")
    if len(kept) < len(problems):
        logger.warning(
            "%s: %d of %d samples are broken and left out.", task_of(source), len(problems) - len(kept), len(problems)
        )
        rows = rows.select(kept)
    return rows.remove_columns(PROBLEM)


def make_samples_and_problems(source: SourceArguments, root: Path) -> Dataset:
    """The rows of a source, and in the column `problem` why a sample is broken, or None. `datasets` keeps them in its cache and
    reads them from there the next time."""
    records = load_records(source, root)
    maker = SampleMaker(source, root, records.features, drop=False)
    features = Features({**FEATURES, PROBLEM: Value("string")})
    how = {"features": features, "remove_columns": records.column_names, "desc": task_of(source)}
    return records.map(maker, **how, **IN_BATCHES)


def log_skipped(problem: str, count: int) -> None:
    """The first ones by name, then ever rarer: a stream of a million broken samples is no log of a million lines."""
    if count <= NAMED_IN_LOG:
        logger.warning("left out: %s", problem)
    elif count & (count - 1) == 0:
        logger.warning("left out, %d by now: %s", count, problem)


def check_media(row: dict) -> None:
    """Raises `BrokenSample` for a picture, sound or video that cannot be decoded or has nothing in it."""
    for index, video in enumerate(row["videos"]):
        try:
            load_video(video, fps=1.0, num_frames=1, name=f"video {index}")
        except (ValueError, OSError) as error:
            raise BrokenSample(str(error)) from error
    for index, image in enumerate(row["images"]):
        try:
            load_image(image, f"image {index}")
        except (ValueError, OSError) as error:
            raise BrokenSample(str(error)) from error
    for index, audio in enumerate(row["audios"]):
        try:
            wave, _ = read_sound(audio)
        except (RuntimeError, OSError) as error:  # soundfile's errors are RuntimeErrors
            raise BrokenSample(f"sound {index} cannot be read: {error}") from error
        if not len(wave):
            raise BrokenSample(f"sound {index} has no samples")
        if not np.isfinite(wave).all():
            raise BrokenSample(f"sound {index} has samples that are NaN or infinite")


def task_of(source: SourceArguments) -> str:
    """The name of the source's rows in tables: its own, or the data set's."""
    if source.name is not None:
        return source.name
    if source.dataset is not None:
        return source.dataset.rpartition("/")[2]
    if source.files is None:
        return source.format
    path = Path(source.files if isinstance(source.files, str) else source.files[0])
    return path.parent.name or path.stem


def check_options(source: SourceArguments) -> None:
    """Refuses options that the shape does not have."""
    known = [*format_options(source.format), "id", "detokenise", "media_folder"]
    for name in source.options:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"format {source.format} has no option {name!r}; the nearest valid name is {nearest!r}.")


@cache
def code_version() -> str:
    """Changes with the code that makes rows, so that a result kept by older code is not taken for this one's."""
    files = [Path(__file__).with_name(name) for name in ("loading.py", "samples.py", "formats.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@cache
def detokeniser(language: str):
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise ImportError("Undoing Moses tokenisation needs sacremoses: pip install 'mmgpt[train]'.") from error
    return MosesDetokenizer(lang=language)
