r"""Exact and near duplicates.

Two samples are the same when text and media are. They are near duplicates when their texts share most of their 5-grams of words
(Jaccard similarity, estimated by MinHash; Broder 1997, Lee et al. 2022) and their images look alike, pair by pair (perceptual hash,
Hamming distance); audio clips have to have equal waveforms. So neither many questions about one image are duplicates, nor many
images with one question.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import NamedTuple

import numpy as np

from modeling_mmgpt.media_loading_mmgpt import load_image
from training.data.augmentation import read_audio
from training.data.cleaning import require
from training.data.samples import whole_text


SHINGLE = 5  # words
PERMUTATIONS = 128
HASH_BITS = 64
PURPOSE = "Finding duplicates"


class Fingerprint(NamedTuple):
    r"""
    text_checksum (`str`): of the text as it is.
    minhash (`list[int]`): `PERMUTATIONS` numbers, of the words, whatever their case and punctuation.
    image_hashes (`list[str]`): perceptual hash of each image, 16 hexadecimal digits.
    image_checksums (`list[str]`): of the decoded pixels of each.
    audio_checksums (`list[str]`): of the decoded waveform of each audio clip.
    """

    text_checksum: str
    minhash: list[int]
    image_hashes: list[str]
    image_checksums: list[str]
    audio_checksums: list[str]

    @property
    def has_media(self) -> bool:
        return bool(self.image_hashes or self.audio_checksums)

    @property
    def exact(self) -> tuple:
        """Equal for samples that are the same."""
        return self.text_checksum, *self.image_checksums, "", *self.audio_checksums


def take_fingerprint(sample: dict) -> Fingerprint:
    text = whole_text(sample)
    images = [load_image(image) for image in sample["images"]]
    waves = [read_audio(audio) for audio in sample["audios"]]
    return Fingerprint(
        text_checksum=checksum(text.encode()),
        minhash=minhash_of(words_of(text)).hashvalues.tolist(),
        image_hashes=[str(require("imagehash", PURPOSE).phash(image)) for image in images],
        image_checksums=[checksum(str(image.size).encode(), image.tobytes()) for image in images],
        audio_checksums=[checksum(str(rate).encode(), np.ascontiguousarray(wave).tobytes()) for wave, rate in waves],
    )


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def checksum(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def minhash_of(words: list[str]):
    """Of all 5-grams of words; a shorter text is one shingle."""
    minhash = new_minhash()
    count = max(1, len(words) - SHINGLE + 1)
    minhash.update_batch([" ".join(words[start : start + SHINGLE]).encode() for start in range(count)])
    return minhash


def new_minhash(values: list[int] | None = None):
    minhash = require("datasketch", PURPOSE).MinHash
    return minhash(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashvalues=values)


class DuplicateFinder:
    r"""Keeps the fingerprints of earlier samples: a few kilobytes for a sample with text, and nothing of its media.

    similarity (`float`, *optional*): texts that share at least this much are near duplicates; None looks for exact ones alone.
    distance (`int`): images whose hashes differ in at most so many of 64 bits look alike.
    """

    def __init__(self, similarity: float | None, distance: int):
        self.similarity, self.distance = similarity, distance
        self.exact: dict[tuple, str] = {}
        self.earlier: list[tuple[str, Fingerprint]] = []
        self.look_alikes = LookAlikes(distance)
        self.texts = None
        if similarity is not None:
            self.texts = require("datasketch", PURPOSE).MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)

    def same_as(self, fingerprint: Fingerprint) -> str | None:
        """The name of an earlier sample that is the same."""
        return self.exact.get(fingerprint.exact)

    def nearly_same_as(self, fingerprint: Fingerprint) -> tuple[str, float] | None:
        """The name of an earlier sample that is nearly the same, and how similar the texts are."""
        if self.similarity is None:
            return None
        minhash = new_minhash(fingerprint.minhash)
        if fingerprint.image_hashes:
            candidates = self.look_alikes.candidates(fingerprint.image_hashes[0])
        else:
            candidates = self.texts.query(minhash)
        for place in sorted(candidates):
            name, other = self.earlier[place]
            if other.audio_checksums != fingerprint.audio_checksums:
                continue
            if not self.look_alike(other.image_hashes, fingerprint.image_hashes):
                continue
            similarity = minhash.jaccard(new_minhash(other.minhash))
            if similarity >= self.similarity:
                return name, similarity
        return None

    def look_alike(self, images: list[str], others: list[str]) -> bool:
        return len(images) == len(others) and all(
            differing_bits(one, other) <= self.distance for one, other in zip(images, others, strict=True)
        )

    def add(self, name: str, fingerprint: Fingerprint) -> None:
        place = len(self.earlier)
        self.exact[fingerprint.exact] = name
        if self.similarity is None:
            return
        self.earlier.append((name, fingerprint))
        if fingerprint.image_hashes:
            self.look_alikes.add(place, fingerprint.image_hashes[0])
        else:
            self.texts.insert(place, new_minhash(fingerprint.minhash))


def differing_bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


class LookAlikes:
    """Finds hashes that differ in at most `distance` bits: cut into `distance` + 1 bands, at least one band has to be equal."""

    def __init__(self, distance: int):
        bounds = np.linspace(0, HASH_BITS, distance + 2).astype(int).tolist()
        self.bands = list(itertools.pairwise(bounds))
        self.places: dict[tuple[int, int], list[int]] = {}

    def keys(self, image: str) -> list[tuple[int, int]]:
        value = int(image, 16)
        return [(band, (value >> low) & ((1 << (high - low)) - 1)) for band, (low, high) in enumerate(self.bands)]

    def add(self, place: int, image: str) -> None:
        for key in self.keys(image):
            self.places.setdefault(key, []).append(place)

    def candidates(self, image: str) -> set[int]:
        return {place for key in self.keys(image) for place in self.places.get(key, ())}
