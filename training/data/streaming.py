r"""Sources read as they are needed: no copy on the disk, no length, no end.

    stream = StreamingMixture(recipe.data.train, root, seed=0, shuffle_buffer=1000, rank=0, world_size=1)

What each process and each of its data workers does is a chain of `datasets`' own steps, whose state names the next sample:

    its part of the records    whole shards (files; row groups of parquet) where there are enough, else every n-th record
    -> the shards in an order drawn from the seed, repeated without end
    -> shuffled anew in each pass, among `shuffle_buffer` records at a time
    -> samples, broken ones left out
    -> the sources interleaved: `weight` is a source's share of the samples
    -> packs or blocks, where the recipe wants them

`IterableDataset.shuffle` would lose what is in its buffer when a run is interrupted; a batch of records put into another order by
`map` is read again. torchdata's StatefulDataLoader keeps the state of each worker at the last batch that was handed out.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec.asyn
import numpy as np
from datasets import Features, IterableDataset, Value, interleave_datasets
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from training.data.formats import FORMATS
from training.data.loading import NUMBER, load_records, load_source, stream_samples
from training.data.samples import FEATURES


if TYPE_CHECKING:
    from training.recipe import SourceArguments


NUMBERED = Features({**FEATURES, "place": Value("int64")})


class StreamingMixture(TorchIterableDataset):
    r"""Samples without end, for torch's DataLoader.

    sources (`list[SourceArguments]`): `weight` is each one's share of the samples.
    root (`str`, *optional*): where relative names of files start.
    seed (`int`): of all orders.
    shuffle_buffer (`int`): records of a source that are shuffled at a time; 1 keeps their order.
    rank, world_size (`int`): of this process.

    `finish`, where it is set, takes the mixture of one worker, a `datasets.IterableDataset`, and returns it in packs or blocks.
    """

    def __init__(
        self,
        sources: list[SourceArguments],
        root: str | None,
        seed: int,
        shuffle_buffer: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources, self.root, self.seed, self.shuffle_buffer = sources, Path(root or "."), seed, shuffle_buffer
        self.rank, self.world_size = rank, world_size
        self.finish: Callable[[IterableDataset], IterableDataset] | None = None
        self.records = [open_source(source, root) for source in sources]
        self.state, self.stream, self.running = None, None, None

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        fsspec.asyn.reset_lock()  # a forked worker would wait for a lock of its parent
        part, parts = self.rank * workers + number, self.world_size * workers
        stream = self.part(part, parts)
        if self.state is not None:
            # It warns of buffers that are lost: those here hold nothing between two samples.
            logging.getLogger("datasets.iterable_dataset").setLevel(logging.ERROR)
            stream.load_state_dict(self.state)
        self.stream = stream
        self.running = stream.iter(batch_size=1)  # its `__iter__` would share out among the workers once more
        for batch in self.running:
            yield {name: values[0] for name, values in batch.items()}
        names = ", ".join(source.task for source in self.sources)
        raise ValueError(
            f"A source of {names} has no sample for part {part} of {parts} (processes times data workers): lower "
            "training.dataloader_num_workers."
        )

    def first(self, count: int) -> Iterator[dict]:
        """So many samples of the whole mixture, the same in every process."""
        self.running = self.part(0, 1).iter(batch_size=1)
        for batch in itertools.islice(self.running, count):
            yield {name: values[0] for name, values in batch.items()}
        self.close()

    def part(self, part: int, parts: int) -> IterableDataset:
        """The endless mixture of the records that belong to one of all workers of all processes."""
        streams = []
        for source, records in zip(self.sources, self.records, strict=True):
            endless = without_end(share_of(records, part, parts), self.seed, self.shuffle_buffer)
            if source.format in FORMATS:
                streams.append(stream_samples(source, self.root, endless, records.features))
            else:
                streams.append(endless.map(features=records.features, remove_columns=[NUMBER]))
        mixture = streams[0]
        if len(streams) > 1:
            weights = np.array([source.weight for source in self.sources])
            draws = int(np.random.SeedSequence([self.seed, part]).generate_state(1)[0])
            mixture = interleave_datasets(streams, probabilities=weights / weights.sum(), seed=draws)
        mixture = mixture.map(number_sample, with_indices=True, features=NUMBERED)
        return mixture if self.finish is None else self.finish(mixture)

    def state_dict(self) -> dict | None:
        return self.state if self.stream is None else self.stream.state_dict()

    def load_state_dict(self, state: dict | None) -> None:
        self.state, self.stream = state, None

    def close(self) -> None:
        """Ends what reads ahead. A process that ends before its readers of parquet do may hang (apache/arrow#45214)."""
        if self.running is not None:
            self.running.close()


def open_source(source: SourceArguments, root: str | None) -> IterableDataset:
    """The records of a source, or the samples of one that brings its own."""
    if source.format in FORMATS:
        return load_records(source, Path(root or "."), streaming=True).reshard()
    return load_source(source, root).to_iterable_dataset()


def share_of(records: IterableDataset, part: int, parts: int) -> IterableDataset:
    """Every record is in exactly one part. Whole shards where there are enough: no part then reads what is another's."""
    if parts == 1:
        return records
    if records.num_shards >= parts:
        return records.shard(parts, part, contiguous=False)
    return records.filter(IsInPart(part, parts), with_indices=True)


def without_end(records: IterableDataset, seed: int, shuffle_buffer: int) -> IterableDataset:
    """All records again and again, in another order each time."""
    if shuffle_buffer > 1:  # with a buffer of one record, it draws an order of the shards and no more
        records = records.shuffle(seed, buffer_size=1, max_buffer_input_shards=1)
    records = records.map(number_record, with_indices=True).repeat(None)
    if shuffle_buffer == 1:
        return records
    return records.map(Reordered(seed), batched=True, batch_size=shuffle_buffer, with_indices=True)


class IsInPart:
    def __init__(self, part: int, parts: int):
        self.part, self.parts = part, parts

    def __call__(self, record: dict, index: int) -> bool:
        return index % self.parts == self.part


class Reordered:
    """A batch of records in an order that depends on the seed and on the batch's place in the endless stream.

    What belongs to the next pass stays behind what belongs to this one: in each pass every record is seen once."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        shuffle = np.random.default_rng([self.seed, indices[0]])
        starts = [place for place, number in enumerate(batch[NUMBER]) if number == 0 or place == 0]
        order = []
        for start, end in itertools.pairwise([*starts, len(indices)]):
            order += [start + place for place in shuffle.permutation(end - start)]
        return {name: [values[place] for place in order] for name, values in batch.items()}


def number_record(record: dict, index: int) -> dict:
    """The record with its place among those of its part, by which it is named where it has no name of its own."""
    return {**record, NUMBER: index}


def number_sample(sample: dict, index: int) -> dict:
    """The sample with its place in the stream, on which random changes to it depend (augmentation.py)."""
    return {**sample, "place": index}
