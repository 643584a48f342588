r"""Exact and near duplicates.

Two samples are the same when text and media are. They are near duplicates when their texts share most of their 5-grams of words
(Jaccard similarity, estimated by MinHash; Broder 1997, Lee et al. 2022) and their images look alike, pair by pair (perceptual hash,
Hamming distance); audio clips have to have equal waveforms. So neither many questions about one image are duplicates, nor many
images with one question.
"""

import hashlib
import itertools
from typing import Any, NamedTuple

import numpy as np

from modeling_mmgpt.media_loading_mmgpt import load_image
from modeling_mmgpt.media_sources_mmgpt import import_optional
from training.data.augmentation import read_audio
from training.data.cleaning.filters import Rejection, ngrams_of
from training.data.samples import whole_text
from training.data.words import scaled, words_of


SHINGLE = 5  # words
PERMUTATIONS = 128
HASH_BITS = 64


def optional_package(name: str):
    return import_optional(name, "datasketch imagehash", "Finding duplicates")


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
    words, minhash = words_of(text) or [text], new_minhash()  # a text of signs alone is a word
    # A text of fewer words is one shingle.
    shingles = ngrams_of(words, min(scaled(words, SHINGLE), len(words)))
    minhash.update_batch([" ".join(shingle).encode() for shingle in shingles])
    images = [load_image(image) for image in sample["images"]]
    waves = [read_audio(audio) for audio in sample["audios"]]
    return Fingerprint(
        text_checksum=checksum(text.encode()),
        minhash=minhash.hashvalues.tolist(),
        image_hashes=[str(optional_package("imagehash").phash(image)) for image in images],
        image_checksums=[checksum(str(image.size).encode(), image.tobytes()) for image in images],
        audio_checksums=[checksum(str(rate).encode(), np.ascontiguousarray(wave).tobytes()) for wave, rate in waves],
    )


def checksum(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def new_minhash(values: list[int] | None = None):
    options = {"num_perm": PERMUTATIONS, "seed": 1, "scheme": "affine32"}
    return optional_package("datasketch").MinHash(**options, hashvalues=values)


class DuplicateFinder:
    r"""Keeps the fingerprints of earlier samples: a few kilobytes for a sample with text, and nothing of its media.

    similarity (`float`, *optional*): texts that share at least this much are near duplicates; None looks for exact ones alone.
    distance (`int`): images whose hashes differ in at most so many of 64 bits look alike.
    """

    def __init__(self, similarity: float | None, distance: int):
        self.similarity = similarity
        self.exact: dict[tuple, str] = {}
        self.earlier: list[tuple[str, Fingerprint]] = []  # those without images, which `texts` knows by their place
        self.look_alikes = LookAlikes(distance)
        if similarity is not None:
            self.texts = optional_package("datasketch").MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)

    def find(self, fingerprint: Fingerprint) -> Rejection | None:
        """The earlier sample that is the same or nearly the same, if there is one, with the similarity of their texts."""
        if fingerprint.exact in self.exact:
            return Rejection("duplicate", f"the same as {self.exact[fingerprint.exact]}")
        if self.similarity is None:
            return None
        minhash, images = new_minhash(fingerprint.minhash), fingerprint.image_hashes
        if images:
            candidates = self.look_alikes.find(images[0])
        else:
            candidates = [self.earlier[place] for place in sorted(self.texts.query(minhash))]
        for name, other in candidates:
            if other.audio_checksums != fingerprint.audio_checksums or len(other.image_hashes) != len(images):
                continue
            similarity = minhash.jaccard(new_minhash(other.minhash))
            if similarity >= self.similarity and all(map(self.look_alikes.agree, other.image_hashes, images)):
                return Rejection("near duplicate", f"similarity {similarity:.2f} with {name}")
        return None

    def add(self, name: str, fingerprint: Fingerprint) -> None:
        self.exact[fingerprint.exact] = name
        if self.similarity is None:
            return
        if fingerprint.image_hashes:
            self.look_alikes.add(fingerprint.image_hashes[0], (name, fingerprint))
        else:
            self.texts.insert(len(self.earlier), new_minhash(fingerprint.minhash))
            self.earlier.append((name, fingerprint))


class LookAlikes:
    """Finds entries by hashes that differ in at most `distance` bits: cut into `distance` + 1 bands, at least one band has to be equal."""

    def __init__(self, distance: int):
        self.distance = distance
        self.bands = list(itertools.pairwise(np.linspace(0, HASH_BITS, distance + 2).astype(int).tolist()))
        self.entries: list[tuple[str, Any]] = []  # with their hashes
        self.places: dict[tuple[int, int], list[int]] = {}

    def agree(self, one: str, other: str) -> bool:
        return (int(one, 16) ^ int(other, 16)).bit_count() <= self.distance

    def keys(self, image: str) -> list[tuple[int, int]]:
        value = int(image, 16)
        return [(band, (value >> low) & ((1 << (high - low)) - 1)) for band, (low, high) in enumerate(self.bands)]

    def add(self, image: str, entry: Any) -> None:
        for key in self.keys(image):
            self.places.setdefault(key, []).append(len(self.entries))
        self.entries.append((image, entry))

    def find(self, image: str) -> list:
        """The entries of those that look alike, in the order in which they were added."""
        places = sorted({place for key in self.keys(image) for place in self.places.get(key, ())})
        found = [self.entries[place] for place in places]
        return [entry for other, entry in found if self.agree(other, image)]
