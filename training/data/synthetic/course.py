"""The demo's data: sources that are drawn from a seed, without files or network.

    digits   real handwritten digits; held out: images
    scenes   drawn shapes; held out: combinations of colour, shape, count and place
    audio    synthesised notes; held out: combinations of instrument, melody and pitch
    text     small language tasks; held out: the words, sentences and stories
    text_zh  the same in Chinese

Split "test" holds what is held out. "train" and "validation" are of one kind, from different draws.
"""

import random
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from training.data.mixtures import alternate, cut, cut_alike
from training.data.samples import make_dataset
from training.data.synthetic import digits, melodies, scenes
from training.data.synthetic.text_tasks import CHINESE, ENGLISH


# Each has TASKS, the names of what it asks, and make_sample(split, index, seed, turns).
SOURCES = {"digits": digits, "scenes": scenes, "audio": melodies, "text": ENGLISH, "text_zh": CHINESE}
TASKS = {name: tuple(source.TASKS) for name, source in SOURCES.items()}
BLOCK = 16  # samples


def load_course(root: Path, split: str, samples: dict[str, int], turns: dict[str, int], seed: int = 0) -> Dataset:
    r"""Samples of several sources in the order of a curriculum.

    Each source keeps its own order, the easy samples first, and is spread over the whole course. The samples come in blocks of one
    source: samples that are alike in length share a batch of 16, which wastes little on padding.

    samples (`dict`): source -> how many.
    turns (`dict`): source -> questions with answers in one sample; 1 where it is not named.
    root, split, seed: as of `load_demo`.
    """
    parts = {
        source: load_demo(root, split, source, count, turns.get(source, 1), seed) for source, count in samples.items()
    }
    blocks, start = [], 0
    for source, dataset in parts.items():
        places = range(start, start + len(dataset))
        if turns.get(source, 1) > 1:
            # These differ most in length. Images with one question each stay as they are: batches with the same question
            # throughout kept their shapes from being learnt.
            lengths = dict(zip(places, map(approximate_length, dataset), strict=True))
            blocks.append(cut_alike(places, lengths, BLOCK, random.Random(f"course/{seed}")))
        else:
            blocks.append(cut(places, BLOCK))
        start += len(dataset)
    return concatenate_datasets(list(parts.values())).select(alternate(blocks))


def approximate_length(sample: dict) -> float:
    """In tokens: four letters make one, and 80 ms of 16-bit audio at 16 kHz. All images have as many."""
    letters = sum(len(part["text"] or "") for message in sample["messages"] for part in message["content"])
    return letters / 4 + sum(len(audio["bytes"]) for audio in sample["audios"]) / 2560


def load_demo(root: Path, split: str, source: str, samples: int, turns: int = 1, seed: int = 0) -> Dataset:
    r"""
    root (`Path`): not read; every format that brings its own data takes it.
    split (`str`): "train", "validation" or "test".
    source (`str`): a key of `SOURCES`.
    samples (`int`): how many; sample i is the same whatever the number.
    turns (`int`, *optional*, defaults to 1): questions with answers in one sample. Leave it at 1 to evaluate.
    seed (`int`, *optional*, defaults to 0): another seed draws other samples of the same kind.
    """
    if source not in SOURCES:
        raise ValueError(f"the demo has no source {source!r}; it has {', '.join(SOURCES)}.")
    if split not in ("train", "validation", "test"):
        raise ValueError(f"the demo has no split {split!r}; it has train, validation and test.")
    return make_dataset([SOURCES[source].make_sample(split, index, seed, turns) for index in range(samples)])
