r"""How sources are mixed: passes over each of them, and blocks that alternate.

A block is of one source and alike in length: a batch of as many samples wastes little on padding.
"""

import random
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter

from datasets import Dataset, concatenate_datasets

from training.data.samples import text_of


SAMPLING_SEED = 0  # of weights, limits and blocks: the mixture does not change with the seed of a run
BLOCKS_AT_ONCE = 16  # among which samples of one length are found


def weigh(samples: Dataset, weight: float) -> Dataset:
    """Whole passes over the samples, and for the rest of the weight a random part of them.

    A single pass keeps the order of the source, which measuring relies on; several have an order of their own each."""
    passes, part = divmod(weight, 1)
    orders = range(SAMPLING_SEED + 1, SAMPLING_SEED + 1 + int(passes))
    copies = [samples] if weight == 1 else [samples.shuffle(seed=seed) for seed in orders]
    if part:
        copies.append(samples.shuffle(seed=SAMPLING_SEED).select(range(round(part * len(samples)))))
    return concatenate_datasets(copies)


def join_in_blocks(parts: list[Dataset], sources: Sequence, size: int) -> Dataset:
    """The samples of all sources in blocks of `size` that alternate, `parts[i]` over the span of the recipe's `sources[i]`.
    They are already as large as the weights of the sources want."""
    first, blocks = 0, []
    for part, source in zip(parts, sources, strict=True):
        if len(part) < size:
            raise ValueError(f"{source.task} has {len(part)} samples, which do not fill data.block={size}.")
        own = blocks_of(part, size, is_shuffled=source.weight != 1)
        blocks.append([[first + index for index in block] for block in own])
        first += len(part)
    return concatenate_datasets(parts).select(alternate(blocks, [source.span for source in sources]))


def blocks_of(part: Dataset, size: int, is_shuffled: bool) -> list[list[int]]:
    """The samples of a source, by their indices, in full blocks in random order.

    Texts of a block are alike in length; a source with media, whose length is not that of its texts, is not sorted."""
    rng, indices = random.Random(SAMPLING_SEED), list(range(len(part)))
    if not is_shuffled:
        rng.shuffle(indices)
    conversations = list(part.select_columns("messages")["messages"])
    if any(
        item["type"] != "text" for messages in conversations for message in messages for item in message["content"]
    ):
        blocks = cut(indices, size)
    else:
        lengths = [sum(len(text_of(message)) for message in messages) for messages in conversations]
        blocks = cut_alike(indices, lengths, size, rng)
    return [block for block in blocks if len(block) == size]


def cut(indices: Sequence[int], size: int) -> list[list[int]]:
    """`indices` in their order, in blocks of `size`; the last one may be smaller."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def cut_alike(indices: Sequence[int], lengths: Sequence[float], size: int, rng: random.Random) -> list[list[int]]:
    """The same with samples of like length in each block, found among `BLOCKS_AT_ONCE` blocks that follow each other, whose own
    order is random. `lengths` in any unit, that of sample 0 first."""
    blocks = []
    for window in cut(indices, BLOCKS_AT_ONCE * size):
        alike = cut(sorted(window, key=lengths.__getitem__), size)
        rng.shuffle(alike)
        blocks += alike
    return blocks


def alternate(sources: list[list[list[int]]], spans: Sequence[Sequence[float]] | None = None) -> list[int]:
    """All indices of the blocks of several sources: the blocks of each in their order, evenly over its span of the whole.

    spans: where each source begins and ends, from 0 to 1; over all of it if they are not given.
    """
    placed = []
    for blocks, (begin, end) in zip(sources, spans or [(0, 1)] * len(sources), strict=True):
        ends = list(accumulate(map(len, blocks), initial=0))
        placed += [
            (begin + (end - begin) * (done / ends[-1]), block) for done, block in zip(ends, blocks, strict=False)
        ]
    return [index for _, block in sorted(placed, key=itemgetter(0)) for index in block]
