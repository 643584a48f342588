"""Packing: several samples in one sequence of a batch, each as if it were alone, so that no computation goes into padding.

    samples  [a a a] [b b] [c c c c] [d]    attention in a sequence:      a . . . .
                                                                           a a . . .
    packed   a a a b b    position_ids 0 1 2 0 1                           a a a . .
             c c c c d                 0 1 2 3 0                           . . . b .
                                                                           . . . b b

A packed batch has no attention_mask. transformers draws the borders where position_ids start again (sdpa, eager, flex), and
flash attention takes them from `cu_seq_lens_q/k`; both only without a cache, so `use_cache` is False in the batch. The first
token of a sample is predicted from nothing: its label is -100. Media are untouched: samples keep their order.

Shapes: B samples, L tokens of the longest, P packed sequences, W width of the widest of them.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ..collating_mmgpt import MMGPTCollator, names_of


# What a batch has for each token; everything else in it belongs to media, whatever its shape.
TOKEN_KEYS = ("input_ids", "labels", "token_type_ids", "mm_token_type_ids")


def first_fit(lengths: Sequence[int], budget: int, window: int = 64) -> list[list[int]]:
    """Puts numbers of samples, in order, each into the first pack that still has room for its tokens.

    Args:
        lengths: tokens of each sample, none of them more than `budget`.
        budget: most tokens of a pack.
        window: packs that are open at a time; the oldest is closed when one more is needed. It bounds both the time this
            takes and how far a sample moves from its place.
    """
    packs: list[list[int]] = []
    rooms: list[int] = []
    for sample, length in enumerate(lengths):
        oldest = max(0, len(packs) - window)
        place = next((pack for pack in range(oldest, len(packs)) if rooms[pack] >= length), None)
        if place is None:
            place = len(packs)
            packs.append([])
            rooms.append(budget)
        packs[place].append(sample)
        rooms[place] -= length
    return packs


class PackedDataset(torch.utils.data.Dataset):
    """Samples grouped once into packs of up to `pack_to` tokens: item i is `{"packed": [sample, ...]}`, which
    [`MMGPTPackingCollator`] takes.

    Which samples share a pack is decided by the arguments alone: the same in every epoch and every process, so that sharding
    and resuming are those of any data set with so many items. The sampler shuffles packs.

    Args:
        samples: any indexable data set of samples.
        lengths: tokens of each sample, see [`count_tokens`].
        pack_to: most tokens of a pack, the collator's own `pack_to`.
        seed: samples are shuffled with it before they are grouped, so that packs mix the sources; `None` keeps their order.
    """

    def __init__(self, samples, lengths: Sequence[int], pack_to: int, seed: int | None = 0):
        self.samples = samples
        order = list(range(len(lengths)))
        if seed is not None:
            random.Random(seed).shuffle(order)
        long = next((index for index in order if lengths[index] > pack_to), None)
        if long is not None:
            refuse_length(str(samples[long].get("id") or f"sample {long}"), lengths[long], pack_to)
        packs = first_fit([lengths[index] for index in order], pack_to)
        self.packs = [[order[place] for place in pack] for pack in packs]

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict:
        return {"packed": [self.samples[place] for place in self.packs[index]]}


def refuse_length(name: str, length: int, pack_to: int):
    raise ValueError(f"{name} has {length} tokens, more than pack_to={pack_to}: raise it or leave the sample out.")


def count_tokens(collator, samples: Iterable[dict]) -> list[int]:
    """Tokens of each sample as a collator that does not pack makes them, media included."""
    return collator(list(samples))["attention_mask"].sum(-1).tolist()


def open_packs(items: list[dict]) -> list[dict]:
    """Items of [`PackedDataset`] as their samples; `"pack"` tells which belong together. Other samples stay as they are."""
    samples = []
    for number, item in enumerate(items):
        samples += [{**sample, "pack": number} for sample in item["packed"]] if "packed" in item else [item]
    return samples


@dataclass
class MMGPTPackingCollator(MMGPTCollator):
    """An [`MMGPTCollator`] whose samples, in their order, share sequences of up to `pack_to` tokens, each as if it were alone.

    Args:
        pack_to: most tokens of a packed sequence. Give the collator samples as they are, or packs of equal size made by
            [`PackedDataset`].
    """

    pack_to: int = field(kw_only=True)

    def __post_init__(self):
        if self.pack_to < 1:
            raise ValueError(f"pack_to is {self.pack_to}, but a packed sequence holds at least one token: raise it.")
        if self.add_generation_prompt:
            raise ValueError(
                "add_generation_prompt=True does not go with packing: generate() takes padded prompts, which MMGPTCollator makes."
            )

    def __call__(self, samples: list[dict]) -> dict:
        samples = open_packs(samples)
        batch = super().__call__(samples)
        groups = [sample.get("pack") for sample in samples]
        return pack_batch(batch, self.pack_to, self.processor.tokenizer.pad_token_id, names_of(samples), groups)


def pack_batch(batch: dict, pack_to: int, pad_token_id: int, names: list[str], groups: Sequence) -> dict:
    """A padded batch with its samples packed, in their order, into sequences of up to `pack_to` tokens.

    Args:
        batch: the tensors `(B, L)` of `TOKEN_KEYS` that it has, and `attention_mask`; media are kept as they are.
        pack_to: most tokens of a packed sequence.
        pad_token_id: fills the sequences up to the longest.
        names: what the samples are called in errors.
        groups: a value for each sample: one that differs from its neighbour's begins a new sequence.
    """
    mask = batch["attention_mask"].bool()  # (B, L)
    token_keys = [key for key in TOKEN_KEYS if key in batch]
    sequences: list[list[dict]] = []
    room, open_group = 0, None
    for index, (length, group) in enumerate(zip(mask.sum(-1).tolist(), groups, strict=True)):
        if length > pack_to:
            refuse_length(names[index], length, pack_to)
        if not sequences or length > room or group != open_group:
            sequences.append([])
            room, open_group = pack_to, group
        sequences[-1].append({key: batch[key][index, mask[index]] for key in token_keys})
        room -= length
    media = {key: value for key, value in batch.items() if key not in (*token_keys, "attention_mask")}
    return {**lay_out(sequences, pad_token_id), **media}


def lay_out(sequences: list[list[dict]], pad_token_id: int) -> dict:
    """Sequences of samples (`input_ids`, `labels`, ... each 1-D) as tensors `(P, W)` with all that tells them apart."""
    width = max(sum(len(sample["input_ids"]) for sample in sequence) for sequence in sequences)
    columns: dict[str, list] = {}
    for sequence in sequences:
        pieces = [{**sample, "position_ids": torch.arange(len(sample["input_ids"]))} for sample in sequence]
        padding = width - sum(len(piece["input_ids"]) for piece in pieces)
        if padding:  # one more sample, without labels
            fill = {key: torch.zeros(padding, dtype=piece.dtype) for key, piece in pieces[0].items()}
            fill["input_ids"] += pad_token_id
            pieces.append({**fill, "labels": fill["labels"] - 100, "position_ids": torch.arange(padding)})
        for piece in pieces:
            piece["labels"] = torch.cat((piece["labels"].new_full((1,), -100), piece["labels"][1:]))
        for key in pieces[0]:
            columns.setdefault(key, []).append(torch.cat([piece[key] for piece in pieces]))
    batch = {key: torch.stack(values) for key, values in columns.items()}  # (P, W)
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten()
    borders = torch.cat((starts, torch.tensor([batch["position_ids"].numel()]))).to(torch.int32)
    longest = int(borders.diff().max())
    batch |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}
    return {**batch, "use_cache": False}


def pack_documents(documents: Iterable[list[int]], length: int) -> dict[str, list]:
    """Tokenised texts as blocks of exactly `length` tokens, for pre-training; the rest at the end is dropped.

    A text that does not fit goes on in the next block, where its positions start again. The result has the columns
    `input_ids` and `seq_lengths` (tokens of each piece in the block), as TRL's packed data sets have."""
    blocks: dict[str, list] = {"input_ids": [], "seq_lengths": []}
    block, pieces = [], []
    for document in documents:
        start = 0
        while start < len(document):
            piece = document[start : start + length - len(block)]
            start += len(piece)
            block, pieces = [*block, *piece], [*pieces, len(piece)]
            if len(block) == length:
                blocks["input_ids"].append(block)
                blocks["seq_lengths"].append(pieces)
                block, pieces = [], []
    return blocks


class MMGPTBlockCollator:
    """Blocks of [`pack_documents`] to a batch of plain language modelling: every token is a label but the first of a text.

    For one block of a text of 3 tokens and the beginning of another:

        input_ids     [[5, 6, 7, 8, 9]]
        position_ids  [[0, 1, 2, 0, 1]]
        labels        [[-100, 6, 7, -100, 9]]
    """

    def __call__(self, blocks: list[dict]) -> dict:
        sequences = []
        for block in blocks:
            pieces = torch.tensor(block["input_ids"]).split(list(block["seq_lengths"]))
            sequences.append([{"input_ids": piece, "labels": piece.clone()} for piece in pieces])
        return lay_out(sequences, pad_token_id=0)  # blocks are of one length: nothing is padded
