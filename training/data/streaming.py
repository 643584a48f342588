r"""Sources read as they are needed: no copy on the disk, no length, no end.

    stream = StreamingMixture(recipe.data, seed=0, rank=0, world_size=1)

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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec.asyn
import numpy as np
from datasets import Features, IterableDataset, Value, interleave_datasets
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from training.data.formats import FORMATS
from training.data.loading import NUMBER, load_all, stream_samples
from training.data.records import StreamedFile, stream_records, streamed_files
from training.data.samples import FEATURES, LeftOut


if TYPE_CHECKING:
    from training.recipe import DataArguments


NUMBERED = Features({**FEATURES, "place": Value("int64")})
LEFT_OUT = "left_out"  # beside a sample: how many were, since the one before


class StreamingMixture(TorchIterableDataset):
    r"""Samples without end, for torch's DataLoader.

    data (`DataArguments`): `weight` of each source of its `train` is the source's share of the samples.
    seed (`int`): of all orders.
    rank, world_size (`int`): of this process.
    files (`list[list[StreamedFile]]`, *optional*): those of each source when the run began; by default those that there are now.

    `finish`, where it is set, holds the arguments of `map` that make packs or blocks of the mixture of one worker. A sample comes
    with the number of those that were `left_out` since the one before.
    """

    def __init__(
        self,
        data: DataArguments,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        files: list[list[StreamedFile]] | None = None,
    ):
        self.data, self.seed, self.rank, self.world_size = data, seed, rank, world_size
        self.finish: dict[str, Any] | None = None
        self.left_out = LeftOut()
        root = Path(data.root or ".")
        own = [source.format not in FORMATS for source in data.train]
        self.files = files or [
            [] if is_own else streamed_files(source, root) for source, is_own in zip(data.train, own, strict=True)
        ]
        self.records = [
            load_all(source, data.root, self.left_out).to_iterable_dataset()
            if is_own
            else stream_records(source, root, listed, self.left_out)
            for source, listed, is_own in zip(data.train, self.files, own, strict=True)
        ]
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
            yield {name: values[0] for name, values in batch.items()} | {LEFT_OUT: self.left_out.new()}
        names = ", ".join(source.task for source in self.data.train)
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
        for source, records in zip(self.data.train, self.records, strict=True):
            endless = without_end(share_of(records, part, parts), self.seed, self.data.shuffle_buffer)
            if source.format in FORMATS:
                root = Path(self.data.root or ".")
                streams.append(stream_samples(source, root, endless, records.features, self.left_out))
            else:
                streams.append(endless.map(features=records.features, remove_columns=[NUMBER]))
        mixture = streams[0]
        if len(streams) > 1:
            weights = np.array([source.weight for source in self.data.train])
            draws = int(np.random.SeedSequence([self.seed, part]).generate_state(1)[0])
            mixture = interleave_datasets(streams, probabilities=weights / weights.sum(), seed=draws)
        # Random changes to a sample depend on its place in the stream (augmentation.py).
        mixture = mixture.map(number, with_indices=True, fn_kwargs={"column": "place"}, features=NUMBERED)
        if self.finish is None:
            return mixture
        return mixture.map(**self.finish, batched=True, remove_columns=list(NUMBERED))

    def state_dict(self) -> dict | None:
        return self.state if self.stream is None else self.stream.state_dict()

    def load_state_dict(self, state: dict | None) -> None:
        self.state, self.stream = state, None

    def close(self) -> None:
        """Ends what reads ahead. A process that ends before its readers of parquet do may hang (apache/arrow#45214)."""
        if self.running is not None:
            self.running.close()


def share_of(records: IterableDataset, part: int, parts: int) -> IterableDataset:
    """Every record is in exactly one part. Whole shards where there are enough: no part then reads what is another's."""
    if parts == 1:
        return records
    if records.num_shards >= parts:
        return records.shard(parts, part, contiguous=False)
    return records.filter(is_in_part, with_indices=True, fn_kwargs={"part": part, "parts": parts})


def without_end(records: IterableDataset, seed: int, shuffle_buffer: int) -> IterableDataset:
    """All records again and again, in another order each time."""
    if shuffle_buffer > 1:  # with a buffer of one record, it draws an order of the shards and no more
        records = records.shuffle(seed, buffer_size=1, max_buffer_input_shards=1)
    # A record is named by its place among those of its part where it has no name of its own.
    records = records.map(number, with_indices=True, fn_kwargs={"column": NUMBER}).repeat(None)
    if shuffle_buffer == 1:
        return records
    seeded = {"with_indices": True, "fn_kwargs": {"seed": seed}}
    return records.map(reorder, batched=True, batch_size=shuffle_buffer, **seeded)


def is_in_part(record: dict, index: int, part: int, parts: int) -> bool:
    return index % parts == part


def number(record: dict, index: int, column: str) -> dict:
    return {**record, column: index}


def reorder(batch: dict[str, list], indices: list[int], seed: int) -> dict[str, list]:
    """A batch of records in an order that depends on the seed and on the batch's place in the endless stream.

    What belongs to the next pass stays behind what belongs to this one: in each pass every record is seen once."""
    shuffle = np.random.default_rng([seed, indices[0]])
    starts = [place for place, number in enumerate(batch[NUMBER]) if number == 0 or place == 0]
    order = []
    for start, end in itertools.pairwise([*starts, len(indices)]):
        order += [start + place for place in shuffle.permutation(end - start)]
    return {name: [values[place] for place in order] for name, values in batch.items()}
