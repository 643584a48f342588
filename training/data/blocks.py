"""Rows in blocks that are each of one source and alike in length: batches of as many rows waste little on padding."""

import random
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter


BLOCKS_AT_ONCE = 16  # among which rows of one length are found


def cut(rows: Sequence[int], size: int) -> list[list[int]]:
    """`rows` in their order, in blocks of `size`; the last one may be smaller."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def cut_alike(rows: Sequence[int], lengths: Sequence[float], size: int, rng: random.Random) -> list[list[int]]:
    """The same with rows of like length in each block, found among `BLOCKS_AT_ONCE` blocks that follow each other, whose own order is
    random. `lengths` in any unit, row 0's first."""
    blocks = []
    for window in cut(rows, BLOCKS_AT_ONCE * size):
        alike = cut(sorted(window, key=lengths.__getitem__), size)
        rng.shuffle(alike)
        blocks += alike
    return blocks


def alternate(sources: list[list[list[int]]], spans: list[Sequence[float]] | None = None) -> list[int]:
    """All rows of the blocks of several sources: the blocks of each in their order, evenly over its span of the whole.

    spans: where each source begins and ends, from 0 to 1; over all of it if they are not given.
    """
    placed = []
    for blocks, (begin, end) in zip(sources, spans or [(0, 1)] * len(sources), strict=True):
        ends = list(accumulate(map(len, blocks), initial=0))
        placed += [
            (begin + (end - begin) * (done / ends[-1]), block) for done, block in zip(ends, blocks, strict=False)
        ]
    return [row for _, block in sorted(placed, key=itemgetter(0)) for row in block]
