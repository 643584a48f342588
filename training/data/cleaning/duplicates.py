r"""Samples that are there already, to the letter or nearly.

Two samples are the same when text and media are. They are nearly the same when their texts share most of their runs of five words
(Jaccard similarity, estimated by MinHash; Broder 1997, Lee et al. 2022) and their images look alike, pair by pair (perceptual hash,
Hamming distance); sounds have to be equal, sample by sample. So neither many questions about one picture are duplicates, nor many
pictures with one question.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import NamedTuple

import numpy as np

from modeling_mmgpt.media_loading_mmgpt import load_image
from training.data.augmentation import read_audio
from training.data.cleaning.filters import whole_text


SHINGLE = 5  # words
PERMUTATIONS = 128
HASH_BITS = 64


class Fingerprint(NamedTuple):
    r"""
    text (`str`): of the words, whatever their case and punctuation.
    minhash (`list[int]`): `PERMUTATIONS` numbers.
    images (`list[str]`): perceptual hash of each, 16 hexadecimal digits.
    image_data (`list[str]`): of the decoded pixels of each.
    sounds (`list[str]`): of the decoded samples of each.
    """

    text: str
    minhash: list[int]
    images: list[str]
    image_data: list[str]
    sounds: list[str]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def checksum(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def take_fingerprint(row: dict) -> Fingerprint:
    words = words_of(whole_text(row))
    images = [load_image(image) for image in row["images"]]
    return Fingerprint(
        text=checksum(whole_text(row).encode()),
        minhash=minhash_of(words).hashvalues.tolist(),
        images=[str(perceptual_hash(image)) for image in images],
        image_data=[checksum(str(image.size).encode(), image.tobytes()) for image in images],
        sounds=[sound_checksum(sound) for sound in row["audios"]],
    )


def sound_checksum(sound: dict) -> str:
    wave, rate = read_audio(sound)
    return checksum(str(rate).encode(), np.ascontiguousarray(wave).tobytes())


def minhash_of(words: list[str]):
    """Of all runs of five words; fewer words are one run."""
    minhash = new_minhash()
    count = max(1, len(words) - SHINGLE + 1)
    minhash.update_batch([" ".join(words[start : start + SHINGLE]).encode() for start in range(count)])
    return minhash


def new_minhash(values: list[int] | None = None):
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise ImportError("Finding duplicates needs datasketch: pip install 'mmgpt[prepare]'.") from error
    return MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashvalues=values)


def perceptual_hash(image):
    try:
        from imagehash import phash
    except ImportError as error:
        raise ImportError("Finding duplicates needs imagehash: pip install 'mmgpt[prepare]'.") from error
    return phash(image)


class DuplicateFinder:
    r"""Keeps the fingerprints of what it has seen: a few kilobytes a sample with text, and nothing of its media.

    similarity (`float`, *optional*): texts that share at least this much are nearly the same; None looks for equal ones alone.
    distance (`int`): images whose hashes differ in at most so many of 64 bits look alike.
    """

    def __init__(self, similarity: float | None, distance: int):
        self.similarity, self.distance = similarity, distance
        self.exact: dict[tuple, str] = {}
        self.seen: list[tuple[str, Fingerprint]] = []
        self.looks = LooksAlike(distance)
        self.texts = None
        if similarity is not None:
            from datasketch import MinHashLSH

            self.texts = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)

    def same_as(self, print_: Fingerprint) -> str | None:
        """The name of an earlier sample that is the same."""
        return self.exact.get(key_of(print_))

    def nearly_same_as(self, print_: Fingerprint) -> tuple[str, float] | None:
        """The name of an earlier sample that is nearly the same, and how similar the texts are."""
        if self.similarity is None:
            return None
        minhash = new_minhash(print_.minhash)
        candidates = self.looks.candidates(print_.images[0]) if print_.images else self.texts.query(minhash)
        for place in sorted(candidates):
            name, other = self.seen[place]
            if other.sounds != print_.sounds or not self.look_alike(other.images, print_.images):
                continue
            share = minhash.jaccard(new_minhash(other.minhash))
            if share >= self.similarity:
                return name, share
        return None

    def look_alike(self, images: list[str], others: list[str]) -> bool:
        return len(images) == len(others) and all(
            differing_bits(one, other) <= self.distance for one, other in zip(images, others, strict=True)
        )

    def add(self, name: str, print_: Fingerprint) -> None:
        place = len(self.seen)
        self.exact[key_of(print_)] = name
        if self.similarity is None:
            return
        self.seen.append((name, print_))
        if print_.images:
            self.looks.add(place, print_.images[0])
        else:
            self.texts.insert(place, new_minhash(print_.minhash))


def key_of(print_: Fingerprint) -> tuple:
    return print_.text, *print_.image_data, "", *print_.sounds


def differing_bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


class LooksAlike:
    """Finds hashes that differ in at most `distance` bits: cut into `distance` + 1 bands, one band of theirs must be equal."""

    def __init__(self, distance: int):
        bounds = np.linspace(0, HASH_BITS, distance + 2).astype(int)
        self.bands = list(itertools.pairwise(bounds))
        self.places: dict[tuple[int, int], list[int]] = {}

    def keys(self, image: str) -> list[tuple[int, int]]:
        value = int(image, 16)
        return [
            (band, (value >> int(low)) & ((1 << int(high - low)) - 1)) for band, (low, high) in enumerate(self.bands)
        ]

    def add(self, place: int, image: str) -> None:
        for key in self.keys(image):
            self.places.setdefault(key, []).append(place)

    def candidates(self, image: str) -> set[int]:
        return {place for key in self.keys(image) for place in self.places.get(key, ())}
