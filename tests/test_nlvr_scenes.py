"""Scenes of three boxes: the sentences are about what is drawn."""

import io
import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from training.data.samples import answer_of, text_of
from training.data.synthetic import nlvr_scenes
from training.data.synthetic.nlvr_scenes import COLOURS, Scene, Sentence, Thing
from training.evaluation.metrics.final_answer import final_answer


def pixels_of(scene: Scene) -> np.ndarray:
    return np.asarray(nlvr_scenes.paint(scene))


@pytest.mark.parametrize("draw", [nlvr_scenes.draw_towers, nlvr_scenes.draw_things])
def test_each_thing_is_drawn_once_where_it_stands(draw):
    """Counted in the image: patches of one colour, and whether they reach the walls of their box."""
    for seed in range(20):
        scene = draw(random.Random(seed))
        pixels = pixels_of(scene)
        assert pixels.shape == (100, 400, 3)
        for index, things in enumerate(scene.boxes):
            start = index * (nlvr_scenes.BOX + nlvr_scenes.GAP)
            box = pixels[:, start : start + nlvr_scenes.BOX]
            for colour, value in COLOURS.items():
                patches, count = ndimage.label((box == value).all(-1))
                own = [thing for thing in things if thing.colour == colour]
                assert count == len(own)
                reaching = sum(area[0].stop == nlvr_scenes.BOX for area in ndimage.find_objects(patches))
                assert reaching == sum("bottom" in thing.walls for thing in own)


def test_towers_stand_and_things_do_not_overlap():
    for seed in range(20):
        for tower in nlvr_scenes.draw_towers(random.Random(seed)).boxes:
            assert 1 <= len(tower) <= nlvr_scenes.HIGHEST and tower[0].walls == {"bottom"}
        for things in nlvr_scenes.draw_things(random.Random(seed)).boxes:
            assert things and not any(
                nlvr_scenes.overlap(one, other) for one in things for other in things if one is not other
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
SENTENCES = {  # sentence: a scene, how many things, towers or boxes count in each of its boxes, and whether it is true
    "there is a blue circle touching the edge": (SCENE, [1, 0, 1], True),
    "there are at least 3 blue circles": (SCENE, [1, 0, 2], True),
    "there is no black triangle closely touching a corner of a box": (SCENE, [0, 1, 0], False),
    "there are two items not touching any edge": (SCENE, [1, 0, 1], True),
    "there is a box with only blue items": (SCENE, [0, 0, 1], True),
    "there are 2 boxes with a black item on top": (SCENE, [1, 1, 0], True),
    "each box has a blue circle": (SCENE, [1, 0, 1], False),
    "one box has a blue item": (SCENE, [1, 0, 1], True),
    "there is a tower with a blue block above a black block": (TOWERS, [1, 0, 0], True),
    "there is a tower with a black block above a blue block": (TOWERS, [0, 0, 0], False),
    "there is no black block on a black block": (TOWERS, [0, 0, 1], False),
    "there are exactly two towers with a black block at the base": (TOWERS, [1, 0, 1], True),
    "there is exactly one yellow block as the top of a tower": (TOWERS, [0, 1, 1], False),
    "all 3 towers have at least 1 block": (TOWERS, [1, 1, 1], True),
    "there is no tower with blocks of only one color": (TOWERS, [0, 1, 0], False),
    "there is a tower with a blue block at the top": (TOWERS, [1, 0, 0], True),
    "there is one tower with a yellow second block": (TOWERS, [0, 0, 0], False),
}


def test_sentences_mean_what_they_say():
    """Each of these is drawn sooner or later, counted and judged as a person does it."""
    makers = (nlvr_scenes.about_things, nlvr_scenes.about_boxes, nlvr_scenes.about_towers, nlvr_scenes.about_blocks)
    left, rng = dict(SENTENCES), random.Random(0)
    for _ in range(200_000):
        sentence = rng.choice(makers)(rng)
        text = sentence.text.removesuffix(".").lower()
        if text in left:
            scene, counts, truth = left.pop(text)
            assert (sentence.counts(scene), sentence.is_true_of(scene)) == (counts, truth), text
        if not left:
            return
    raise AssertionError(f"never drawn: {list(left)}")


def test_an_answer_describes_the_boxes_and_counts_before_it_judges():
    sentence = Sentence(
        "There are two blue things.",
        lambda things: nlvr_scenes.colours_of(things).count("blue"),
        lambda found: found == 2,
    )
    assert nlvr_scenes.ask_if_true(sentence, TOWERS) == (
        "nlvr_scenes",
        "There are two blue things. True or false?",
        "black blue: 1; yellow: 0; black black yellow: 0 = 1 #### false",
    )
    assert nlvr_scenes.ask_if_true(sentence, SCENE).answer == (
        "black square, blue circle left: 1; black triangle right bottom: 0; blue circle, blue circle bottom: 2 = 3 #### false"
    )


def test_samples_judge_sentences_about_an_image_and_are_the_same_again():
    samples = nlvr_scenes.load_nlvr_scenes(None, "train", 60, sentences=2)
    assert samples[:3] == nlvr_scenes.load_nlvr_scenes(None, "train", 3, sentences=2)[:]
    assert samples[0] != nlvr_scenes.load_nlvr_scenes(None, "train", 1, sentences=2, seed=1)[0]
    truths = Counter()
    for sample in samples:
        assert [message["role"] for message in sample["messages"]] == ["user", "assistant"] * 2
        assert Image.open(io.BytesIO(sample["images"][0]["bytes"])).size == (400, 100)
        assert text_of(sample["messages"][-2]).endswith("True or false?")
        truths.update(final_answer(text_of(sample["messages"][place])) for place in (1, 3))
    assert set(truths) == {" true", " false"} and min(truths.values()) > 40


def test_boxes_in_words_are_what_the_answer_finds_in_them():
    for sample in nlvr_scenes.load_nlvr_scenes(None, "train", 20, in_words=True):
        assert not sample["images"]
        words, _ = text_of(sample["messages"][0]).split("\n")
        found = answer_of(sample).partition(" = ")[0]
        assert re.sub(r": \d", "", found) == words


def test_four_scenes_of_five_are_towers():
    samples = nlvr_scenes.load_nlvr_scenes(None, "train", 200, most=1, in_words=True)
    assert not any("," in answer_of(sample) for sample in samples)  # one thing in a box
    towers = [not any(shape in answer_of(sample) for shape in nlvr_scenes.SHAPES) for sample in samples]
    assert 0.7 < sum(towers) / len(samples) < 0.9
