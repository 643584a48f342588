"""Drawn scenes of three grey boxes with sentences about them, in the manner of NLVR (Suhr et al. 2017), made from a seed.

NLVR has few sentences of its own; what they are about (colours, shapes, numbers, towers, walls) can be drawn and worded without
end. Four scenes of five are towers of blocks, the others scattered things, which take far longer to learn.

Whether a sentence is true says little about the image, and can often be guessed from the words. Therefore an answer describes each
box, counts what the sentence is about, and only then says whether it is true: "There are two towers with a black base" is
answered by

    black blue: 1; yellow: 0; black black yellow: 1 = 2 #### true

How to count is learnt sooner from words than from images: there the question itself describes the boxes.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from PIL import Image, ImageDraw

from training.data.samples import FINAL_MARK, make_dataset
from training.data.synthetic.conversation import Turn, conversation


BOX, GAP = 100, 50  # pixels
BACKGROUND, BETWEEN = (211, 211, 211), (128, 128, 128)
COLOURS = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 10, "medium": 20, "large": 30}
BLOCK, HIGHEST = 20, 4  # pixels of a tower's block; blocks of the highest tower
MOST = 7  # things in a box
TOWERS = 0.8  # share of the scenes
BOXES = 3
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
WALLS = ("left", "right", "top", "bottom")
TRIES = 40  # sentences that are drawn before one with the other truth value will do


@dataclass(frozen=True)
class Thing:
    """A thing in a box, `left` and `top` in pixels of the box."""

    shape: str
    colour: str
    size: str
    left: int
    top: int

    @property
    def walls(self) -> set[str]:
        """Which walls of its box it touches."""
        end = BOX - SIZES[self.size]
        near = {"left": self.left == 0, "right": self.left == end, "top": self.top == 0, "bottom": self.top == end}
        return {wall for wall, touches in near.items() if touches}

    def __str__(self) -> str:
        return " ".join((self.colour, self.shape, *(wall for wall in WALLS if wall in self.walls)))


Things = tuple[Thing, ...]  # of one box; those of a tower from its base up


class Scene(NamedTuple):
    has_towers: bool
    boxes: tuple[Things, ...]

    def describe(self) -> list[str]:
        """The contents of each box: blocks from the base up, or things from the top down with the walls they touch."""
        if self.has_towers:
            return [" ".join(colours_of(tower)) for tower in self.boxes]
        return [", ".join(map(str, sorted(things, key=lambda thing: thing.top))) for things in self.boxes]


class Property(NamedTuple):
    """Of a tower or a box, in words that follow "with"."""

    words: str
    holds: Callable[[Things], bool]


class Sentence(NamedTuple):
    """`count`: how many of what it is about are in a box with these things; `holds`: whether so many in all make it true."""

    text: str
    count: Callable[[Things], int]
    holds: Callable[[int], bool]

    def counts(self, scene: Scene) -> list[int]:
        return [self.count(things) for things in scene.boxes]

    def is_true_of(self, scene: Scene) -> bool:
        return self.holds(sum(self.counts(scene)))


# ---- scenes


def draw_towers(rng: random.Random) -> Scene:
    towers = [rng.choices(list(COLOURS), k=rng.randint(1, HIGHEST)) for _ in range(BOXES)]
    tops = [BOX - BLOCK - (BLOCK + 1) * level for level in range(HIGHEST)]
    boxes = (zip(tower, tops, strict=False) for tower in towers)
    return Scene(
        True, tuple(tuple(Thing("square", colour, "medium", 40, top) for colour, top in box) for box in boxes)
    )


def draw_things(rng: random.Random, most: int = MOST) -> Scene:
    counts = (1, 2, 2, 3, 3, 4, 4, 5, 6, 7)
    return Scene(False, tuple(fill_box(rng, min(most, rng.choice(counts))) for _ in range(BOXES)))


def fill_box(rng: random.Random, count: int) -> Things:
    """Up to `count` things that do not overlap; every third one touches a wall."""
    things: list[Thing] = []
    for _ in range(count * 4):
        size = rng.choice(list(SIZES))
        end = BOX - SIZES[size]
        place = [rng.randint(1, end - 1), rng.randint(1, end - 1)]
        if rng.random() < 0.35:
            place[rng.randrange(2)] = rng.choice((0, end))
        if rng.random() < 0.1:
            place = [rng.choice((0, end)), rng.choice((0, end))]
        thing = Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), size, *place)
        if len(things) < count and not any(overlap(thing, other) for other in things):
            things.append(thing)
    return tuple(things)


def overlap(one: Thing, other: Thing) -> bool:
    return all(
        getattr(one, side) < getattr(other, side) + SIZES[other.size] + 2
        and getattr(other, side) < getattr(one, side) + SIZES[one.size] + 2
        for side in ("left", "top")
    )


def paint(scene: Scene) -> Image.Image:
    image = Image.new("RGB", (3 * BOX + 2 * GAP, BOX), BETWEEN)
    draw = ImageDraw.Draw(image)
    for index, things in enumerate(scene.boxes):
        start = index * (BOX + GAP)
        draw.rectangle((start, 0, start + BOX - 1, BOX - 1), fill=BACKGROUND)
        for thing in things:
            left, top, side = start + thing.left, thing.top, SIZES[thing.size] - 1
            area, fill = (left, top, left + side, top + side), COLOURS[thing.colour]
            if thing.shape == "circle":
                draw.ellipse(area, fill=fill)
            elif thing.shape == "square":
                draw.rectangle(area, fill=fill)
            else:
                draw.polygon([(left, top + side), (left + side, top + side), (left + side / 2, top)], fill=fill)
    return image


# ---- properties of a tower or a box


def number_of(rng: random.Random, most: int) -> tuple[int, str]:
    """A number from 1, and how it is written."""
    number = rng.randint(1, most)
    return number, rng.choice((WORDS[number], str(number)))


def noun(rng: random.Random, number: int, one: str = "") -> str:
    """`one`, or a general word for a thing, in the number that follows `number`."""
    return (one or rng.choice(("item", "item", "object"))) + ("" if number == 1 else "s")


def amount(rng: random.Random, most: int, one: str, count: Callable[[Things], int]) -> Property:
    """A number of `one`, by a count of them."""
    number, written = number_of(rng, most)
    limit, holds = rng.choice(
        (
            ("", lambda found: found == number),
            ("exactly ", lambda found: found == number),
            ("only ", lambda found: found == number),
            ("at least ", lambda found: found >= number),
        )
    )
    return Property(f"{limit}{written} {noun(rng, number, one)}", lambda things: holds(count(things)))


def colours_of(things: Things) -> list[str]:
    return [thing.colour for thing in things]


def colours(rng: random.Random, one: str) -> Property:
    """Which colours things have, whatever their number."""
    first, second = rng.sample(list(COLOURS), 2)
    many = noun(rng, 2, one)
    words, wanted = rng.choice(
        (
            (f"only {first} {many}", {first}),
            (f"only {first} and {second} {many}", {first, second}),
            (f"{many} of only {first} and {second} {rng.choice(('color', 'colour'))}", {first, second}),
            (f"{many} of all 3 {rng.choice(('', 'different '))}{rng.choice(('colors', 'colours'))}", set(COLOURS)),
        )
    )
    if rng.random() < 0.2:
        words = f"{many} of only one color"
        return Property(words, lambda things: len(set(colours_of(things))) == 1)
    return Property(words, lambda things: set(colours_of(things)) == wanted)


def coloured(rng: random.Random, one: str) -> Property:
    """So many things of one colour."""
    colour = rng.choice(list(COLOURS))
    if rng.random() < 0.4:
        return Property(f"a {colour} {noun(rng, 1, one)}", lambda things: colour in colours_of(things))
    return amount(rng, 3, f"{colour} {noun(rng, 1, one)}", lambda things: colours_of(things).count(colour))


def tower_place(rng: random.Random) -> Property:
    """The colour of a tower's base, top or second block."""
    colour = rng.choice(list(COLOURS))
    words, level = rng.choice(
        (
            (f"a {colour} block at {rng.choice(('the ', ''))}{rng.choice(('base', 'bottom'))}", 0),
            (f"a {colour} base", 0),
            (f"a {colour} block at the top", -1),
            (f"a {colour} block {rng.choice(('at the top', 'on top'))}", -1),
            (f"a {colour} second block", 1),
        )
    )
    return Property(words, lambda tower: len(tower) > level and tower[level].colour == colour)


