"""Random changes depend on the sample's place, the pass and the seed, and on nothing else; texts become full blocks."""

import pytest
import torch

from tests.conftest import byte_tokenizer
from tests.toy_training import toy_rows, toy_texts
from training.data.numbering import NumberedSamples, SeededCollator
from training.data.text_blocks import make_blocks


def draw(seed=0, epoch=0, rows=({"place": 1}, {"place": 2})) -> list[float]:
    collator = SeededCollator(lambda rows: torch.rand(3).tolist(), seed)
    collator.epoch = epoch
    return collator(list(rows))


def test_the_same_sample_in_the_same_pass_is_changed_alike():
    before = draw()
    torch.rand(5)
    assert draw() == before
    assert before not in (draw(epoch=1), draw(seed=1), draw(rows=({"place": 1}, {"place": 3})))


def test_nobody_else_notices_the_draws():
    state = torch.get_rng_state()
    draw()
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_know_their_place():
    rows = NumberedSamples([{"id": "a"}, {"id": "b"}])
    assert [rows[index] for index in range(len(rows))] == [{"id": "a", "place": 0}, {"id": "b", "place": 1}]


def test_rows_of_a_pack_are_opened_first():
    seen = SeededCollator(lambda rows: rows, seed=0)([{"packed": [{"id": 1}, {"id": 2}], "place": 0}, {"id": 3}])
    assert seen == [{"id": 1, "pack": 0}, {"id": 2, "pack": 0}, {"id": 3}]


class TestTextBlocks:
    def test_texts_end_and_blocks_are_full(self):
        tokenizer = byte_tokenizer()
        blocks = make_blocks(toy_texts(None, "train"), tokenizer, 32)
        assert blocks.column_names == ["input_ids", "seq_lengths"]
        assert all(
            len(ids) == 32 == sum(pieces)
            for ids, pieces in zip(blocks["input_ids"], blocks["seq_lengths"], strict=True)
        )
        text = tokenizer.decode([token for ids in blocks["input_ids"] for token in ids])
        assert text.startswith("to be or not to be <|im_end|>to be or not")

    def test_media_and_too_little_text_are_refused(self):
        with pytest.raises(ValueError, match="row '0' has images or sounds"):
            make_blocks(toy_rows(None, "train"), byte_tokenizer(), 32)
        with pytest.raises(ValueError, match="fewer tokens than one block of 5000"):
            make_blocks(toy_texts(None, "train"), byte_tokenizer(), 5000)
