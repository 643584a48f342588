r"""What a run learns from, written down when it begins, so that it goes on with the same samples in the same order, whatever has
become of the data in the meantime.

output_dir/data.parquet has a line for each sample of an epoch: the digest of its content, its name, its source and, where samples are
packed, its tokens. Of a stream it has a line for each file. How many samples a step takes is in its metadata.
"""

import os
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
from datasets import Dataset, concatenate_datasets

from training.data.loading import DIGEST
from training.data.records import StreamedFile
from training.data.samples import FEATURES, DataError, LeftOut, make_dataset


FILE = "data.parquet"
SAMPLES_PER_STEP = b"samples_per_step"
NAMED_AT_MOST = 10  # samples in an error


class Ledger:
    r"""
    columns (`dict[str, list]`): by the names that the file has them under.
    samples_per_step (`int`): in all processes.
    """

    def __init__(self, columns: dict[str, list], samples_per_step: int):
        self.columns, self.samples_per_step = columns, samples_per_step

    @classmethod
    def read(cls, folder: Path) -> "Ledger | None":
        """None of a run that wrote none."""
        if not (folder / FILE).is_file():
            return None
        try:
            table = parquet.read_table(folder / FILE)
            return cls(table.to_pydict(), int(table.schema.metadata[SAMPLES_PER_STEP]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder / FILE} is damaged, so that nothing tells which samples this run learns from: bring it back from a copy, "
                "or remove it if the data are what they were when the run began."
            ) from error

    def write(self, folder: Path) -> None:
        metadata = {SAMPLES_PER_STEP: str(self.samples_per_step).encode()}
        unfinished = folder / f"{FILE}.part"
        parquet.write_table(pyarrow.table(self.columns).replace_schema_metadata(metadata), unfinished)
        os.replace(unfinished, folder / FILE)

    def files(self, sources: int) -> list[list[StreamedFile]]:
        """Those of each source of a stream."""
        files: list[list[StreamedFile]] = [[] for _ in range(sources)]
        fields = zip(*(self.columns[name] for name in StreamedFile._fields), strict=True)
        for source, file in zip(self.columns["source"], fields, strict=True):
            files[source].append(StreamedFile(*file))
        return files

    def bring_back(self, parts: list[Dataset], strict: list[bool], left_out: LeftOut) -> Dataset:
        """The samples that the run began with, in its order, from all samples of its sources as they are now. One that is no more, or
        has another content now, is left out, or is an error where its source is `strict`: empty messages are in its place."""
        now = concatenate_datasets(parts)
        place = {digest: index for index, digest in reversed(list(enumerate(now[DIGEST])))}
        digests, names, sources = (self.columns[name] for name in ("digest", "name", "source"))
        gone: dict[str, tuple[str, int]] = {}
        for digest, name, source in zip(digests, names, sources, strict=True):
            if digest not in place and digest not in gone:
                gone[digest] = (name, source)
        refused = [name for name, source in gone.values() if strict[source]]
        if refused:
            more = f" and {len(refused) - NAMED_AT_MOST} more" if len(refused) > NAMED_AT_MOST else ""
            raise DataError(
                f"the data have changed since the run began: {', '.join(refused[:NAMED_AT_MOST])}{more} are gone or have another content. "
                "Bring them back, set strict: false in their source to go on without them, or begin another run."
            )
        for digest, (name, _) in gone.items():
            left_out.add(digest, f"sample {name}: it is gone, or is not what it was when the run began")
        place |= {digest: len(now) + index for index, digest in enumerate(gone)}
        samples = now.select_columns(list(FEATURES))
        if gone:
            blanks = make_dataset([{"id": name} for name, _ in gone.values()])
            samples = concatenate_datasets([samples, blanks])
        return samples.select([place[digest] for digest in digests])
