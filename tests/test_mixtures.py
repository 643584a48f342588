"""Mixtures: weights are passes, no sample of a block is lost, those of a block are alike, and sources alternate over their spans."""

import random
from collections import Counter
from itertools import chain

import pytest

from training.data.mixtures import BLOCKS_AT_ONCE, alternate, cut, cut_alike, join_in_blocks, weigh
from training.data.samples import assistant_turn, make_dataset, text_of, user_turn
from training.recipe import SourceArguments


def text_sample(index: int) -> dict:
    return {"id": str(index), "task": "text", "messages": [user_turn(f"q{index}"), assistant_turn(f"a{index}")]}


@pytest.mark.parametrize(("weight", "count"), [(1.0, 10), (2.0, 20), (0.5, 5), (1.3, 13)])
def test_weight_is_passes_per_epoch(weight: float, count: int):
    samples = weigh(make_dataset([text_sample(index) for index in range(10)]), weight)
    assert len(samples) == count
    assert max(Counter(samples["id"]).values()) <= int(weight) + 1


def test_cut_keeps_the_order_and_what_is_left_over():
    assert cut(range(3, 10), 3) == [[3, 4, 5], [6, 7, 8], [9]]


def test_cut_alike_sorts_within_a_window_and_shuffles_its_blocks():
    size, count = 2, 2 * BLOCKS_AT_ONCE * 2
    lengths = [37 * index % count for index in range(count)]
    blocks = cut_alike(range(count), lengths, size, random.Random(0))
    assert blocks == cut_alike(range(count), lengths, size, random.Random(0))
    windows = [
        list(chain.from_iterable(blocks[start : start + BLOCKS_AT_ONCE]))
        for start in range(0, len(blocks), BLOCKS_AT_ONCE)
    ]
    assert [sorted(window) for window in windows] == [list(range(count // 2)), list(range(count // 2, count))]
    for window, indices in zip(windows, (range(count // 2), range(count // 2, count)), strict=True):
        in_order = cut(sorted(indices, key=lengths.__getitem__), size)
        found = cut(window, size)
        assert sorted(found) == sorted(in_order) and found != in_order


def test_sources_alternate_over_their_spans():
    few, many = cut(range(4), 2), cut(range(4, 12), 2)
    assert alternate([few, many]) == [0, 1, 4, 5, 6, 7, 2, 3, 8, 9, 10, 11]
    assert alternate([few, many], [(0.5, 1), (0, 0.5)]) == [*range(4, 12), *range(4)]


class TestBlocks:
    """Sources that alternate, so that a batch is of one of them."""

    def join(self, sizes: dict[str, int], spans: dict | None = None, weight: float = 2.0) -> list[dict]:
        parts = [
            make_dataset([{**text_sample(index), "task": name} for index in range(size)])
            for name, size in sizes.items()
        ]
        sources = [SourceArguments("fsdd", weight=weight, span=(spans or {}).get(name, [0, 1])) for name in sizes]
        return list(join_in_blocks(parts, sources, 4))

    def test_each_block_is_of_one_source_and_sources_are_spread_evenly(self):
        samples = self.join({"a": 40, "b": 22})
        blocks = [samples[start : start + 4] for start in range(0, len(samples), 4)]
        assert all(len({sample["task"] for sample in block}) == 1 for block in blocks)
        order = "".join(block[0]["task"] for block in blocks)
        assert order.count("a") == 10 and order.count("b") == 5, "two samples of b do not fill a block"
        assert [order[start : start + 3].count("b") for start in range(0, 15, 3)] == [1] * 5
        assert sorted(int(sample["id"]) for sample in samples if sample["task"] == "a") == list(range(40))

    def test_texts_of_a_block_are_alike_in_length_and_media_keep_their_order(self):
        long = [{**text_sample(index), "messages": [assistant_turn("x" * (37 * index % 64))]} for index in range(64)]
        seen = [{**text_sample(index), "images": [{"bytes": b"", "path": None}]} for index in range(8)]
        samples = list(
            join_in_blocks([make_dataset(long), make_dataset(seen)], [SourceArguments("fsdd", weight=2.0)] * 2, 4)
        )
        assert [sample["id"] for sample in samples if sample["images"]] == [str(index) for index in range(8)]
        lengths = [len(text_of(sample["messages"][0])) for sample in samples if not sample["images"]]
        blocks = [lengths[start : start + 4] for start in range(0, 64, 4)]
        assert all(max(block) - min(block) == 3 for block in blocks) and blocks != sorted(blocks)

    def test_a_span_is_where_in_the_epoch_the_samples_come(self):
        order = [
            sample["task"] for sample in self.join({"first": 40, "all": 80}, {"first": [0, 0.25], "all": [0.25, 1]})
        ]
        assert order == ["first"] * 40 + ["all"] * 80

    def test_a_single_pass_is_shuffled(self):
        ids = [sample["id"] for sample in self.join({"a": 40}, weight=1)]
        assert sorted(ids, key=int) == [str(index) for index in range(40)] != ids
        assert ids == [sample["id"] for sample in self.join({"a": 40}, weight=1)]
