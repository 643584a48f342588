r"""Samples of evaluation sets among the training data.

A text is contaminated when it shares a 13-gram of words with an evaluation text (Brown et al. 2020, appendix C), or contains a whole
shorter one of at least 8 words. N-grams that occur in more than ten evaluation samples belong to a prompt, not to a sample. A
sample with media is contaminated when one of its images looks like, or one of its audio clips equals, one of an evaluation sample:
the questions may be the same for all.
"""

from collections import Counter

from training.data.cleaning.duplicates import Fingerprint, LookAlikes
from training.data.cleaning.filters import ngrams_of
from training.data.words import scaled, words_of


FEWEST_WORDS = 8
COMMON = 10


class EvaluationIndex:
    r"""
    words (`int`): length of the n-grams that are compared; of text without blanks between words, as many characters as so many
        words have on average.
    distance (`int`): images whose hashes differ in at most so many of 64 bits look alike.
    """

    def __init__(self, words: int, distance: int):
        self.words = words
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.names: dict[tuple[str, ...], str] = {}
        self.lengths: set[int] = set()
        self.audios: dict[str, str] = {}
        self.images = LookAlikes(distance)

    def add(self, name: str, text: str, fingerprint: Fingerprint) -> None:
        for audio in fingerprint.audio_checksums:
            self.audios.setdefault(audio, name)
        for image in fingerprint.image_hashes:
            self.images.add(image, name)
        if fingerprint.has_media:
            return
        words = words_of(text)
        longest = scaled(words, self.words)
        length = min(longest, len(words))
        if length < min(scaled(words, FEWEST_WORDS), longest):
            return
        self.lengths.add(length)
        for ngram in set(ngrams_of(words, length)):
            self.counts[ngram] += 1
            self.names.setdefault(ngram, name)

    def find(self, text: str, fingerprint: Fingerprint) -> str | None:
        """What a training sample has in common with an evaluation sample, in words, or None."""
        for audio in fingerprint.audio_checksums:
            if audio in self.audios:
                return f"the audio of {self.audios[audio]}"
        for image in fingerprint.image_hashes:
            for name in self.images.find(image):
                return f"an image like that of {name}"
        if fingerprint.has_media:
            return None
        words = words_of(text)
        for length in sorted(self.lengths, reverse=True):
            for ngram in ngrams_of(words, length):
                if 0 < self.counts[ngram] <= COMMON:
                    return f"{' '.join(ngram)!r} of {self.names[ngram]}"
        return None
