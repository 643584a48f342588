"""Scenes of three boxes: what is said of them is what is drawn."""

import io
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from training.data import boxes
from training.data.boxes import COLOURS, Scene, Thing
from training.data.rows import answer_of, text_of


def pixels_of(scene: Scene) -> np.ndarray:
    return np.asarray(boxes.picture(scene))


@pytest.mark.parametrize("draw", [boxes.draw_towers, boxes.draw_things])
def test_each_thing_is_drawn_once_where_it_stands(draw):
    """Counted in the picture: patches of one colour, and whether they reach the walls of their box."""
    for seed in range(20):
        scene = draw(random.Random(seed))
        pixels = pixels_of(scene)
        assert pixels.shape == (100, 400, 3)
        for index, things in enumerate(scene.boxes):
            start = index * (boxes.BOX + boxes.GAP)
            box = pixels[:, start : start + boxes.BOX]
            for colour, value in COLOURS.items():
                patches, count = ndimage.label((box == value).all(-1))
                own = [thing for thing in things if thing.colour == colour]
                assert count == len(own)
                reaching = sum(area[0].stop == boxes.BOX for area in ndimage.find_objects(patches))
                assert reaching == sum("bottom" in thing.walls for thing in own)


def test_towers_stand_and_things_do_not_overlap():
    for seed in range(20):
        for tower in boxes.draw_towers(random.Random(seed)).boxes:
            assert 1 <= len(tower) <= boxes.HIGHEST and tower[0].walls == {"bottom"}
        for things in boxes.draw_things(random.Random(seed)).boxes:
            assert things and not any(
                boxes.overlap(one, other) for one in things for other in things if one is not other
            )


SCENE = Scene(
    False,
    (
        (Thing("circle", "blue", "small", 0, 50), Thing("square", "black", "large", 40, 20)),
        (Thing("triangle", "black", "medium", 80, 80),),
        (Thing("circle", "blue", "medium", 30, 30), Thing("circle", "blue", "small", 70, 90)),
    ),
)
TOWERS = Scene(
    True,
    tuple(
        tuple(Thing("square", colour, "medium", 40, 80 - 21 * level) for level, colour in enumerate(tower))
        for tower in (("black", "blue"), ("yellow",), ("black", "black", "yellow"))
    ),
)
SAYINGS = {
    "There are exactly two blue circles touching the edge": (SCENE, True),
    "There is exactly one blue circle touching the edge": (SCENE, False),
    "There are at least 3 blue circles": (SCENE, True),
    "There is no black triangle closely touching a corner of a box": (SCENE, False),
    "There is a box with only blue items": (SCENE, True),
    "There are 2 boxes with a black item on top": (SCENE, True),
    "There is a tower with a blue block above a black block": (TOWERS, True),
    "There is a tower with a black block above a blue block": (TOWERS, False),
    "There are exactly two towers with a black block at the base": (TOWERS, True),
    "There is exactly one yellow block as the top of a tower": (TOWERS, False),
    "Each tower has at least 1 block": (TOWERS, True),
    "There is no tower with blocks of only one color": (TOWERS, False),
}
SYNONYMS = {
    "grey ": "",
    "having": "with",
    "which has": "with",
    " only 2 ": " exactly two ",
    "the wall": "the edge",
    "an edge": "the edge",
    "on top of a ": "above a ",
    " over ": " above ",
}


def test_sentences_mean_what_they_say():
    """Each of these is said sooner or later, and judged as a person judges it."""
    makers = (boxes.about_things, boxes.about_boxes, boxes.about_towers, boxes.about_blocks)
    left, rng = dict(SAYINGS), random.Random(0)
    for _ in range(200_000):
        sentence = rng.choice(makers)(rng)
        said = sentence.text.removesuffix(".")
        for other, usual in SYNONYMS.items():
            said = said.replace(other, usual)
        if said in left:
            scene, judgement = left.pop(said)
            assert sentence.is_true_of(scene) == judgement, said
        if not left:
            return
    raise AssertionError(f"never said: {list(left)}")


def test_rows_describe_ask_and_are_the_same_again():
    rows = boxes.load_boxes(None, "train", 60, sentences=2)
    assert rows[:3] == boxes.load_boxes(None, "train", 3, sentences=2)[:]
    assert rows[0] != boxes.load_boxes(None, "train", 1, sentences=2, seed=1)[0]
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 3
        assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (400, 100)
        assert text_of(row["messages"][-2]).endswith("True or false?") and answer_of(row) in ("true", "false")
    truths = Counter(text_of(row["messages"][place]) for row in rows for place in (3, 5))
    assert set(truths) == {"true", "false"} and min(truths.values()) > 40


def test_descriptions_name_all_there_is():
    said = "black square, blue circle; black triangle; blue circle, blue circle"
    assert boxes.describe(SCENE).answer == said
    assert boxes.describe(TOWERS).answer == "black blue, yellow, black black yellow"
    for row in boxes.load_boxes(None, "train", 20, sentences=0, most=1):
        towers = "towers" in text_of(row["messages"][0])
        assert towers or len(answer_of(row).replace(";", ",").split(",")) == 3
