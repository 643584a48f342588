"""The sources of a recipe read, sampled and joined into one data set."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, concatenate_datasets

from training.data import ADAPTERS


if TYPE_CHECKING:
    from training.recipe import SourceArguments


SAMPLING_SEED = 0  # of `limit` and `weight`: the sample does not change with the seed of a run


def load_mixture(sources: list[SourceArguments], root: str | None) -> Dataset:
    """All rows of the sources, each source as often as its weight says, one source after the other.

    Shuffling all of them is the trainer's; with `training.train_sampling_strategy: sequential` the order of the sources is a
    curriculum."""
    return concatenate_datasets([weigh(load_source(source, root), source.weight) for source in sources])


def load_source(source: SourceArguments, root: str | None) -> Dataset:
    """The rows of one source, or `limit` of them."""
    if source.adapter not in ADAPTERS:
        nearest = difflib.get_close_matches(source.adapter, ADAPTERS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown data adapter {source.adapter!r}; the nearest valid name is {nearest!r}.")
    rows = ADAPTERS[source.adapter](Path(root or "."), source.split, **source.options)
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
