"""Texts for pre-training: the words of the rows without a chat template, in blocks of tokens that are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeling_mmgpt import pack_documents
from training.data.samples import text_of


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerFast


TEXTS_AT_ONCE = 10_000  # what does not fill a block is dropped once in so many texts
STREAMED_AT_ONCE = 500  # of a stream: they are all read before the first block


class BlockMaker:
    """Maps rows to blocks, a batch of them at a time: each row's text and an end-of-text token, see [`pack_documents`]."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int):
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, columns: dict[str, list]) -> dict[str, list]:
        texts = [document(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return pack_documents([[*one, self.tokenizer.eos_token_id] for one in ids], self.length)


def stream_blocks(rows: IterableDataset, tokenizer: PreTrainedTokenizerFast, length: int) -> IterableDataset:
    """The same from a stream."""
    return rows.map(
        BlockMaker(tokenizer, length), batched=True, batch_size=STREAMED_AT_ONCE, remove_columns=rows.column_names
    )


def make_blocks(rows: Dataset, tokenizer: PreTrainedTokenizerFast, length: int) -> Dataset:
    """The rows' texts in blocks of `length` tokens."""
    blocks = rows.map(
        BlockMaker(tokenizer, length),
        batched=True,
        batch_size=TEXTS_AT_ONCE,
        remove_columns=rows.column_names,
        desc=f"blocks of {length} tokens",
    )
    if len(blocks) == 0:
        raise ValueError(f"The texts have fewer tokens than one block of {length}: lower sequence.pack_to.")
    return blocks


def document(row: dict) -> str:
    """What all turns of a row say, a line each: for a plain text, its one turn."""
    if row.get("images") or row.get("audios") or row.get("videos"):
        raise ValueError(
            f"row {row.get('id')!r} has images or sounds or videos, but pre-training reads text alone: leave it out."
        )
    return "\n".join(text_of(message) for message in row["messages"])
