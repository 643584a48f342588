r"""Samples of evaluation sets among the training data.

A text is contaminated when it shares a run of 13 words with an evaluation text (Brown et al. 2020, appendix C), or holds a whole shorter
one of at least 8 words. Runs that stand in more than ten evaluation samples are the words of a prompt, not of a sample. A sample with
media is contaminated when one of its images looks like, or one of its sounds equals, one of an evaluation sample: the questions may
be the same for all.
"""

from __future__ import annotations

from collections import Counter

from training.data.cleaning.duplicates import Fingerprint, LooksAlike, differing_bits, words_of


FEWEST_WORDS = 8
COMMON = 10


class EvaluationIndex:
    r"""
    words (`int`): length of the runs that are compared.
    distance (`int`): images whose hashes differ in at most so many of 64 bits look alike.
    """

    def __init__(self, words: int, distance: int):
        self.words, self.distance = words, distance
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.names: dict[tuple[str, ...], str] = {}
        self.lengths: set[int] = set()
        self.sounds: dict[str, str] = {}
        self.images: list[tuple[str, str]] = []
        self.looks = LooksAlike(distance)

    def add(self, name: str, text: str, print_: Fingerprint) -> None:
        for sound in print_.sounds:
            self.sounds.setdefault(sound, name)
        for image in print_.images:
            self.looks.add(len(self.images), image)
            self.images.append((name, image))
        if print_.sounds or print_.images:
            return
        words = words_of(text)
        length = min(self.words, len(words))
        if length < min(FEWEST_WORDS, self.words):
            return
        self.lengths.add(length)
        for run in set(runs_of(words, length)):
            self.counts[run] += 1
            self.names.setdefault(run, name)

    def find(self, text: str, print_: Fingerprint) -> str | None:
        """What a training sample has in common with an evaluation sample, in words, or None."""
        for sound in print_.sounds:
            if sound in self.sounds:
                return f"the sound of {self.sounds[sound]}"
        for image in print_.images:
            for place in sorted(self.looks.candidates(image)):
                name, other = self.images[place]
                if differing_bits(image, other) <= self.distance:
                    return f"an image like that of {name}"
        if print_.sounds or print_.images:
            return None
        words = words_of(text)
        for length in sorted(self.lengths, reverse=True):
            for run in runs_of(words, length):
                if 0 < self.counts[run] <= COMMON:
                    return f"{' '.join(run)!r} of {self.names[run]}"
        return None


def runs_of(words: list[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
