"""Synthesised melodies: notes of four instruments, with captions and questions about which, how many, how high, up or down.

Two kinds: `notes` (one to five short notes, one after the other) and `glide` (one long note that rises or falls). What is held
out are combinations of instrument, what is played (count or direction) and pitch in semitones: a checksum of the three decides.
Tempo, tuning, loudness and noise are drawn anew for every melody.
"""

import random
import zlib
from dataclasses import dataclass

import numpy as np

from training.data.synthetic.conversation import Asker, ask, conversation, in_random_words, next_task


RATE = 16000  # samples a second
NUMBERS = ("one", "two", "three", "four", "five")
DIRECTIONS = ("rising", "falling")
INSTRUMENTS = {  # (multiple of the pitch, strength) of each partial, and how fast the note dies away, per second
    "flute": (((1, 1.0), (2, 0.12)), 0.0),
    "buzzer": (tuple((n, 1 / n) for n in range(1, 12)), 0.0),
    "clarinet": (tuple((n, 1 / n) for n in range(1, 12, 2)), 0.0),
    "bell": (((1, 0.8), (2.76, 0.6), (5.4, 0.4)), 9.0),
}
SEMITONES = {"low": range(6), "high": range(19, 25)}  # above the lowest pitch
LOWEST_PITCH = 160.0  # hertz
TASKS = {  # task: the kinds of melody that it asks about
    "audio_caption": ("notes", "glide"),
    "audio_count": ("notes",),
    "audio_direction": ("glide",),
    "audio_instrument": ("notes", "glide"),
    "audio_pitch": ("notes", "glide"),
}

# Training asks in other proportions than the test: most about counts, which take longest to learn.
PRACTICE = (
    *(("audio_count", "notes"), ("audio_caption", "notes")) * 4,
    ("audio_caption", "glide"),
    ("audio_direction", "glide"),
    *((task, kind) for task in ("audio_instrument", "audio_pitch") for kind in ("notes", "glide")),
)


@dataclass(frozen=True)
class Melody:
    """`what` is a count of notes ("three") or the direction of a glide ("rising")."""

    instrument: str
    what: str
    register: str
    semitone: int

    @property
    def kind(self) -> str:
        return "glide" if self.what in DIRECTIONS else "notes"


def is_held_out(melody: Melody) -> bool:
    return zlib.crc32(f"{melody.instrument} {melody.what} {melody.semitone}".encode()) % 6 == 0


def draw_melody(rng: random.Random, kind: str, held_out: bool) -> Melody:
    """A melody of `kind` that is held out, or one that is not."""
    while True:
        what = rng.choice(NUMBERS if kind == "notes" else DIRECTIONS)
        register = rng.choice(list(SEMITONES))
        melody = Melody(rng.choice(list(INSTRUMENTS)), what, register, rng.choice(SEMITONES[register]))
        if is_held_out(melody) == held_out:
            return melody


# ---- what can be asked about it


def caption(melody: Melody) -> str:
    """As in "three high bell notes", "a low flute note rising"."""
    if melody.kind == "glide":
        return f"a {melody.register} {melody.instrument} note {melody.what}"
    return f"{melody.what} {melody.register} {melody.instrument} {'note' if melody.what == 'one' else 'notes'}"


def askers(melody: Melody, rng: random.Random) -> dict[str, Asker]:
    """For each task that fits the melody, a function that returns a question and its answer."""
    tasks = {
        "audio_caption": (("Describe the sound.", "What do you hear?"), caption(melody)),
        "audio_count": (("How many notes are there?", "How many notes do you hear?"), melody.what),
        "audio_direction": (("Is the note rising or falling?", "Which way does the note go?"), melody.what),
        "audio_instrument": (("Which instrument plays?", "What instrument is this?"), melody.instrument),
        "audio_pitch": (("Is it high or low?", "Is the sound high or low?"), melody.register),
    }
    fitting = {task: tasks[task] for task, kinds in TASKS.items() if melody.kind in kinds}
    return in_random_words(rng, fitting)


# ---- how it is played


def play(instrument: str, pitch: np.ndarray) -> np.ndarray:
    """One note whose pitch (hertz, one value per sample) may change while it sounds."""
    partials, decay = INSTRUMENTS[instrument]
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = np.zeros(len(pitch))
    for multiple, strength in partials:
        audible = multiple * pitch < 0.48 * RATE  # above half the sampling rate a partial would fold back
        wave += strength * audible * np.sin(multiple * phase)
    seconds = np.arange(len(pitch)) / RATE
    edge = np.minimum(1, np.minimum(seconds, seconds[::-1]) / 0.008)  # 8 ms in and out, else the note clicks
    return wave * edge * np.exp(-decay * seconds)


def synthesise(melody: Melody, rng: random.Random) -> np.ndarray:
    """The samples, between -1 and 1; about 0.4 to 1.6 seconds."""
    pitch = LOWEST_PITCH * 2 ** ((melody.semitone + rng.uniform(-0.3, 0.3)) / 12)

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * RATE))

    pieces = [silence(rng.uniform(0.02, 0.12))]
    if melody.kind == "glide":
        count = round(rng.uniform(0.5, 0.9) * RATE)
        path = 2 ** (np.linspace(0, 1, count) * rng.uniform(0.5, 1.0))
        pieces.append(play(melody.instrument, pitch * (path if melody.what == "rising" else path[::-1])))
    else:
        length, gap = rng.uniform(0.1, 0.17), rng.uniform(0.08, 0.14)
        for _ in range(NUMBERS.index(melody.what) + 1):
            note = np.full(round(length * rng.uniform(0.9, 1.1) * RATE), pitch)
            pieces += [play(melody.instrument, note), silence(gap * rng.uniform(0.9, 1.1))]
    pieces.append(silence(rng.uniform(0.02, 0.12)))
    wave = np.concatenate(pieces)
    wave *= rng.uniform(0.25, 0.8) / np.abs(wave).max()
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, 10 ** rng.uniform(-3, -2), len(wave))
    return np.clip(wave + noise, -1, 1)


def make_sample(split: str, index: int, seed: int, turns: int) -> dict:
    """Sample `index` of a split: the tasks of the first question come in turn, and the melody is of a kind that the task asks about; in
    training both follow `PRACTICE`."""
    rng = random.Random(f"sounds/{seed}/{split}/{index}")  # "sounds": another word would draw other samples
    task, kind = next_task(rng, index, TASKS, PRACTICE if split == "train" else None)
    melody = draw_melody(rng, kind, held_out=split == "test")
    asked = ask(rng, askers(melody, rng), task, turns)
    return conversation(f"audio-{split}-{index}", asked, audio=(synthesise(melody, rng), RATE))
