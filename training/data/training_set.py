r"""What a run learns from, and what it is evaluated on while it learns: sources loaded and mixed, then packed, or streamed.

    data = TrainingSet(recipe)
    model, processor = build_model_and_processor(recipe, data.tokenizer_samples())
    dataset, collator = data.train_dataset(processor, context), data.collator(processor)

With stage "pretrain" the texts become full blocks of tokens; else samples stay conversations, each alone or several in a pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import Dataset, Value, concatenate_datasets
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
from training.data.batches import name_of
from training.data.ledger import Ledger
from training.data.loading import DIGEST, digest_of, draw, load_all, load_source
from training.data.mixtures import join_in_blocks, weigh
from training.data.records import StreamedFile
from training.data.samples import FEATURES, DataError, LeftOut, whole_text
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
    return concatenate_datasets([weigh(load_source(source, root), source.weight) for source in sources])


class TrainingSet:
    r"""
    recipe (`Recipe`): whose sources these are.
    checkpoint (`str`, *optional*): where the run goes on; it then has the samples that it began with.

    samples (`datasets.Dataset`): of one epoch, in order; None where they are streamed.
    sizes (`list[int]`): how many of them are of each source, each None where they are streamed.
    stream (`StreamingMixture`): in place of `samples`.
    validation (`datasets.Dataset`): what is evaluated during training; None where the recipe does not want that.
    left_out (`LeftOut`): what could not be used.
    earlier (`Ledger`), columns (`dict`): what was written down when the run began, or is to be.
    """

    def __init__(self, recipe: Recipe, checkpoint: str | None = None):
        self.recipe, data, training = recipe, recipe.data, recipe.training
        self.samples, self.sizes, self.stream, self.validation = None, [None] * len(data.train), None, None
        goes_on = checkpoint is not None and training.resume_from_checkpoint is True
        self.earlier = Ledger.read(Path(training.output_dir)) if goes_on else None
        if training.eval_strategy != "no":
            self.validation = load_mixture(data.validation, data.root)
        if data.streaming:
            files = self.earlier.files(len(data.train)) if self.earlier else None
            self.stream = StreamingMixture(data, training.seed, training.process_index, training.world_size, files)
            self.left_out, self.columns = self.stream.left_out, file_columns(self.stream.files)
            return
        self.left_out = LeftOut()
        parts = [with_digests(load_all(one, data.root, self.left_out), index) for index, one in enumerate(data.train)]
        chosen = [weigh(draw(part, one.limit), one.weight) for part, one in zip(parts, data.train, strict=True)]
        self.sizes = [len(part) for part in chosen]
        mixed = join_in_blocks(chosen, data.train, data.block) if data.block else concatenate_datasets(chosen)
        self.columns = sample_columns(mixed)
        self.samples = mixed.select_columns(list(FEATURES))
        if self.earlier is not None and self.earlier.columns[DIGEST] != self.columns[DIGEST]:
            if recipe.stage == "pretrain":
                raise DataError(
                    f"the texts in {data.root or '.'} have changed since the run began, so that its blocks cannot be made again: bring "
                    "them back, or begin another run."
                )
            strict = [source.strict for source in data.train]
            self.samples = self.earlier.bring_back(parts, strict, self.left_out)
        if self.earlier is not None:
            self.columns = self.earlier.columns
        augmented = {source.task for source in data.train if source.augment != recipe.augment}
        unknown = augmented.difference(self.samples.select_columns("task").unique("task") if augmented else [])
        if unknown:
            raise DataError(
                f"the samples of {unknown.pop()!r} have other names, so that `augment` of their own does not find them."
            )

    def tokenizer_samples(self) -> Dataset | Iterator[dict]:
        """All samples, or of a stream the first ones, the same in every process, which are enough for a tokenizer."""
        return self.samples if self.stream is None else self.stream.first(STREAMED_SAMPLES)

    def train_dataset(self, processor: MMGPTProcessor, context: int) -> torch.utils.data.Dataset:
        """What the trainer reads; `context` is the most positions of the decoder."""
        pack_to, is_text = self.recipe.sequence.pack_to, self.recipe.stage == "pretrain"
        if self.stream is None:
            if pack_to is not None and not is_text and "tokens" not in self.columns:
                self.columns["tokens"] = self.count_tokens(self.samples, processor)
            return NumberedSamples(self.prepare(self.samples, processor, context, self.columns.get("tokens")))
        if is_text:
            blocks = {"tokenizer": processor.tokenizer, "size": pack_to or context}
            self.stream.finish = {"function": fill_blocks, "batch_size": STREAMED_TEXTS, "fn_kwargs": blocks}
        elif pack_to is not None:
            packs = {"collator": self.padding_collator(processor), "pack_to": pack_to, "left_out": self.left_out}
            self.stream.finish = {"function": fill_packs, "batch_size": SAMPLES_TO_PACK, "fn_kwargs": packs}
        return self.stream

    def prepare(
        self, samples: Dataset, processor: MMGPTProcessor, context: int, tokens: list[int] | None = None
    ) -> Dataset | PackedDataset:
        """The samples as the stage wants them: conversations as they are, in packs, or their texts in blocks. `tokens` of each
        sample are counted where they are not given and needed."""
        pack_to = self.recipe.sequence.pack_to
        if self.recipe.stage == "pretrain":
            return make_blocks(samples, processor.tokenizer, pack_to or context)
        if pack_to is None:
            return samples
        in_order = self.recipe.training.train_sampling_strategy == "sequential"
        tokens = tokens or self.count_tokens(samples, processor)
        return PackedDataset(samples, tokens, pack_to, seed=None if in_order else 0)

    def count_tokens(self, samples: Dataset, processor: MMGPTProcessor) -> list[int]:
        """Those of each sample. One that does not fit into a pack counts as one token, and is left out of its batch."""
        collator, pack_to, tokens = self.padding_collator(processor), self.recipe.sequence.pack_to, []
        for start in tqdm(range(0, len(samples), COUNTED_AT_ONCE), desc="tokens of each sample"):
            at_once = [samples[index] for index in range(start, min(start + COUNTED_AT_ONCE, len(samples)))]
            tokens += tokens_or_none(at_once, collator, pack_to, self.left_out)
        return [1 if count is None else count for count in tokens]

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


# ---- what is written down of them when a run begins


def with_digests(samples: Dataset, source: int) -> Dataset:
    """The samples of the source of this number with the columns that find them again."""
    if DIGEST not in samples.column_names:
        samples = add_column(samples, DIGEST, [digest_of(sample) for sample in samples], Value("string"))
    return add_column(samples, "source", [source] * len(samples), Value("int32"))


def add_column(samples: Dataset, name: str, column: list, feature: Value) -> Dataset:
    """`Dataset.add_column`, which would first copy every sample, media and all, of a data set that was put in order or cut."""
    if samples._indices is None:
        return samples.add_column(name, column, feature=feature)
    places = samples._indices.column(0).to_pylist()
    below: list = [None] * samples._data.num_rows
    for place, value in zip(places, column, strict=True):
        below[place] = value
    return Dataset(samples._data, info=samples.info).add_column(name, below, feature=feature).select(places)


def sample_columns(samples: Dataset) -> dict[str, list]:
    columns = samples.select_columns(["id", "task", DIGEST, "source"])[:]
    names = [name_of({"id": each, "task": task}) for each, task in zip(columns["id"], columns["task"], strict=True)]
    return {DIGEST: columns[DIGEST], "name": names, "source": columns["source"]}


def file_columns(files: list[list[StreamedFile]]) -> dict[str, list]:
    rows = [(source, *file) for source, listed in enumerate(files) for file in listed]
    names = ("source", *StreamedFile._fields)
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


# ---- packs and blocks: what several samples become


def tokens_or_none(samples: list[dict], collator: MMGPTCollator, pack_to: int, left_out: LeftOut) -> list[int | None]:
    """The tokens of each sample. None, named, of one of which no batch can be made, or which is longer than a pack."""
    try:
        tokens = count_tokens(collator, samples)
    except (ValueError, OSError) as error:
        if len(samples) > 1:
            return [count for sample in samples for count in tokens_or_none([sample], collator, pack_to, left_out)]
        left_out.add(name_of(samples[0]), f"sample {name_of(samples[0])}: {error}")
        return [None]
    for sample, count in zip(samples, tokens, strict=True):
        if count > pack_to:
            problem = f"{count} tokens are more than sequence.pack_to={pack_to}"
            left_out.add(name_of(sample), f"sample {name_of(sample)}: {problem}")
    return [count if count <= pack_to else None for count in tokens]


def fill_packs(columns: dict[str, list], collator: MMGPTCollator, pack_to: int, left_out: LeftOut) -> dict[str, list]:
    """A batch of a stream's samples as packs of up to `pack_to` tokens, see [`PackedDataset`]."""
    samples = samples_of(columns)
    tokens = tokens_or_none(samples, collator, pack_to, left_out)
    fitting = [(sample, count) for sample, count in zip(samples, tokens, strict=True) if count is not None]
    packs = PackedDataset([sample for sample, _ in fitting], [count for _, count in fitting], pack_to, seed=None)
    return {"packed": [pack["packed"] for pack in packs]}


