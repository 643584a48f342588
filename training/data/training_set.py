r"""What a run learns from, and what it is evaluated on while it learns: sources loaded and mixed, then packed, or streamed.

    data = TrainingSet(recipe)
    model, processor = build_model_and_processor(recipe, data.tokenizer_samples())
    dataset, collator = data.train_dataset(processor, context), data.collator(processor)

With stage "pretrain" the texts become full blocks of tokens; else samples stay conversations, each alone or several in a pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from datasets import Dataset, concatenate_datasets
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
from training.data.streaming import StreamingMixture


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
    sizes (`list[int]`): how many of them are of each source, each None where they are streamed.
    stream (`StreamingMixture`): in place of `samples`.
    validation (`datasets.Dataset`): what is evaluated during training; None where the recipe does not want that.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, data, training = recipe, recipe.data, recipe.training
        self.samples, self.sizes, self.stream, self.validation = None, [None] * len(data.train), None, None
        if training.eval_strategy != "no":
            self.validation = load_mixture(data.validation, data.root)
        if data.streaming:
            self.stream = StreamingMixture(data, training.seed, training.process_index, training.world_size)
            return
        parts = load_parts(data.train, data.root)
        self.sizes = [len(part) for part in parts]
        self.samples = join_in_blocks(parts, data.train, data.block) if data.block else concatenate_datasets(parts)
        augmented = {source.task for source in data.train if source.augment != recipe.augment}
        unknown = augmented.difference(self.samples.select_columns("task").unique("task") if augmented else [])
        if unknown:
            raise ValueError(
                f"the samples of {unknown.pop()!r} have other names, so that `augment` of their own does not find them."
            )

    def tokenizer_samples(self) -> Dataset | Iterator[dict]:
        """All samples, or of a stream the first ones, the same in every process, which are enough for a tokenizer."""
        return self.samples if self.stream is None else self.stream.first(STREAMED_SAMPLES)

    def train_dataset(self, processor: MMGPTProcessor, context: int) -> torch.utils.data.Dataset:
        """What the trainer reads; `context` is the most positions of the decoder."""
        if self.stream is None:
            return NumberedSamples(self.prepare(self.samples, processor, context))
        pack_to = self.recipe.sequence.pack_to
        if self.recipe.stage == "pretrain":
            blocks = {"tokenizer": processor.tokenizer, "size": pack_to or context}
            self.stream.finish = {"function": fill_blocks, "batch_size": STREAMED_TEXTS, "fn_kwargs": blocks}
        elif pack_to is not None:
            packs = {"collator": self.padding_collator(processor), "pack_to": pack_to}
            self.stream.finish = {"function": fill_packs, "batch_size": SAMPLES_TO_PACK, "fn_kwargs": packs}
        return self.stream

    def prepare(self, samples: Dataset, processor: MMGPTProcessor, context: int) -> Dataset | PackedDataset:
        """The samples as the stage wants them: conversations as they are, in packs, or their texts in blocks."""
        pack_to = self.recipe.sequence.pack_to
        if self.recipe.stage == "pretrain":
            return make_blocks(samples, processor.tokenizer, pack_to or context)
        if pack_to is None:
            return samples
        collator, lengths = self.padding_collator(processor), []
        for start in tqdm(range(0, len(samples), COUNTED_AT_ONCE), desc="tokens of each sample"):
            at_once = range(start, min(start + COUNTED_AT_ONCE, len(samples)))
            lengths += count_tokens(collator, [samples[index] for index in at_once])
        in_order = self.recipe.training.train_sampling_strategy == "sequential"
        return PackedDataset(samples, lengths, pack_to, seed=None if in_order else 0)

    def padding_collator(self, processor: MMGPTProcessor) -> MMGPTCollator:
        return MMGPTCollator(processor, max_length=self.recipe.sequence.max_length)

    def collator(self, processor: MMGPTProcessor):
        if self.recipe.stage == "pretrain":
            return MMGPTBlockCollator()
        sequence = self.recipe.sequence
        if sequence.pack_to is None:
            return self.padding_collator(processor)
        return MMGPTPackingCollator(processor, max_length=sequence.max_length, pack_to=sequence.pack_to)

    def describe(self) -> list[dict]:
        """The sources as the model card has them; `samples`: how many each contributes to an epoch, None of a stream."""
        both = zip(self.recipe.data.train, self.sizes, strict=True)
        return [
            {"source": one.dataset or one.task, "samples": size, "weight": one.weight, "licence": one.license}
            for one, size in both
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


def fill_packs(columns: dict[str, list], collator: MMGPTCollator, pack_to: int) -> dict[str, list]:
    """A batch of a stream's samples as packs of up to `pack_to` tokens, see [`PackedDataset`]."""
    samples = samples_of(columns)
    packs = PackedDataset(samples, count_tokens(collator, samples), pack_to, seed=None)
    return {"packed": [pack["packed"] for pack in packs]}


def fill_blocks(columns: dict[str, list], tokenizer: PreTrainedTokenizerFast, size: int) -> dict[str, list]:
    """A batch of samples as blocks of `size` tokens: each sample's text and an end-of-text token, see [`pack_documents`]."""
    texts = [document(sample) for sample in samples_of(columns)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return pack_documents([[*one, tokenizer.eos_token_id] for one in ids], size)


def make_blocks(samples: Dataset, tokenizer: PreTrainedTokenizerFast, size: int) -> Dataset:
    """The samples' texts in blocks of `size` tokens."""
    blocks = samples.map(
        fill_blocks,
        fn_kwargs={"tokenizer": tokenizer, "size": size},
        batched=True,
        batch_size=TEXTS_AT_ONCE,
        remove_columns=samples.column_names,
        desc=f"blocks of {size} tokens",
    )
    if len(blocks) == 0:
        raise ValueError(f"The texts have fewer tokens than one block of {size}: lower sequence.pack_to.")
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
