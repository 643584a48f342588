r"""From a source of a recipe to samples, in memory or streamed.

Media stay undecoded. A sample that is broken (an image that cannot be opened, audio without samples, a missing value, no answer
to learn) is left out, counted and named in the log; with `strict` it is an error.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

from modeling_mmgpt.audio_loading_mmgpt import read_audio
from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from training.data.formats import FORMATS, OWN_DATA, BrokenSample, MissingColumn
from training.data.mixtures import SAMPLING_SEED
from training.data.prompts import in_language
from training.data.records import load_records, stamp_of
from training.data.samples import FEATURES, MEDIA, DataError, LeftOut, complete_sample


if TYPE_CHECKING:
    from training.recipe import SourceArguments


logger = logging.getLogger(__name__)

AT_ONCE = 100  # records that `map` makes samples of
STREAMED_AT_ONCE = 10  # few: a run that goes on in their midst makes their samples again
PROBLEM, DIGEST = "problem", "digest"  # why a sample is broken; what it consists of
MADE = "samples"
NUMBER = "\0number"  # of a record in a stream that is shuffled
TRIED = 1000  # records of a stream, all of them broken, after which it is given up
# What `map` keeps of each sample: with its files as they were when they were looked at.
FOUND = {
    **FEATURES,
    PROBLEM: Value("string"),
    DIGEST: Value("string"),
    "files": List(Value("string")),
    "stamps": Value("string"),
}


def load_source(source: SourceArguments, root: str | None) -> Dataset:
    """The samples of one source, or `limit` of them."""
    return draw(load_all(source, root, LeftOut()), source.limit).select_columns(list(FEATURES))


def load_all(source: SourceArguments, root: str | None, left_out: LeftOut) -> Dataset:
    """All samples of one source that can be used, with the column `digest` unless it brings its own data."""
    folder = Path(root or ".")
    if source.format in FORMATS:
        return make_samples(source, folder, left_out)
    samples = OWN_DATA[source.format].load(folder, source.split, **source.options)
    if source.metric is not None:
        samples = samples.remove_columns("metric").add_column("metric", [source.metric] * len(samples))
    return samples.select_columns(list(FEATURES))


def draw(samples: Dataset, limit: int | None) -> Dataset:
    """A random selection of `limit` samples, the same at every run; all of them where there is no limit or there are not more."""
    if limit is None or limit >= len(samples):
        return samples
    return samples.shuffle(seed=SAMPLING_SEED).select(range(limit))


def make_samples(source: SourceArguments, root: Path, left_out: LeftOut) -> Dataset:
    """The samples of a source with the column `digest`, without broken ones."""
    samples = find_samples(source, root, left_out)
    problems = samples[PROBLEM]
    kept = [index for index, problem in enumerate(problems) if problem is None]
    for problem in problems:
        if problem is not None:
            left_out.add(problem, problem)
    if not kept:
        raise DataError(f"{source.task}, split {source.split}: no sample can be used; the last: {problems[-1:]}.")
    if len(kept) < len(problems):
        logger.warning(
            "%s: %d of %d samples are broken and left out.", source.task, len(problems) - len(kept), len(problems)
        )
    return samples.select(kept).select_columns([*FEATURES, DIGEST])


def make_samples_and_problems(source: SourceArguments, root: Path) -> Dataset:
    """The samples of a source, and in the column `problem` why a sample is broken, or None."""
    return find_samples(source, root, LeftOut()).select_columns([*FEATURES, PROBLEM])


def find_samples(source: SourceArguments, root: Path, left_out: LeftOut) -> Dataset:
    """All samples of a source with what was `FOUND`. `datasets` keeps them in its cache and reads them from there the next time; a
    file that has changed since is looked at again."""
    records = load_records(source, root, left_out)
    maker = SampleMaker(source, root, records.features)
    samples = records.map(
        maker,
        with_indices=True,
        batched=True,
        batch_size=AT_ONCE,
        features=Features(FOUND),
        remove_columns=records.column_names,
        desc=source.task,
    )
    changed = {
        index: maker.look_at({**samples[index], PROBLEM: None})
        for index, (files, stamps) in enumerate(zip(samples["files"], samples["stamps"], strict=True))
        if files and stamps_of(files) != stamps
    }
    if not changed:
        return samples
    for column in (PROBLEM, DIGEST):
        values = [changed.get(index, {column: value})[column] for index, value in enumerate(samples[column])]
        samples = samples.remove_columns(column).add_column(column, values, feature=FOUND[column])
    return samples


# ---- records to samples


class SampleMaker:
    """Makes samples of records, for `map` with indices. A broken sample keeps its place with its `problem`, or is an error with
    `strict`."""

    def __init__(self, source: SourceArguments, root: Path, features: Features | None):
        # `map` keeps its results by this object's content: with other code or options they are others.
        self.code = code_version()
        self.format, self.metric, self.strict = source.format, source.metric, source.strict
        self.task, self.about = source.task, f"{source.task}, split {source.split}"
        self.split, options = source.split, dict(source.options)
        self.id_column = options.pop("id", "id")
        self.detokenise = options.pop("detokenise", {})
        folder = options.pop("media_folder", None)
        language = options.pop("language", None)
        self.media_folder = None if folder is None else str(root / folder)
        self.options = options if language is None else in_language(source.format, language) | options
        self.class_names = {
            name: item.names for name, item in (features or {}).items() if isinstance(item, ClassLabel)
        }

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        samples = [sample for made in self.of_records(batch, indices) for sample in made]
        return {name: [sample[name] for sample in samples] for name in FOUND}

    def of_records(self, batch: dict[str, list], indices: list[int]) -> list[list[dict]]:
        """A batch of records as the samples of each."""
        records = ({name: values[place] for name, values in batch.items()} for place in range(len(indices)))
        return [self.of_record(record, index) for record, index in zip(records, indices, strict=True)]

    def of_record(self, record: dict, index: int) -> list[dict]:
        name = self.name_of(record, index)
        about = {"id": name, "task": self.task, "metric": self.metric, PROBLEM: None}
        try:
            made = FORMATS[self.format](self.prepared(record), **self.options)
        except MissingColumn as error:
            raise MissingColumn(f"{self.about}: {error}") from None
        except BrokenSample as error:
            return [self.look_at(complete_sample({**about, PROBLEM: str(error)}))]
        samples = [complete_sample({**about, **one}) for one in (made if isinstance(made, list) else [made])]
        for number, sample in enumerate(samples):
            sample["id"] = name if len(samples) == 1 else f"{name}-{number}"
            for medium in media_of(sample):
                if medium["bytes"] is None and self.media_folder is not None:
                    medium["path"] = str(Path(self.media_folder) / medium["path"])
        return [self.look_at(sample) for sample in samples]

    def look_at(self, sample: dict) -> dict:
        """The sample with what is found of it beside its features."""
        files = [medium["path"] for medium in media_of(sample) if medium["bytes"] is None]
        problem = sample[PROBLEM] or problem_of(sample)
        if problem is not None:
            problem = f"sample {sample['id']!r} of {self.about}: {problem}"
            if self.strict:
                raise BrokenSample(problem)
        digest = digest_of(sample) if problem is None else None
        return {**sample, PROBLEM: problem, DIGEST: digest, "files": files, "stamps": stamps_of(files)}

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


class StreamedSamples(SampleMaker):
    """The samples of each record in one column, without broken ones: a stream may not know its columns, and may meet new ones."""

    def __init__(self, source: SourceArguments, root: Path, features: Features | None, left_out: LeftOut):
        super().__init__(source, root, features)
        self.left_out, self.tried, self.is_used = left_out, 0, False

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        made = self.of_records(batch, indices)
        for sample in (sample for samples in made for sample in samples if sample[PROBLEM] is not None):
            self.left_out.add(sample[PROBLEM], sample[PROBLEM])
        whole = [[sample for sample in samples if sample[PROBLEM] is None] for samples in made]
        self.tried += len(whole)
        self.is_used = self.is_used or any(whole)
        if not self.is_used and self.tried >= TRIED:
            raise DataError(f"{self.about}: no sample can be used of the first {self.tried}.")
        return {MADE: whole}


def stream_samples(
    source: SourceArguments, root: Path, records: IterableDataset, features: Features | None, left_out: LeftOut
) -> IterableDataset:
    """The samples of records that are streamed, which had `features` when they were read; broken samples are left out."""
    maker = StreamedSamples(source, root, features, left_out)
    made = records.map(maker, batched=True, batch_size=STREAMED_AT_ONCE, with_indices=True).select_columns([MADE])
    return made.map(unfold, batched=True, batch_size=1, remove_columns=[MADE], features=FEATURES)


def unfold(batch: dict[str, list]) -> dict[str, list]:
    """The samples of some records, column by column."""
    samples = [sample for samples in batch[MADE] for sample in samples]
    return {name: [sample[name] for sample in samples] for name in FEATURES}


# ---- what is wrong with a sample


def problem_of(sample: dict) -> str | None:
    """Why nothing can be learnt from a sample: a medium that cannot be decoded or has nothing in it, or no answer."""
    if all(message["role"] != "assistant" for message in sample["messages"]):
        return "it has no assistant turn, so that there is nothing to learn"
    try:
        for index, video in enumerate(sample["videos"]):
            load_video(video, fps=1.0, num_frames=1, name=f"video {index}")
        for index, image in enumerate(sample["images"]):
            load_image(image, f"image {index}")
        for index, audio in enumerate(sample["audios"]):
            read_audio(audio, name=f"audio {index}")
    except (ValueError, OSError) as error:
        return str(error)
    return None


def media_of(sample: dict) -> list[dict]:
    return [medium for kind in MEDIA for medium in sample[kind]]


def digest_of(sample: dict) -> str:
    """Changes with what the model learns from the sample: its texts and the content of its media."""
    turns = [
        (turn["role"], [(part["type"], part.get("text")) for part in turn["content"]]) for turn in sample["messages"]
    ]
    digest = hashlib.blake2b(repr((turns, list(sample["references"]))).encode(), digest_size=8)
    for medium in media_of(sample):
        content = medium["bytes"]
        if content is None and stamp_of(medium["path"]) is not None:
            content = Path(medium["path"]).read_bytes()
        digest.update(b"\0" + (str(medium["path"]).encode() if content is None else content))
    return digest.hexdigest()


def stamps_of(files: list[str]) -> str:
    return repr([stamp_of(path) for path in files])


@cache
def code_version() -> str:
    """Changes with the code that makes samples, so that a result kept by older code is not taken for this one's."""
    files = [Path(__file__).with_name(name) for name in ("loading.py", "records.py", "samples.py", "formats.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@cache
def detokeniser(language: str):
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise ImportError("Undoing Moses tokenisation needs a package: pip install sacremoses") from error
    return MosesDetokenizer(lang=language)