def tower_order(rng: random.Random) -> Property:
    """One block on another."""
    first, second = rng.choices(list(COLOURS), k=2)
    if first == second and rng.random() < 0.5:
        words = f"{rng.choice(('2', 'two'))} {first} blocks stacked together"
    elif rng.random() < 0.2:
        words = f"a {second} block {rng.choice(('below', 'under'))} a {first} block"
    else:
        words = f"a {first} block {rng.choice(('over', 'above', 'on top of', 'on'))} a {second} block"

    return Property(words, lambda tower: (second, first) in itertools.pairwise(colours_of(tower)))


def shaped(rng: random.Random) -> Property:
    """A thing of one colour and shape, perhaps at a wall."""
    colour, shape = rng.choice(list(COLOURS)), rng.choice((*SHAPES, None))
    at_wall = rng.random() < 0.3
    words = f"a {colour} {noun(rng, 1, shape or '')}"
    if at_wall:
        words += f" touching the {rng.choice(('wall', 'edge'))}"

    def is_meant(thing: Thing) -> bool:
        return thing.colour == colour and shape in (None, thing.shape) and bool(thing.walls or not at_wall)

    return Property(words, lambda things: any(map(is_meant, things)))


def highest(rng: random.Random) -> Property:
    colour = rng.choice(list(COLOURS))
    words = f"a {colour} {rng.choice(('item', 'one'))} on top"
    return Property(words, lambda things: bool(things) and min(things, key=lambda one: one.top).colour == colour)


