"""Questions and answers about one image, one audio clip or plain text, as a sample.

A sample for training holds several turns, so that encoding its image once pays for many answers; a sample for evaluation holds one
turn, whose task is the sample's.
"""

import io
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import Image

from training.data.samples import assistant_turn, medium, user_turn


Asker = Callable[[], tuple[str, str]]  # returns a question and its answer, perhaps others each time


class Turn(NamedTuple):
    """One question with its one right answer."""

    task: str
    question: str
    answer: str


def in_random_words(rng: random.Random, tasks: dict[str, tuple[Sequence[str], str]]) -> dict[str, Asker]:
    """For each task, with its questions of one meaning and its answer, a function that picks a question."""
    return {
        task: lambda questions=questions, answer=answer: (rng.choice(questions), answer)
        for task, (questions, answer) in tasks.items()
    }


def ask(rng: random.Random, askers: dict[str, Asker], first: str, count: int) -> list[Turn]:
    """Up to `count` turns of different tasks, beginning with task `first`.

    Every answer has a word that was not said before: else it could be read off the conversation, without the image or audio.
    """
    others = [task for task in askers if task != first]
    turns, said = [], ""
    for task in [first, *rng.sample(others, len(others))]:
        turn = Turn(task, *askers[task]())
        if len(turns) < count and not all(word in said for word in turn.answer.split()):
            turns.append(turn)
            said += f"{turn.question} {turn.answer} ".lower()
    return turns


def next_task(
    rng: random.Random, index: int, tasks: dict[str, Sequence[str]], practice: Sequence[tuple[str, str]] | None
) -> tuple[str, str]:
    """The first task of sample `index`, and a kind of scene or audio clip that it asks about: both cycle through `practice`; without it
    the task cycles through `tasks`, which names the kinds of each."""
    if practice is not None:
        return practice[index % len(practice)]
    task = list(tasks)[index % len(tasks)]
    return task, rng.choice(tasks[task])


def conversation(
    sample_id: str,
    turns: Sequence[Turn],
    image: Image.Image | None = None,
    audio: tuple[np.ndarray, int] | None = None,
) -> dict:
    """The sample of `turns` in order; the image or the audio (waveform, sampling rate) comes before the first question."""
    media = tuple(kind for kind, item in (("image", image), ("audio", audio)) if item is not None)
    messages = []
    for turn in turns:
        messages += [user_turn(turn.question, () if messages else media), assistant_turn(turn.answer)]
    return {
        "id": sample_id,
        "task": "+".join(sorted({turn.task for turn in turns})),
        "messages": messages,
        "images": [] if image is None else [medium(png_bytes(image))],
        "audios": [] if audio is None else [medium(wav_bytes(*audio))],
    }


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def wav_bytes(wave: np.ndarray, sampling_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, sampling_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
