"""The demo's data: four sources that are made on the spot, from a seed, without files or network.

    digits   real handwritten digits; held out: images
    scenes   drawn shapes; held out: combinations of colour, shape, count and place
    sounds   synthesised notes; held out: combinations of instrument, melody and pitch
    text     small language tasks; held out: the words, sentences and stories

Split "test" holds what is held out. "train" and "validation" are of one kind, from different draws.
"""

import random
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from training.data.mixtures import alternate, cut, cut_alike
from training.data.samples import make_dataset
from training.data.synthetic import digits, melodies, scenes, text_tasks
from training.data.synthetic.digits import digit_row
from training.data.synthetic.melodies import sound_row
from training.data.synthetic.scenes import scene_row
from training.data.synthetic.text_tasks import text_row


ROW_MAKERS: dict[str, Callable[[str, int, int, int], dict]] = {
    "digits": digit_row,
    "scenes": scene_row,
    "sounds": sound_row,
    "text": text_row,
}
TASKS = {
    "digits": tuple(digits.TASKS),
    "scenes": tuple(scenes.TASKS),
    "sounds": tuple(melodies.TASKS),
    "text": tuple(text_tasks.TASKS),
}


BLOCK = 16  # rows


def load_course(root: Path, split: str, rows: dict[str, int], exchanges: dict[str, int], seed: int = 0) -> Dataset:
    r"""Rows of several sources in the order in which a model should meet them.

    Each source keeps its own order, the easy rows first, and is spread over the whole course. The rows come in blocks of one
    source: rows that are alike in length share a batch of 16, which wastes little on padding.

    rows (`dict`): source -> how many.
    exchanges (`dict`): source -> questions with answers in one row; 1 where it is not named.
    root, split, seed: as of `load_demo`.
    """
    parts = {
        source: load_demo(root, split, source, count, exchanges.get(source, 1), seed) for source, count in rows.items()
    }
    sources, start = [], 0
    for source, dataset in parts.items():
        places = range(start, start + len(dataset))
        if exchanges.get(source, 1) > 1:
            # These differ most in length. Pictures with one question each stay as they are: batches with the same question
            # throughout kept their shapes from being learnt.
            lengths = dict(zip(places, map(tokens_of, dataset), strict=True))
            sources.append(cut_alike(places, lengths, BLOCK, random.Random(f"course/{seed}")))
        else:
            sources.append(cut(places, BLOCK))
        start += len(dataset)
    return concatenate_datasets(list(parts.values())).select(alternate(sources))


def tokens_of(row: dict) -> float:
    """About how many: four letters make one, and 80 ms of 16-bit sound at 16 kHz. All pictures have as many."""
    letters = sum(len(part["text"] or "") for message in row["messages"] for part in message["content"])
    return letters / 4 + sum(len(audio["bytes"]) for audio in row["audios"]) / 2560


def load_demo(root: Path, split: str, source: str, rows: int, exchanges: int = 1, seed: int = 0) -> Dataset:
    r"""
    root (`Path`): not read; every adapter takes it.
    split (`str`): "train", "validation" or "test".
    source (`str`): a key of `ROW_MAKERS`.
    rows (`int`): how many; row i is the same whatever the number.
    exchanges (`int`, *optional*, defaults to 1): questions with answers in one row. Leave it at 1 to evaluate.
    seed (`int`, *optional*, defaults to 0): another seed draws other rows of the same kind.
    """
    if source not in ROW_MAKERS:
        raise ValueError(f"the demo has no source {source!r}; it has {', '.join(ROW_MAKERS)}.")
    if split not in ("train", "validation", "test"):
        raise ValueError(f"the demo has no split {split!r}; it has train, validation and test.")
    return make_dataset([ROW_MAKERS[source](split, index, seed, exchanges) for index in range(rows)])