TOWER_PROPERTIES = (  # twice: drawn twice as often
    lambda rng: amount(rng, HIGHEST, "block", len),
    tower_place,
    tower_place,
    tower_order,
    lambda rng: coloured(rng, "block"),
    lambda rng: colours(rng, "block"),
)
BOX_PROPERTIES = (
    lambda rng: amount(rng, MOST, "", len),
    shaped,
    shaped,
    lambda rng: coloured(rng, ""),
    lambda rng: colours(rng, ""),
    highest,
)


def draw_property(rng: random.Random, makers: tuple[Callable[[random.Random], Property], ...]) -> Property:
    """One property, or two of different kinds."""
    first, second = (maker(rng) for maker in rng.sample(makers, 2))
    if rng.random() < 0.7:
        return first
    return Property(f"{first.words} and {second.words}", lambda things: first.holds(things) and second.holds(things))


# ---- sentences: how many units (towers, boxes, things) have some property


def quantify(rng: random.Random, one: str, many: str, most: int, count: Callable[[Things], int]) -> Sentence:
    """How many of `one`, `many`, there are."""
    number, written = number_of(rng, most)
    is_are, name = ("is", one) if number == 1 else ("are", many)
    words, holds = rng.choice(
        (
            (f"is a {one}", lambda found: found >= 1),
            (f"is at least {rng.choice(('a', 'one', '1'))} {one}", lambda found: found >= 1),
            (f"is no {one}", lambda found: found == 0),
            (f"{is_are} {written} {name}", lambda found: found == number),
            (f"{is_are} {rng.choice(('exactly', 'only'))} {written} {name}", lambda found: found == number),
            (f"{is_are} at least {written} {name}", lambda found: found >= number),
        )
    )
    return Sentence(finish(rng, f"There {words}"), count, holds)


def finish(rng: random.Random, text: str) -> str:
    """As people write: with or without a capital, with or without a full stop."""
    return rng.choice((text, text[0].lower() + text[1:])) + rng.choice((".", ""))


def about_things(rng: random.Random) -> Sentence:
    """Things by shape, colour and place, whichever box they are in."""
    shape, colour = rng.choice((None, *SHAPES)), rng.choice((None, *COLOURS, *COLOURS))
    place, fits = rng.choice(
        (
            ("", lambda walls: True),
            (f" touching {rng.choice(('the edge', 'the wall', 'an edge', 'the side'))}", bool),
            (f" not touching {rng.choice(('any edge', 'the wall', 'any edge'))}", lambda walls: not walls),
            (f" {rng.choice(('closely touching the bottom of a box', 'touching the base'))}", lambda walls: "bottom" in walls),
            (f" {rng.choice(('closely ', ''))}touching right wall of a box", lambda walls: "right" in walls),
            (f" closely touching {rng.choice(('a corner of a box', 'a box corner'))}", lambda walls: len(walls) == 2),
        )
    )  # fmt: skip
    adjective = "" if colour is None else f"{colour} "
    name = shape or noun(rng, 1)

    def is_meant(thing: Thing) -> bool:
        return shape in (None, thing.shape) and colour in (None, thing.colour) and bool(fits(thing.walls))

    one, many = f"{adjective}{name}{place}", f"{adjective}{name}s{place}"
    return quantify(rng, one, many, 5, lambda things: sum(map(is_meant, things)))


