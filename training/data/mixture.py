"""The sources of a recipe read, sampled and joined into one data set."""

from __future__ import annotations

import dataclasses
import difflib
import random
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, concatenate_datasets

from training.data import ADAPTERS, LICENSES
from training.data.blocks import alternate, cut, cut_alike
from training.data.formats import FORMATS
from training.data.loading import make_samples, task_of
from training.data.samples import FEATURES, text_of


if TYPE_CHECKING:
    from training.recipe import AugmentationArguments, DataArguments, Recipe, SourceArguments


SAMPLING_SEED = 0  # of `limit` and `weight`: the sample does not change with the seed of a run


def load_mixture(sources: list[SourceArguments], root: str | None) -> Dataset:
    """All rows of the sources, each source as often as its weight says, one source after the other.

    Shuffling all of them is the trainer's; with `training.train_sampling_strategy: sequential` the order of the sources is a
    curriculum."""
    return concatenate_datasets(load_parts(sources, root))


def load_parts(sources: list[SourceArguments], root: str | None) -> list[Dataset]:
    """What [`load_mixture`] joins: the rows of each source."""
    return [weigh(load_source(source, root), source.weight) for source in sources]


def join_parts(parts: list[Dataset], data: DataArguments) -> Dataset:
    """One source after the other, or with `data.block` in blocks that alternate."""
    if data.block is None:
        return concatenate_datasets(parts)
    first, sources = 0, []
    for source, part in zip(data.train, parts, strict=True):
        if len(part) < data.block:
            raise ValueError(f"{task_of(source)} has {len(part)} rows, which do not fill data.block={data.block}.")
        blocks = blocks_of(part, data.block, is_shuffled=source.weight != 1)
        sources.append([[first + row for row in block] for block in blocks])
        first += len(part)
    return concatenate_datasets(parts).select(alternate(sources, [source.span for source in data.train]))


def blocks_of(part: Dataset, size: int, is_shuffled: bool) -> list[list[int]]:
    """The rows in full blocks of `size`, in random order. Texts of a block are alike in length; a source with media, whose texts are
    not what makes its rows long, is not sorted."""
    rng, rows = random.Random(SAMPLING_SEED), list(range(len(part)))
    if not is_shuffled:
        rng.shuffle(rows)
    conversations = list(part.select_columns("messages")["messages"])
    if any(
        item["type"] != "text" for messages in conversations for message in messages for item in message["content"]
    ):
        blocks = cut(rows, size)
    else:
        lengths = [sum(len(text_of(message)) for message in messages) for messages in conversations]
        blocks = cut_alike(rows, lengths, size, rng)
    return [block for block in blocks if len(block) == size]


def augmentations(recipe: Recipe, rows: Dataset | None) -> dict[str, AugmentationArguments]:
    """The random changes to the samples of each source that has its own, by the name of its rows."""
    found: dict[str, AugmentationArguments] = {}
    for source in recipe.data.train:
        name = task_of(source)
        changes = dataclasses.replace(recipe.augment, **source.augment)
        if found.setdefault(name, changes) != changes:
            raise ValueError(f"two sources are called {name!r} and have different `augment`: give them a `name` each.")
        if source.augment and rows is not None and name not in rows.select_columns("task").unique("task"):
            raise ValueError(
                f"the rows of {name!r} have other names, so that `augment` of their own does not find them."
            )
    return {name: changes for name, changes in found.items() if changes != recipe.augment}


def describe_mixture(sources: list[SourceArguments], rows: list[int] | None) -> list[dict]:
    """The sources as the model card has them; `rows`: how many each gives to an epoch, None of a stream."""
    counts = rows or [None] * len(sources)
    return [
        {
            "source": source.dataset or task_of(source),
            "samples": count,
            "weight": source.weight,
            "licence": source.license or LICENSES.get(source.format),
        }
        for source, count in zip(sources, counts, strict=True)
    ]


def load_source(source: SourceArguments, root: str | None) -> Dataset:
    """The rows of one source, or `limit` of them."""
    check_source(source)
    folder = Path(root or ".")
    if source.format in FORMATS:
        rows = make_samples(source, folder)
    else:
        rows = ADAPTERS[source.format](folder, source.split, **source.options)
        if source.metric is not None:
            rows = rows.remove_columns("metric").add_column("metric", [source.metric] * len(rows))
            rows = rows.select_columns(list(FEATURES))
    if source.limit is None or source.limit >= len(rows):
        return rows
    return rows.shuffle(seed=SAMPLING_SEED).select(range(source.limit))


def weigh(rows: Dataset, weight: float) -> Dataset:
    """Whole passes over the rows, and for what is left of the weight a random part of them.

    A single pass keeps the order of the source, which measuring relies on; several have an order of their own each."""
    if weight <= 0:
        raise ValueError(f"a source's weight is {weight}; it must be above 0 (leave the source out instead).")
    passes, part = divmod(weight, 1)
    copies = [rows] if weight == 1 else [rows.shuffle(seed=SAMPLING_SEED + 1 + index) for index in range(int(passes))]
    if part:
        copies.append(rows.shuffle(seed=SAMPLING_SEED).select(range(round(part * len(rows)))))
    return concatenate_datasets(copies)


def check_source(source: SourceArguments) -> None:
    """Refuses an unknown adapter, and files where there is nothing to read them or nothing to read."""
    known = [*FORMATS, *ADAPTERS]
    if source.format not in known:
        nearest = difflib.get_close_matches(source.format, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown format {source.format!r}; the nearest valid name is {nearest!r}.")
    if source.format in FORMATS and (source.files is None) == (source.dataset is None):
        raise ValueError(
            f"the source of format {source.format} needs one of `files` (local) and `dataset` (on the Hub)."
        )
    if source.format in ADAPTERS:
        for name in ("files", "dataset", "name", "load"):
            if getattr(source, name):
                raise ValueError(f"format {source.format} brings its own data with their names: leave out `{name}`.")
