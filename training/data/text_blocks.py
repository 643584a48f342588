"""Texts for pre-training: the words of the rows without a chat template, in blocks of tokens that are full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeling_mmgpt import pack_documents
from training.data.rows import text_of


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


TEXTS_AT_ONCE = 10_000  # what does not fill a block is dropped once in so many texts


def make_blocks(rows: Dataset, tokenizer: PreTrainedTokenizerFast, length: int) -> Dataset:
    """Each row's text and an end-of-text token, packed into blocks of `length` tokens (see [`pack_documents`])."""

    def pack(columns: dict[str, list]) -> dict[str, list]:
        texts = [document(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return pack_documents([[*one, tokenizer.eos_token_id] for one in ids], length)

    blocks = rows.map(
        pack,
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
