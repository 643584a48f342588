r"""From a source of a recipe to samples, in memory or streamed: `datasets.load_dataset`, for local files and the Hub.

    {files: photos/{split}.parquet, format: labelled_media, options: {image: image, prompt: What is it?}}
    {dataset: HuggingFaceM4/the_cauldron, load: {name: vqav2}, format: cauldron, split: train}

Media stay undecoded. A sample that is broken (an image that cannot be opened, audio without samples, a missing value) is left
out, counted and named in the log; with `strict` it is an error.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Audio, ClassLabel, Dataset, Features, Image, IterableDataset, List, Value, Video, load_dataset

from modeling_mmgpt.audio_loading_mmgpt import read_audio
from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from training.data.formats import FORMATS, OWN_DATA, BrokenSample, MissingColumn
from training.data.mixtures import SAMPLING_SEED
from training.data.prompts import in_language
from training.data.samples import FEATURES, MEDIUM, complete_sample, find_files


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
AUDIO_FILES = (".wav", ".flac", ".ogg", ".mp3")
NAMED_IN_LOG = 5  # broken samples of a source that are named one by one
STREAMED_AT_ONCE = 10  # few: a run that goes on in their midst makes their samples again
PROBLEM = "problem"
MADE = "samples"
NUMBER = "\0number"  # of a record in a stream that is shuffled
TRIED = 1000  # records of a stream, all of them broken, after which it is given up


def load_source(source: SourceArguments, root: str | None) -> Dataset:
    """The samples of one source, or `limit` of them."""
    folder = Path(root or ".")
    if source.format in FORMATS:
        samples = make_samples(source, folder)
    else:
        samples = OWN_DATA[source.format].load(folder, source.split, **source.options)
        if source.metric is not None:
            samples = samples.remove_columns("metric").add_column("metric", [source.metric] * len(samples))
            samples = samples.select_columns(list(FEATURES))
    return draw(samples, source.limit)


def draw(samples: Dataset, limit: int | None) -> Dataset:
    """A random selection of `limit` samples, the same at every run; all of them where there is no limit or there are not more."""
    if limit is None or limit >= len(samples):
        return samples
    return samples.shuffle(seed=SAMPLING_SEED).select(range(limit))


# ---- files to records


def load_records(source: SourceArguments, root: Path, streaming: bool = False) -> Dataset | IterableDataset:
    """What the files or the Hub data set of a source hold, media undecoded. A folder is read as `datasets` reads folders:
    images or audio with their classes as folder names, a metadata file, or data files."""
    load = {"split": source.split, "streaming": streaming, **source.load}
    if source.dataset is not None:
        records = load_dataset(source.dataset, **load)
    else:
        paths = [path for name in source.files for path in find_files(name.format(split=source.split), root)]
        if paths[0].is_dir() and any(path.suffix.lower() in AUDIO_FILES for path in paths[0].rglob("*")):
            records = read_audio_folder(paths[0], streaming)
        elif len(paths) == 1 and paths[0].is_dir():
            records = load_dataset(str(paths[0]), **load)
        else:
            load["split"] = "train"  # what load_dataset calls files that are given by name
            records = load_dataset(reader_of(paths), data_files=[str(path) for path in paths], **load)
    if records.features is None:  # a stream that does not say, such as a text file
        return records
    features = Features({name: undecoded(feature) for name, feature in records.features.items()})
    return records if features == records.features else records.cast(features)


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


def read_audio_folder(folder: Path, streaming: bool) -> Dataset | IterableDataset:
    """`audio` and `label`, the name of the file's folder. `datasets` reads such folders only where torchcodec is installed."""
    metadata = next(folder.glob("metadata.*"), None)
    if metadata is not None:
        raise ValueError(
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


# ---- records to samples


class SampleMaker:
    r"""Maps a batch of records to samples, for `Dataset.map` and `IterableDataset.map` with indices.

    A broken sample keeps its place with its `problem`, or is an error with `strict`. With `drop` it is left out, and the result is
    one column, `samples`: the list of samples of each record.
    """

    def __init__(self, source: SourceArguments, root: Path, features: Features | None, drop: bool):
        options = dict(source.options)
        self.id_column = options.pop("id", "id")
        self.detokenise = options.pop("detokenise", {})
        folder = options.pop("media_folder", None)
        language = options.pop("language", None)
        self.media_folder = None if folder is None else str(root / folder)
        self.format = source.format
        self.options = options if language is None else in_language(source.format, language) | options
        self.task, self.split = source.task, source.split
        self.metric = source.metric
        self.drop, self.strict = drop, source.strict
        self.class_names = {
            name: item.names for name, item in (features or {}).items() if isinstance(item, ClassLabel)
        }
        self.code = code_version()  # `map` keeps its results by this object's content: other code, other results
        self.broken: set[str] = set()
        self.tried, self.is_used = 0, False

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        records = ({name: values[place] for name, values in batch.items()} for place in range(len(indices)))
        made = [self.samples_of(record, index) for record, index in zip(records, indices, strict=True)]
        if self.drop:
            self.tried += len(made)
            self.is_used = self.is_used or any(made)
            if not self.is_used and self.tried >= TRIED:
                raise ValueError(f"{self.task}, split {self.split}: no sample can be used of the first {self.tried}.")
            return {MADE: made}
        samples = [sample for samples in made for sample in samples]
        return {name: [sample[name] for sample in samples] for name in (*FEATURES, PROBLEM)}

    def samples_of(self, record: dict, index: int) -> list[dict]:
        name = self.name_of(record, index)
        about = {"id": name, "task": self.task, "metric": self.metric, PROBLEM: None}
        try:
            made = FORMATS[self.format](self.prepared(record), **self.options)
            samples = [complete_sample({**about, **one}) for one in (made if isinstance(made, list) else [made])]
            for number, sample in enumerate(samples):
                sample["id"] = name if len(samples) == 1 else f"{name}-{number}"
                for medium in (*sample["images"], *sample["audios"], *sample["videos"]):
                    if medium["bytes"] is None and self.media_folder is not None:
                        medium["path"] = str(Path(self.media_folder) / medium["path"])
                check_media(sample)
            return samples
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


def stream_samples(
    source: SourceArguments, root: Path, records: IterableDataset, features: Features | None
) -> IterableDataset:
    """The samples of records that are streamed, which had `features` when they were read; broken samples are left out."""
    maker = SampleMaker(source, root, features, drop=True)
    # A stream may not know its columns, and may meet new ones: what is made of each record goes into one of its own.
    made = records.map(maker, batched=True, batch_size=STREAMED_AT_ONCE, with_indices=True).select_columns([MADE])
    return made.map(unfold, batched=True, batch_size=1, remove_columns=[MADE], features=FEATURES)


def unfold(batch: dict[str, list]) -> dict[str, list]:
    """The samples of some records, column by column."""
    samples = [sample for samples in batch[MADE] for sample in samples]
    return {name: [sample[name] for sample in samples] for name in FEATURES}


def make_samples(source: SourceArguments, root: Path) -> Dataset:
    """The samples of a source; broken ones are left out, counted and named in the log."""
    samples = make_samples_and_problems(source, root)
    problems = samples[PROBLEM]
    for count, problem in enumerate((problem for problem in problems if problem is not None), start=1):
        log_skipped(problem, count)
    kept = [index for index, problem in enumerate(problems) if problem is None]
    if not kept:
        raise ValueError(f"{source.task}, split {source.split}: no sample can be used; the last: {problems[-1:]}.")
    if len(kept) < len(problems):
        logger.warning(
            "%s: %d of %d samples are broken and left out.", source.task, len(problems) - len(kept), len(problems)
        )
        samples = samples.select(kept)
    return samples.remove_columns(PROBLEM)


def make_samples_and_problems(source: SourceArguments, root: Path) -> Dataset:
    """The samples of a source, and in the column `problem` why a sample is broken, or None. `datasets` keeps them in its cache and
    reads them from there the next time."""
    records = load_records(source, root)
    return records.map(
        SampleMaker(source, root, records.features, drop=False),
        with_indices=True,
        batched=True,
        batch_size=100,
        features=Features({**FEATURES, PROBLEM: Value("string")}),
        remove_columns=records.column_names,
        desc=source.task,
    )


def log_skipped(problem: str, count: int) -> None:
    """The first ones by name, then ever rarer: a stream of a million broken samples is no log of a million lines."""
    if count <= NAMED_IN_LOG:
        logger.warning("left out: %s", problem)
    elif count & (count - 1) == 0:
        logger.warning("left out, %d by now: %s", count, problem)


def check_media(sample: dict) -> None:
    """Raises `BrokenSample` for an image, audio or a video that cannot be decoded or has nothing in it."""
    try:
        for index, video in enumerate(sample["videos"]):
            load_video(video, fps=1.0, num_frames=1, name=f"video {index}")
        for index, image in enumerate(sample["images"]):
            load_image(image, f"image {index}")
        for index, audio in enumerate(sample["audios"]):
            read_audio(audio, name=f"audio {index}")
    except (ValueError, OSError) as error:
        raise BrokenSample(str(error)) from error


@cache
def code_version() -> str:
    """Changes with the code that makes samples, so that a result kept by older code is not taken for this one's."""
    files = [Path(__file__).with_name(name) for name in ("loading.py", "samples.py", "formats.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@cache
def detokeniser(language: str):
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise ImportError("Undoing Moses tokenisation needs a package: pip install sacremoses") from error
    return MosesDetokenizer(lang=language)
