"""Handwritten digits: the 1797 real images that scikit-learn carries, with captions and questions.

Which images are held out is decided by a checksum of their pixels, so the same image can never stand on both sides.
"""

import functools
import random
import zlib

import numpy as np
from PIL import Image

from training.data.conversation import Maker, ask, conversation
from training.data.synthetic.scenes import SIZE


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TASKS = ("digit_caption", "digit_name", "digit_next", "digit_parity")

# Training first names digits, which teaches most about them, and then asks more often for what comes next than for parity.
FIRST_LOOKS = 5000  # rows
FIRST_PRACTICE = ("digit_caption", "digit_name")
PRACTICE = ("digit_caption", "digit_name", "digit_next", "digit_caption", "digit_name", "digit_next", "digit_parity")


@functools.cache
def digits(split: str) -> list[tuple[np.ndarray, int]]:
    """(8 x 8 pixels from 0 to 16, digit) of one split: a fifth of all images is "test", a twentieth "validation"."""
    from sklearn.datasets import load_digits  # a second of every start that only the demo needs

    bunch = load_digits()
    splits = ("test",) * 4 + ("validation",) + ("train",) * 15
    return [
        (pixels, int(digit))
        for pixels, digit in zip(bunch.images, bunch.target, strict=True)
        if splits[zlib.crc32(pixels.astype(np.uint8).tobytes()) % len(splits)] == split
    ]


def makers(digit: int, rng: random.Random) -> dict[str, Maker]:
    """For each task a function that gives a question and its answer; after nine comes zero."""

    def ask_caption():
        return rng.choice(("Describe the picture.", "What does the picture show?")), f"a handwritten {NAMES[digit]}"

    def ask_name():
        return rng.choice(("Which digit is this?", "Which digit is written here?")), NAMES[digit]

    def ask_next():
        return rng.choice(("Which digit comes next?", "What comes after this digit?")), NAMES[(digit + 1) % 10]

    def ask_parity():
        return rng.choice(("Is this digit even or odd?", "Is it even or odd?")), ("even", "odd")[digit % 2]

    return dict(zip(TASKS, (ask_caption, ask_name, ask_next, ask_parity), strict=True))


def paint(pixels: np.ndarray, rng: random.Random, vary: bool) -> Image.Image:
    """The digit enlarged, dark ink on light paper; with `vary` moved, turned, slanted and scaled a little."""
    ink = Image.fromarray((np.pad(pixels, 1) * (255 / 16)).astype(np.uint8))  # the border keeps outer strokes soft
    scale, angle, slant, dx, dy = 0.21, 0.0, 0.0, 0.0, 0.0  # scale: pixels of the original per pixel of the picture
    if vary:
        scale *= rng.uniform(0.88, 1.14)
        angle, slant = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
        dx, dy = rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5)
    cos, sin, middle = scale * np.cos(angle), scale * np.sin(angle), (SIZE - 1) / 2
    across, down = (cos + slant * sin, -sin + slant * cos), (sin, cos)  # what one step right, one step down adds
    matrix = (
        *(across[0], across[1], 5 + dx - middle * (across[0] + across[1])),
        *(down[0], down[1], 5 + dy - middle * (down[0] + down[1])),
    )
    ink = ink.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC)
    strength = np.asarray(ink, dtype=np.float32)[..., None] / 255
    paper, pen = np.array((246, 242, 233)), np.array((38, 42, 58))
    return Image.fromarray(np.clip(paper + (pen - paper) * strength, 0, 255).astype(np.uint8))


def digit_row(split: str, index: int, seed: int, exchanges: int) -> dict:
    """Row `index` of a split goes round its images; its first task goes round all tasks (in training, round `PRACTICE`)."""
    rng = random.Random(f"digits/{seed}/{split}/{index}")
    images = digits(split)
    turn, place = divmod(index, len(images))
    pixels, digit = images[place]
    tasks = TASKS
    if split == "train":
        tasks = FIRST_PRACTICE if index < FIRST_LOOKS else PRACTICE
    task = tasks[(place + turn) % len(tasks)]
    questions = ask(rng, makers(digit, rng), task, exchanges)
    return conversation(f"digits-{split}-{index}", questions, image=paint(pixels, rng, vary=split == "train"))
