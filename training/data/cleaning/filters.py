r"""What speaks against one sample, looked at by itself: too short, too long, repeating itself, blank media, another language."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from modeling_mmgpt.media_loading_mmgpt import load_image
from training.data.augmentation import read_audio
from training.data.samples import text_of


if TYPE_CHECKING:
    from training.recipe import PrepareArguments


RUN = 5  # words in a row that are compared with those before
FEWEST_WORDS = 20  # fewer say nothing about repetition
SILENCE = 1e-4  # of full scale: less than four steps of 16-bit sound
FEWEST_CHARACTERS = 40  # fewer say little about their language


class Objection(NamedTuple):
    """Why a sample is left out: the rule's name in the report, and what was found."""

    reason: str
    detail: str


def whole_text(row: dict) -> str:
    """What all turns say, a line each."""
    return "\n".join(text_of(message) for message in row["messages"])


def find_objection(row: dict, arguments: PrepareArguments) -> Objection | None:
    """The first rule that the row breaks, cheap ones first."""
    text = whole_text(row)
    return (
        judge_length(text, arguments.min_characters, arguments.max_characters)
        or judge_repetition(text, arguments.max_repetition)
        or judge_language(text, arguments.languages)
        or judge_images(row["images"])
        or judge_sounds(row["audios"])
    )


def judge_length(text: str, shortest: int, longest: int | None) -> Objection | None:
    length = len(text.strip())
    if length < shortest:
        return Objection("too short", f"{length} characters")
    if longest is not None and length > longest:
        return Objection("too long", f"{length} characters")
    return None


def judge_repetition(text: str, most: float) -> Objection | None:
    """The share of runs of five words that were there before, as in the rules for MassiveText (Rae et al. 2021, table A1)."""
    words = text.split()
    if len(words) < FEWEST_WORDS:
        return None
    runs = Counter(tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1))
    share = 1 - len(runs) / runs.total()
    if share <= most:
        return None
    common = " ".join(runs.most_common(1)[0][0])
    return Objection("repeats itself", f"{share:.0%} of its runs of {RUN} words, the commonest: {common!r}")


def judge_images(images: list[dict]) -> Objection | None:
    """Decoding itself is the loader's: what cannot be decoded has not come here."""
    for index, image in enumerate(images):
        colour = only_colour(load_image(image))
        if colour is not None:
            return Objection("blank image", f"image {index} is all of one colour, RGB {colour}")
    return None


def only_colour(image: Image.Image) -> tuple[int, ...] | None:
    ranges = image.convert("RGB").getextrema()
    return tuple(low for low, _ in ranges) if all(low == high for low, high in ranges) else None


def judge_sounds(audios: list[dict]) -> Objection | None:
    for index, audio in enumerate(audios):
        loudest = float(np.abs(read_audio(audio)[0]).max())
        if loudest < SILENCE:
            return Objection("silent sound", f"sound {index} reaches {loudest:.1e} of full scale")
    return None


def judge_language(text: str, languages: list[str]) -> Objection | None:
    if not languages or len(text) < FEWEST_CHARACTERS:
        return None
    language, _ = classifier()(text)
    return None if language in languages else Objection("other language", f"{language!r}, not one of {languages}")


def classifier():
    try:
        from py3langid import classify
    except ImportError as error:
        raise ImportError("prepare.languages needs py3langid: pip install 'mmgpt[prepare]'.") from error
    return classify
