r"""What a run learns from, and what it is evaluated on while it learns: sources loaded and mixed, then packed, or streamed.

    data = TrainingSet(recipe)
    model, processor = build_model_and_processor(recipe, data.tokenizer_samples())
    dataset, collator = data.train_dataset(processor, context), data.collator(processor)

With stage "pretrain" the texts become full blocks of tokens; else samples stay conversations, each alone or several in a pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from datasets import Dataset, IterableDataset, concatenate_datasets
from tqdm import tqdm

from modeling_mmgpt import (
    MMGPTBlockCollator,
    MMGPTCollator,
    MMGPTPackingCollator,
    MMGPTProcessor,
    PackedDataset,
    count_tokens,
    pack_documents,
)
from training.data.loading import load_source
from training.data.mixtures import join_in_blocks, weigh
from training.data.samples import whole_text
from training.data.streaming import NUMBERED, StreamingMixture


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from training.recipe import Recipe, SourceArguments


STREAMED_SAMPLES = 10_000  # of a stream: what a tokenizer is trained on
COUNTED_AT_ONCE = 64  # samples whose tokens are counted for packing
SAMPLES_TO_PACK = 256  # of a stream: among which those are found that fill a pack
TEXTS_AT_ONCE = 10_000  # what does not fill a block is dropped once in so many texts
STREAMED_TEXTS = 500  # the same of a stream: they are all read before the first block


def load_mixture(sources: list[SourceArguments], root: str | None) -> Dataset:
    """All samples of the sources, each source as often as its weight asks for, one source after the other.

    Shuffling all of them is the trainer's; with `training.train_sampling_strategy: sequential` the order of the sources is a
    curriculum."""
    return concatenate_datasets(load_parts(sources, root))


def load_parts(sources: list[SourceArguments], root: str | None) -> list[Dataset]:
    """What [`load_mixture`] joins: the samples of each source."""
    return [weigh(load_source(source, root), source.weight) for source in sources]


class TrainingSet:
    r"""
    samples (`datasets.Dataset`): of one epoch, in order; None where they are streamed.
    sizes (`list[int]`): how many of them are of each source; empty where they are streamed.
    stream (`StreamingMixture`): in place of `samples`.
    validation (`datasets.Dataset`): what is evaluated during training; None where the recipe does not want that.
    """

    def __init__(self, recipe: Recipe):
        self.data, self.training = recipe.data, recipe.training
        self.stage, self.sequence = recipe.stage, recipe.sequence
        self.samples, self.sizes, self.stream, self.validation = None, [], None, None
        if self.data.streaming:
            self.stream = StreamingMixture(
                self.data.train,
                self.data.root,
                seed=self.training.seed,
                shuffle_buffer=self.data.shuffle_buffer,
                rank=self.training.process_index,
                world_size=self.training.world_size,
            )
        else:
            parts = load_parts(self.data.train, self.data.root)
            self.sizes = [len(part) for part in parts]
            self.samples = self.join(parts)
            self.check_augmented_tasks(recipe)
        if self.training.eval_strategy != "no":
            self.validation = load_mixture(self.data.validation, self.data.root)

    def join(self, parts: list[Dataset]) -> Dataset:
        """One source after the other, or with `data.block` in blocks that alternate."""
        block, sources = self.data.block, self.data.train
        if block is None:
            return concatenate_datasets(parts)
        for source, part in zip(sources, parts, strict=True):
            if len(part) < block:
                raise ValueError(f"{source.task} has {len(part)} samples, which do not fill data.block={block}.")
        return join_in_blocks(parts, block, [one.weight for one in sources], [one.span for one in sources])

    def check_augmented_tasks(self, recipe: Recipe) -> None:
        """Refuse `augment` of a source whose samples would not be found by its name."""
        augmented = [source for source in recipe.data.train if source.augment != recipe.augment]
        tasks = self.samples.select_columns("task").unique("task") if augmented else []
        for source in augmented:
            if source.task not in tasks:
                raise ValueError(
                    f"the samples of {source.task!r} have other names, so that `augment` of their own does not find them."
                )

    def tokenizer_samples(self) -> Dataset | Iterator[dict]:
        """All samples, or of a stream the first ones, the same in every process, which are enough for a tokenizer."""
        return self.samples if self.stream is None else self.stream.first(STREAMED_SAMPLES)

    def train_dataset(self, processor: MMGPTProcessor, context: int) -> torch.utils.data.Dataset:
        """What the trainer reads; `context` is the most positions of the decoder."""
        if self.stream is None:
            return NumberedSamples(self.prepare(self.samples, processor, context))
        pack_to = self.sequence.pack_to
        if self.stage == "pretrain":
            self.stream.finish = partial(stream_blocks, tokenizer=processor.tokenizer, length=pack_to or context)
        elif pack_to is not None:
            collator = MMGPTCollator(processor, max_length=self.sequence.max_length)
            self.stream.finish = partial(stream_packs, collator=collator, pack_to=pack_to)
        return self.stream

    def prepare(self, samples: Dataset, processor: MMGPTProcessor, context: int) -> Dataset | PackedDataset:
        """The samples as the stage wants them: conversations as they are, in packs, or their texts in blocks."""
        pack_to = self.sequence.pack_to
        if self.stage == "pretrain":
            return make_blocks(samples, processor.tokenizer, pack_to or context)
        if pack_to is None:
            return samples
        collator = MMGPTCollator(processor, max_length=self.sequence.max_length)
        lengths = []
        for start in tqdm(range(0, len(samples), COUNTED_AT_ONCE), desc="tokens of each sample"):
            stop = min(start + COUNTED_AT_ONCE, len(samples))
            lengths += count_tokens(collator, [samples[index] for index in range(start, stop)])
        in_order = self.training.train_sampling_strategy == "sequential"
        return PackedDataset(samples, lengths, pack_to, seed=None if in_order else 0)

    def collator(self, processor: MMGPTProcessor):
        if self.stage == "pretrain":
            return MMGPTBlockCollator()
        if self.sequence.pack_to is None:
            return MMGPTCollator(processor, max_length=self.sequence.max_length)
        return MMGPTPackingCollator(processor, max_length=self.sequence.max_length, pack_to=self.sequence.pack_to)

    def describe(self) -> list[dict]:
        """The sources as the model card has them; `samples`: how many each contributes to an epoch, None of a stream."""
        return [
            {
                "source": source.dataset or source.task,
                "samples": size,
                "weight": source.weight,
                "licence": source.license,
            }
            for source, size in zip(self.data.train, self.sizes or [None] * len(self.data.train), strict=True)
        ]

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


class NumberedSamples(torch.utils.data.Dataset):
    """The samples of an indexable data set, each with its index as `"place"`, on which random changes to it depend."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return {**self.samples[index], "place": index}


