"""Handwritten digits: splits without a common image, right answers, upright images."""

import random

import numpy as np
from PIL import Image

from tests.test_course import draw_samples, turns_of
from training.data.synthetic import digits


def test_every_image_is_in_exactly_one_split():
    splits = [{pixels.tobytes() for pixels, _ in digits.digits(split)} for split in ("train", "validation", "test")]
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])
    assert sum(len(digits.digits(split)) for split in ("train", "validation", "test")) == 1797
    assert 0.15 < len(digits.digits("test")) / 1797 < 0.25


def test_answers_are_those_of_the_digit():
    held_out = digits.digits("test")
    for index, sample in enumerate(draw_samples("digits", "test", 300)):
        digit = held_out[index % len(held_out)][1]
        name = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"]
        expected = {
            "Describe the picture.": f"a handwritten {name[digit]}",
            "What does the picture show?": f"a handwritten {name[digit]}",
            "Which digit is this?": name[digit],
            "Which digit is written here?": name[digit],
            "Which digit comes next?": name[digit + 1],
            "What comes after this digit?": name[digit + 1],
            "Is this digit even or odd?": "odd" if digit in (1, 3, 5, 7, 9) else "even",
            "Is it even or odd?": "odd" if digit in (1, 3, 5, 7, 9) else "even",
        }
        for question, answer in turns_of(sample):
            assert answer == expected[question]


def test_training_names_digits_first():
    assert {sample["task"] for sample in draw_samples("digits", "train", 100, 1)} == {
        "digit_caption",
        "digit_name",
    }


def test_held_out_images_are_upright_and_whole():
    """Undistorted, the image shrunk to the original's raster is the original again."""
    pixels, _ = digits.digits("test")[0]
    image = digits.paint(pixels, random.Random(0), vary=False).convert("L")
    side = round(8 / 0.21)
    start = (digits.SIZE - side) // 2
    cut = image.crop((start, start, start + side, start + side)).resize((8, 8), Image.Resampling.BOX)
    assert np.corrcoef(255 - np.asarray(cut, dtype=float).ravel(), pixels.ravel())[0, 1] > 0.95
