"""Synthesised sounds: notes of four instruments, with captions and questions about which, how many, how high, up or down.

Two kinds of sound: `notes` (one to five short notes, one after the other) and `glide` (one long note that rises or falls).
What is held out are combinations of instrument, melody (count or direction) and pitch in semitones: a checksum of the three
decides. Tempo, tuning, loudness and noise are drawn anew for every sound.
"""

import random
import zlib
from dataclasses import dataclass

import numpy as np

from training.data.conversation import Maker, ask, conversation, next_task


RATE = 16000  # samples a second
NUMBERS = ("one", "two", "three", "four", "five")
DIRECTIONS = ("rising", "falling")
INSTRUMENTS = {  # (multiple of the pitch, strength) of each partial, and how fast the note dies away, per second
    "flute": (((1, 1.0), (2, 0.12)), 0.0),
    "buzzer": (tuple((n, 1 / n) for n in range(1, 12)), 0.0),
    "clarinet": (tuple((n, 1 / n) for n in range(1, 12, 2)), 0.0),
    "bell": (((1, 0.8), (2.76, 0.6), (5.4, 0.4)), 9.0),
}
SEMITONES = {"low": range(6), "high": range(19, 25)}  # above the deepest pitch
DEEPEST = 160.0  # hertz
TASKS = {  # task: the kinds of sound that it asks about
    "sound_caption": ("notes", "glide"),
    "sound_count": ("notes",),
    "sound_direction": ("glide",),
    "sound_instrument": ("notes", "glide"),
    "sound_pitch": ("notes", "glide"),
}

# Training asks in another measure than the test: most about counts, which take longest to learn.
PRACTICE = (
    *(("sound_count", "notes"), ("sound_caption", "notes")) * 4,
    ("sound_caption", "glide"),
    ("sound_direction", "glide"),
    *((task, kind) for task in ("sound_instrument", "sound_pitch") for kind in ("notes", "glide")),
)


@dataclass(frozen=True)
class Sound:
    """What is to be heard: `what` is a count of notes ("three") or the direction of a glide ("rising")."""

    instrument: str
    what: str
    register: str
    semitone: int

    @property
    def kind(self) -> str:
        return "glide" if self.what in DIRECTIONS else "notes"


def is_held_out(sound: Sound) -> bool:
    return zlib.crc32(f"{sound.instrument} {sound.what} {sound.semitone}".encode()) % 6 == 0


def draw_sound(rng: random.Random, kind: str, held_out: bool) -> Sound:
    """A sound of `kind` that is held out, or one that is not."""
    while True:
        what = rng.choice(NUMBERS if kind == "notes" else DIRECTIONS)
        register = rng.choice(list(SEMITONES))
        sound = Sound(rng.choice(list(INSTRUMENTS)), what, register, rng.choice(SEMITONES[register]))
        if is_held_out(sound) == held_out:
            return sound


# ---- what can be asked about it


def caption(sound: Sound) -> str:
    """As in "three high bell notes", "a low flute note rising"."""
    if sound.kind == "glide":
        return f"a {sound.register} {sound.instrument} note {sound.what}"
    return f"{sound.what} {sound.register} {sound.instrument} {'note' if sound.what == 'one' else 'notes'}"


def makers(sound: Sound, rng: random.Random) -> dict[str, Maker]:
    """For each task that fits the sound, a function that gives a question and its answer."""

    def ask_caption():
        return rng.choice(("Describe the sound.", "What do you hear?")), caption(sound)

    def ask_count():
        return rng.choice(("How many notes are there?", "How many notes do you hear?")), sound.what

    def ask_direction():
        return rng.choice(("Is the note rising or falling?", "Which way does the note go?")), sound.what

    def ask_instrument():
        return rng.choice(("Which instrument plays?", "What instrument is this?")), sound.instrument

    def ask_pitch():
        return rng.choice(("Is it high or low?", "Is the sound high or low?")), sound.register

    askers = (ask_caption, ask_count, ask_direction, ask_instrument, ask_pitch)
    by_task = dict(zip(TASKS, askers, strict=True))
    return {task: by_task[task] for task, kinds in TASKS.items() if sound.kind in kinds}


# ---- how it sounds


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


def synthesise(sound: Sound, rng: random.Random) -> np.ndarray:
    """The samples, between -1 and 1; about 0.4 to 1.6 seconds."""
    pitch = DEEPEST * 2 ** ((sound.semitone + rng.uniform(-0.3, 0.3)) / 12)

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * RATE))

    pieces = [silence(rng.uniform(0.02, 0.12))]
    if sound.kind == "glide":
        count = round(rng.uniform(0.5, 0.9) * RATE)
        path = 2 ** (np.linspace(0, 1, count) * rng.uniform(0.5, 1.0))
        pieces.append(play(sound.instrument, pitch * (path if sound.what == "rising" else path[::-1])))
    else:
        length, gap = rng.uniform(0.1, 0.17), rng.uniform(0.08, 0.14)
        for _ in range(NUMBERS.index(sound.what) + 1):
            note = np.full(round(length * rng.uniform(0.9, 1.1) * RATE), pitch)
            pieces += [play(sound.instrument, note), silence(gap * rng.uniform(0.9, 1.1))]
    pieces.append(silence(rng.uniform(0.02, 0.12)))
    wave = np.concatenate(pieces)
    wave *= rng.uniform(0.25, 0.8) / np.abs(wave).max()
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, 10 ** rng.uniform(-3, -2), len(wave))
    return np.clip(wave + noise, -1, 1)


def sound_row(split: str, index: int, seed: int, exchanges: int) -> dict:
    """Row `index` of a split: its first task goes round all tasks, its sound is of a kind which that task asks about; in training
    both go round `PRACTICE`."""
    rng = random.Random(f"sounds/{seed}/{split}/{index}")
    task, kind = next_task(rng, index, TASKS, PRACTICE if split == "train" else None)
    sound = draw_sound(rng, kind, held_out=split == "test")
    questions = ask(rng, makers(sound, rng), task, exchanges)
    return conversation(f"sounds-{split}-{index}", questions, sound=(synthesise(sound, rng), RATE))
