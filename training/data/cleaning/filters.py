r"""Filters that look at one sample by itself: too short, too long, repetitive, another language, personal data, blank media."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from modeling_mmgpt.media_loading_mmgpt import load_image
from modeling_mmgpt.media_sources_mmgpt import import_optional
from training.data.augmentation import read_audio
from training.data.cleaning.personal_data import mask
from training.data.samples import whole_text
from training.data.words import language_code, scaled, split_words, written_length
from training.recipe import PrepareArguments


NGRAM = 5  # words
FEWEST_WORDS = 20  # fewer are too few to judge repetition
FEWEST_BYTES = (
    40  # fewer are too few to tell the language, which is read from bytes: fourteen Chinese characters are enough
)
SILENCE = 1e-4  # of full scale: less than four steps of 16-bit audio


class Rejection(NamedTuple):
    """Why a sample is left out: the rule's name in the report, and what was found."""

    reason: str
    detail: str


def find_rejection(sample: dict, arguments: PrepareArguments) -> Rejection | None:
    """By the first filter that the sample does not pass, cheap ones first."""
    text = whole_text(sample)
    return (
        check_length(text, arguments.min_characters, arguments.max_characters)
        # Before the rules that quote the text in the report.
        or (check_personal_data(sample, arguments) if arguments.personal_data == "drop" else None)
        or check_repetition(text, arguments.max_repetition)
        or check_language(text, arguments.languages)
        or check_images(sample["images"])
        or check_audio(sample["audios"])
    )


def ngrams_of(words: list[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def check_length(text: str, shortest: int, longest: int | None) -> Rejection | None:
    """In characters, the wide ones of Chinese, Japanese and Korean counted twice, since each says more."""
    length = written_length(text.strip())
    if length < shortest:
        return Rejection("too short", f"{length} characters")
    if longest is not None and length > longest:
        return Rejection("too long", f"{length} characters")
    return None


def check_repetition(text: str, most: float) -> Rejection | None:
    """The share of 5-grams that occurred before, as in the rules for MassiveText (Rae et al. 2021, table A1). Where a script sets no
    blanks between words, an n-gram has as many characters as five words have on average."""
    words = split_words(text)
    if len(words) < scaled(words, FEWEST_WORDS):
        return None
    ngrams = Counter(ngrams_of(words, scaled(words, NGRAM)))
    share = 1 - len(ngrams) / ngrams.total()
    if share <= most:
        return None
    common = " ".join(ngrams.most_common(1)[0][0])
    return Rejection(
        "repetitive", f"{share:.0%} of its {len(next(iter(ngrams)))}-grams are repeated, the most common: {common!r}"
    )


def check_language(text: str, languages: list[str]) -> Rejection | None:
    if not languages or len(text.encode()) < FEWEST_BYTES:
        return None
    ranked = [language for language, _ in import_optional("py3langid", "py3langid", "prepare.languages").rank(text)]
    wanted = {language_code(name) for name in languages}
    if unknown := wanted.difference(ranked):
        raise ValueError(f"prepare.languages has {unknown.pop()!r}, which is no code of ISO 639 that py3langid knows.")
    return None if ranked[0] in wanted else Rejection("other language", f"{ranked[0]!r}, not one of {languages}")


def check_personal_data(sample: dict, arguments: PrepareArguments) -> Rejection | None:
    """Of which kinds and how many, never the data themselves: the report is read by others."""
    found = mask_sample(sample, arguments.personal_data_kinds)[1]
    counts = ", ".join(f"{many} {kind}" for kind, many in Counter(found).items())
    return Rejection("personal data", counts) if found else None


def mask_sample(sample: dict, kinds: list[str]) -> tuple[dict, list[str]]:
    """The sample with the personal data of its turns and references masked, and of which kinds each of them was."""
    found: list[str] = []

    def masked(text: str | None) -> str | None:
        if text is None:
            return None
        text, own = mask(text, kinds)
        found.extend(own)
        return text

    messages = [
        {**message, "content": [{**item, "text": masked(item["text"])} for item in message["content"]]}
        for message in sample["messages"]
    ]
    return {**sample, "messages": messages, "references": list(map(masked, sample["references"]))}, found


def check_images(images: list[dict]) -> Rejection | None:
    """Those that cannot be decoded do not come here: the loader has left them out."""
    for index, image in enumerate(images):
        lowest, highest = zip(*load_image(image).convert("RGB").getextrema(), strict=True)
        if lowest == highest:
            return Rejection("blank image", f"image {index} is all of one colour, RGB {lowest}")
    return None


def check_audio(audios: list[dict]) -> Rejection | None:
    for index, audio in enumerate(audios):
        peak = float(np.abs(read_audio(audio)[0]).max())
        if peak < SILENCE:
            return Rejection("silent audio", f"audio {index} reaches {peak:.1e} of full scale")
    return None