def about_blocks(rng: random.Random) -> Sentence:
    """Blocks by their colour and place, whichever tower they are in."""
    colour = rng.choice(list(COLOURS))
    place, which = rng.choice(
        (("", slice(None)), (" as the base of a tower", slice(1)), (" as the top of a tower", slice(-1, None)))
    )

    one, many = f"{colour} block{place}", f"{colour} blocks{place}"
    return quantify(rng, one, many, 3, lambda tower: colours_of(tower[which]).count(colour))


def about_units(rng: random.Random, one: str, many: str, property: Property) -> Sentence:
    """How many towers or boxes have a property; also of each of them, and of some of the three."""

    def count(things: Things) -> int:
        return int(property.holds(things))

    kind = rng.random()
    if kind < 0.1:
        start = rng.choice((f"Each {one} has", f"Every {one} has", f"All 3 {many} have"))
        return Sentence(finish(rng, f"{start} {property.words}"), count, lambda found: found == BOXES)
    if kind < 0.2:
        start = rng.choice((f"One {one}", f"One of the {one}"))
        words = f"{rng.choice(('has', 'contains'))} {property.words}"
        return Sentence(finish(rng, f"{start} {words}"), count, lambda found: found >= 1)
    having = rng.choice(("with", "with", "having", "which has", "that contains"))
    plural = having.replace("has", "have").replace("contains", "contain")
    return quantify(rng, f"{one} {having} {property.words}", f"{many} {plural} {property.words}", 3, count)


def about_towers(rng: random.Random) -> Sentence:
    if rng.random() < 0.8:
        return about_units(rng, "tower", "towers", draw_property(rng, TOWER_PROPERTIES))
    # A sentence can also be about one block on another, without their tower.
    order = tower_order(rng)
    is_denied = rng.random() < 0.2 and order.words.startswith("a ")
    words = f"There is {'no ' + order.words[2:] if is_denied else order.words}"
    return Sentence(finish(rng, words), lambda tower: int(order.holds(tower)), lambda found: (found >= 1) != is_denied)


def about_boxes(rng: random.Random) -> Sentence:
    names = (("box", "boxes"), ("box", "boxes"), ("grey box", "grey boxes"), ("grey square", "grey squares"))
    return about_units(rng, *rng.choice(names), draw_property(rng, BOX_PROPERTIES))


# ---- samples


def draw_sentence(rng: random.Random, scene: Scene, wanted: bool) -> Sentence:
    """A sentence that is true, or where `wanted` is False false, of the scene; after `TRIES` in vain, one that is not as wanted."""
    makers = (about_towers, about_towers, about_blocks) if scene.has_towers else (about_things, about_boxes)
    sentences = (rng.choice(makers)(rng) for _ in range(TRIES))
    sentence = next((one for one in sentences if one.is_true_of(scene) == wanted), None)
    return sentence or draw_sentence(rng, scene, not wanted)


def ask_if_true(sentence: Sentence, scene: Scene) -> Turn:
    """The answer describes each box and counts before it says whether the sentence is true."""
    counts = sentence.counts(scene)
    described = "; ".join(f"{box}: {count}" for box, count in zip(scene.describe(), counts, strict=True))
    truth = "true" if sentence.is_true_of(scene) else "false"
    return Turn("nlvr_scenes", f"{sentence.text} True or false?", f"{described} = {sum(counts)} {FINAL_MARK} {truth}")


def load_nlvr_scenes(
    root: Path, split: str, samples: int, sentences: int = 1, most: int = MOST, in_words: bool = False, seed: int = 0
) -> Dataset:
    r"""
    root (`Path`): not read; every format that brings its own data takes it.
    split (`str`): the name of a draw.
    samples (`int`): how many scenes.
    sentences (`int`, *optional*, defaults to 1): of each scene, as many of them true as false.
    most (`int`, *optional*, defaults to `MOST`): things in a box, where they are scattered.
    in_words (`bool`, *optional*, defaults to False): the first question describes the boxes, in place of an image.
    seed (`int`, *optional*, defaults to 0): another seed draws other scenes.
    """
    made = []
    for index in range(samples):
        rng = random.Random(f"{split} {seed} {index}")
        scene = draw_towers(rng) if rng.random() < TOWERS else draw_things(rng, most)
        turns = [ask_if_true(draw_sentence(rng, scene, rng.random() < 0.5), scene) for _ in range(sentences)]
        if in_words:
            turns[0] = turns[0]._replace(question=f"{'; '.join(scene.describe())}\n{turns[0].question}")
        made.append(conversation(f"{split}-{index}", turns, None if in_words else paint(scene)))
    return make_dataset(made)
