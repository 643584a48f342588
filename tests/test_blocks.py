"""Blocks of rows: none is lost, those of a block are alike, and sources alternate as their sizes say."""

import random
from itertools import chain

from training.data.blocks import BLOCKS_AT_ONCE, alternate, cut, cut_alike


def test_cut_keeps_the_order_and_what_is_left_over():
    assert cut(range(3, 10), 3) == [[3, 4, 5], [6, 7, 8], [9]]


def test_cut_alike_sorts_within_a_window_and_shuffles_its_blocks():
    size, count = 2, 2 * BLOCKS_AT_ONCE * 2
    lengths = [37 * row % count for row in range(count)]
    blocks = cut_alike(range(count), lengths, size, random.Random(0))
    assert blocks == cut_alike(range(count), lengths, size, random.Random(0))
    windows = [
        list(chain.from_iterable(blocks[start : start + BLOCKS_AT_ONCE]))
        for start in range(0, len(blocks), BLOCKS_AT_ONCE)
    ]
    assert [sorted(window) for window in windows] == [list(range(count // 2)), list(range(count // 2, count))]
    for window, rows in zip(windows, (range(count // 2), range(count // 2, count)), strict=True):
        in_order = cut(sorted(rows, key=lengths.__getitem__), size)
        found = cut(window, size)
        assert sorted(found) == sorted(in_order) and found != in_order


def test_sources_alternate_over_their_spans():
    few, many = cut(range(4), 2), cut(range(4, 12), 2)
    assert alternate([few, many]) == [0, 1, 4, 5, 6, 7, 2, 3, 8, 9, 10, 11]
    assert alternate([few, many], [(0.5, 1), (0, 0.5)]) == [*range(4, 12), *range(4)]
