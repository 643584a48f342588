r"""Random changes to a sample that depend on nothing but the sample's place, the pass over the data and the seed of the run.

So they are the same after a restart, with any number of workers and processes, and whatever else draws random numbers.
"""

from __future__ import annotations

import zlib

import torch

from modeling_mmgpt.tools.packing import open_packs


class NumberedSamples(torch.utils.data.Dataset):
    """The rows of an indexable data set, each with its index as `"place"`."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return {**self.rows[index], "place": index}


class SeededCollator:
    r"""
    collator (callable): a collator that draws from torch's global generator, such as AugmentingCollator.
    seed (`int`): of the run.
    """

    def __init__(self, collator, seed: int):
        self.collator = collator
        self.seed = seed
        self.epoch = 0

    def __call__(self, rows: list[dict]) -> dict:
        rows = open_packs(rows)
        places = [row.get("place", row.get("id")) for row in rows]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(repr((self.seed, self.epoch, places)).encode()))
            return self.collator(rows)
