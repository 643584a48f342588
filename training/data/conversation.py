"""Questions and answers about one picture, one sound or plain text, as a row of the one sample format.

A row for training holds several exchanges, so that one picture pays for many answers; a row for measuring holds one
exchange, and its `task` is that exchange's.
"""

import io
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import Image

from training.data.samples import assistant_turn, medium, user_turn


Maker = Callable[[], tuple[str, str]]  # gives a question and its answer, perhaps others each time


class Exchange(NamedTuple):
    """One question with its one right answer."""

    task: str
    question: str
    answer: str


def ask(rng: random.Random, makers: dict[str, Maker], first: str, count: int) -> list[Exchange]:
    """Up to `count` exchanges of different tasks, beginning with task `first`.

    Every answer has a word that was not said before: else it could be read off the conversation, without looking.
    """
    others = [task for task in makers if task != first]
    exchanges, said = [], ""
    for task in [first, *rng.sample(others, len(others))]:
        exchange = Exchange(task, *makers[task]())
        if len(exchanges) < count and not all(word in said for word in exchange.answer.split()):
            exchanges.append(exchange)
            said += f"{exchange.question} {exchange.answer} ".lower()
    return exchanges


def next_task(
    rng: random.Random, index: int, tasks: dict[str, Sequence[str]], practice: Sequence[tuple[str, str]] | None
) -> tuple[str, str]:
    """The first task of row `index`, and a kind of scene or sound that it asks about: both go round `practice`; without it the task
    goes round `tasks`, which names the kinds of each."""
    if practice is not None:
        return practice[index % len(practice)]
    task = list(tasks)[index % len(tasks)]
    return task, rng.choice(tasks[task])


def conversation(
    row_id: str,
    exchanges: Sequence[Exchange],
    image: Image.Image | None = None,
    sound: tuple[np.ndarray, int] | None = None,
) -> dict:
    """The row of `exchanges` in order; the picture or the sound (samples, sampling rate) comes before the first question."""
    media = tuple(kind for kind, item in (("image", image), ("audio", sound)) if item is not None)
    messages = []
    for exchange in exchanges:
        messages += [user_turn(exchange.question, () if messages else media), assistant_turn(exchange.answer)]
    return {
        "id": row_id,
        "task": "+".join(sorted({exchange.task for exchange in exchanges})),
        "messages": messages,
        "images": [] if image is None else [medium(png_bytes(image))],
        "audios": [] if sound is None else [medium(wav_bytes(*sound))],
    }


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def wav_bytes(samples: np.ndarray, sampling_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sampling_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
