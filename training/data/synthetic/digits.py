"""Handwritten digits: the 1797 real images that scikit-learn carries, with captions and questions.

Which images are held out is decided by a checksum of their pixels, so that equal images are never in two splits.
"""

import functools
import random
import zlib

import numpy as np
from PIL import Image

from training.data.synthetic.conversation import Asker, ask, conversation, in_random_words
from training.data.synthetic.scenes import SIZE


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TASKS = ("digit_caption", "digit_name", "digit_next", "digit_parity")

# Training first names digits, which teaches most about them, and then asks more often for what comes next than for parity.
FIRST_LOOKS = 5000  # samples
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


def askers(digit: int, rng: random.Random) -> dict[str, Asker]:
    """For each task a function that returns a question and its answer; after nine comes zero."""
    tasks = {
        "digit_caption": (("Describe the picture.", "What does the picture show?"), f"a handwritten {NAMES[digit]}"),
        "digit_name": (("Which digit is this?", "Which digit is written here?"), NAMES[digit]),
        "digit_next": (("Which digit comes next?", "What comes after this digit?"), NAMES[(digit + 1) % 10]),
        "digit_parity": (("Is this digit even or odd?", "Is it even or odd?"), ("even", "odd")[digit % 2]),
    }
    return in_random_words(rng, tasks)


def paint(pixels: np.ndarray, rng: random.Random, vary: bool) -> Image.Image:
    """The digit enlarged, dark ink on light paper; with `vary` moved, rotated, slanted and scaled a little."""
    ink = Image.fromarray((np.pad(pixels, 1) * (255 / 16)).astype(np.uint8))  # the border keeps outer strokes soft
    scale, angle, slant, dx, dy = 0.21, 0.0, 0.0, 0.0, 0.0  # scale: pixels of the original per pixel of the image
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


def make_sample(split: str, index: int, seed: int, turns: int) -> dict:
    """Sample `index` of a split: the images come in turn, and so do the tasks of the first question (in training, `PRACTICE`)."""
    rng = random.Random(f"digits/{seed}/{split}/{index}")
    images = digits(split)
    epoch, place = divmod(index, len(images))
    pixels, digit = images[place]
    tasks = TASKS
    if split == "train":
        tasks = FIRST_PRACTICE if index < FIRST_LOOKS else PRACTICE
    task = tasks[(place + epoch) % len(tasks)]
    asked = ask(rng, askers(digit, rng), task, turns)
    return conversation(f"digits-{split}-{index}", asked, image=paint(pixels, rng, vary=split == "train"))