# ---- packs and blocks: what several samples become


class PackMaker:
    """Samples to packs of up to `pack_to` tokens, for `IterableDataset.map`; see [`PackedDataset`]."""

    def __init__(self, collator: MMGPTCollator, pack_to: int):
        self.collator, self.pack_to = collator, pack_to

    def __call__(self, columns: dict[str, list]) -> dict[str, list]:
        samples = samples_of(columns)
        packs = PackedDataset(samples, count_tokens(self.collator, samples), self.pack_to, seed=None)
        return {"packed": [packs[index]["packed"] for index in range(len(packs))]}


class BlockMaker:
    """Samples to blocks of `length` tokens, for `map`: each sample's text and an end-of-text token, see [`pack_documents`]."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int):
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, columns: dict[str, list]) -> dict[str, list]:
        texts = [document(sample) for sample in samples_of(columns)]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return pack_documents([[*one, self.tokenizer.eos_token_id] for one in ids], self.length)


def stream_packs(samples: IterableDataset, collator: MMGPTCollator, pack_to: int) -> IterableDataset:
    maker = PackMaker(collator, pack_to)
    return samples.map(maker, batched=True, batch_size=SAMPLES_TO_PACK, remove_columns=list(NUMBERED))


def stream_blocks(samples: IterableDataset, tokenizer: PreTrainedTokenizerFast, length: int) -> IterableDataset:
    maker = BlockMaker(tokenizer, length)
    return samples.map(maker, batched=True, batch_size=STREAMED_TEXTS, remove_columns=list(NUMBERED))


def make_blocks(samples: Dataset, tokenizer: PreTrainedTokenizerFast, length: int) -> Dataset:
    """The samples' texts in blocks of `length` tokens."""
    blocks = samples.map(
        BlockMaker(tokenizer, length),
        batched=True,
        batch_size=TEXTS_AT_ONCE,
        remove_columns=samples.column_names,
        desc=f"blocks of {length} tokens",
    )
    if len(blocks) == 0:
        raise ValueError(f"The texts have fewer tokens than one block of {length}: lower sequence.pack_to.")
    return blocks


def samples_of(columns: dict[str, list]) -> list[dict]:
    """A batch of `map`, sample by sample."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def document(sample: dict) -> str:
    """The text of all turns of a sample, a line each: for a plain text, its one turn."""
    if sample.get("images") or sample.get("audios") or sample.get("videos"):
        raise ValueError(
            f"sample {sample.get('id')!r} has images, audio or videos, but pre-training reads text alone: leave it out."
        )
    return whole_text(sample)