def fill_blocks(columns: dict[str, list], tokenizer: PreTrainedTokenizerFast, size: int) -> dict[str, list]:
    """A batch of samples as blocks of `size` tokens: each sample's text and an end-of-text token, see [`pack_documents`]; the `id` of
    a block names its first and its last text."""
    samples = samples_of(columns)
    ids = tokenizer([document(sample) for sample in samples], add_special_tokens=False)["input_ids"]
    blocks = pack_documents([[*one, tokenizer.eos_token_id] for one in ids], size)
    owners = [name_of(sample) for sample, one in zip(samples, ids, strict=True) for _ in range(len(one) + 1)]
    first_last = [(owners[start], owners[start + size - 1]) for start in range(0, len(owners) - size + 1, size)]
    return {**blocks, "id": [" to ".join(dict.fromkeys(both)) for both in first_last]}


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
        raise DataError(f"The texts have fewer tokens than one block of {size}: lower sequence.pack_to.")
    return blocks


def samples_of(columns: dict[str, list]) -> list[dict]:
    """A batch of `map`, sample by sample."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def document(sample: dict) -> str:
    """The text of all turns of a sample, a line each: for a plain text, its one turn."""
    if sample.get("images") or sample.get("audios") or sample.get("videos"):
        raise DataError(
            f"sample {sample.get('id')!r} has images, audio or videos, but pre-training reads text alone: leave it out."
        )
    return whole_text(sample)
