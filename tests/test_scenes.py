"""Drawn scenes: held out as they should be, and every answer is true of the image."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from tests.test_course import draw_samples, turns_of
from training.data.samples import answer_of
from training.data.synthetic import scenes


CAPTION_QUESTIONS = ("Describe the picture.", "What does the picture show?")


def test_what_is_held_out_is_never_described_in_training():
    captions = {split: set() for split in ("train", "test")}
    for split, found in captions.items():
        for sample in draw_samples("scenes", split, 1500):
            found |= {answer for question, answer in turns_of(sample) if question in CAPTION_QUESTIONS}
    assert len(captions["test"]) > 150
    assert not captions["train"] & captions["test"]


@pytest.mark.parametrize("kind", ["single", "pair", "group"])
def test_drawn_scenes_hold_what_they_should(kind):
    rng = random.Random(1)
    for held_out in (False, True) * 100:
        scene = scenes.draw_scene(rng, kind, held_out)
        assert (scene.kind, scenes.is_held_out(scene)) == (kind, held_out)
        colours, shapes = ([getattr(thing, name) for thing in scene.things] for name in ("colour", "shape"))
        assert len(set(colours)) == len(set(shapes)) == len(scene.things) == (2 if kind == "pair" else 1)
        cells = [cell for thing in scene.things for cell in thing.cells]
        assert len(cells) == len(set(cells))
        low, high = {"single": (1, 1), "pair": (2, 2), "group": (2, 5)}[kind]
        assert low <= len(cells) <= high


def test_training_meets_single_things_first_and_every_question_that_the_test_asks():
    first = {sample["task"] for sample in draw_samples("scenes", "train", 100, turns=1)}
    assert first == {"scene_caption", "scene_colour", "scene_position", "scene_shape"}
    assert {kind for _, kind in scenes.FIRST_PRACTICE} == {"single"}
    assert set(scenes.PRACTICE) == {(task, kind) for task, kinds in scenes.TASKS.items() for kind in kinds}


def test_answers_agree_with_the_caption():
    """The caption alone, read by other code, answers every other question."""
    shapes, checked = "|".join(scenes.FORMATS), Counter()
    for sample in draw_samples("scenes", "test", 900):
        turns = turns_of(sample)
        caption = next((a for q, a in turns if q in CAPTION_QUESTIONS), None)
        if caption is None:
            continue
        things = {shape: (count, colour) for count, colour, shape in re.findall(rf"(\w+) (\w+) ({shapes})", caption)}
        ((first, (count, colour)), *_), (_, other) = things.items(), list(things.values())[-1]
        side = "left" if " left of " in caption else "above"
        near, far = ("on the left", "on the right") if side == "left" else ("at the top", "at the bottom")
        expected = {
            "How many shapes are there?": count,
            "Which shape is this?": first,
            "Which shapes are these?": f"{first}es" if first == "cross" else f"{first}s",
            "What colour is the shape?": colour,
            "What colour are the shapes?": colour,
            "Where is the shape?": caption.partition(" at the ")[2],
            "Where in the picture is the shape?": caption.partition(" at the ")[2],
            f"What colour is the shape {near}?": colour,
            f"What colour is the shape {far}?": other,
            **{f"Which shape is {colour}?": shape for shape, (_, colour) in things.items()},
            **dict.fromkeys(CAPTION_QUESTIONS, caption),
        }
        for question, answer in turns:
            assert answer == expected[question]
            checked[re.sub(rf"\b({shapes}|{'|'.join(scenes.COLOURS)})\b", "X", question)] += 1
    assert len(checked) == 14 and min(checked.values()) > 5


@pytest.mark.parametrize("shape", scenes.FORMATS)
@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 1)])
def test_images_show_the_thing_where_it_is(shape, cell):
    for seed in range(4):
        scene = scenes.Scene("single", (scenes.Thing("blue", shape, (cell,)),))
        pixels = np.asarray(scenes.paint(scene, random.Random(seed)), dtype=float)
        is_blue = pixels[..., 2] - pixels[..., 0] > 90
        rows, columns = np.nonzero(is_blue)
        assert 40 < len(rows) < 200  # of 16 x 16 pixels in a cell
        assert (rows.mean() // 16, columns.mean() // 16) == cell


def test_no_answer_is_much_likelier_than_the_others():
    """What guessing could reach."""
    answers = {task: Counter() for task in scenes.TASKS}
    for sample in draw_samples("scenes", "test", 1200, turns=1):
        answers[sample["task"]][answer_of(sample)] += 1
    shares = {task: max(counts.values()) / counts.total() for task, counts in answers.items()}
    assert shares["scene_caption"] < 0.1 and max(shares.values()) < 0.4


def test_place_names():
    names = {scenes.place_name((row, column)) for row in range(3) for column in range(3)}
    assert names == {
        *("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
    }
