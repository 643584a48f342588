"""Drawn scenes of three grey boxes with sentences about them, in the manner of NLVR (Suhr et al. 2017): made on the spot, from a seed.

NLVR's own sentences are few; what they speak of (colours, shapes, numbers, towers, walls) can be drawn and said without end. Half of
the scenes are towers of blocks, half are scattered things. A row describes one scene, which says more about what is to be seen
than true or false does; then come sentences, as many of them true as false.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from PIL import Image, ImageDraw

from training.data.conversation import Exchange, conversation
from training.data.rows import make_dataset


BOX, GAP = 100, 50  # pixels
GROUND, BETWEEN = (211, 211, 211), (128, 128, 128)
COLOURS = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 10, "medium": 20, "large": 30}
BLOCK, HIGHEST = 20, 4  # pixels of a tower's block; blocks of the highest tower
MOST = 7  # things in a box
BOXES = 3
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
TRIES = 40  # scenes that are drawn for a sentence before another one is said


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


class Scene(NamedTuple):
    """The things of three boxes; those of a tower from its base up."""

    has_towers: bool
    boxes: tuple[tuple[Thing, ...], ...]


class Sentence(NamedTuple):
    text: str
    is_true_of: Callable[[Scene], bool]


# ---- scenes


def draw_towers(rng: random.Random) -> Scene:
    boxes = []
    for _ in range(BOXES):
        colours = rng.choices(list(COLOURS), k=rng.randint(1, HIGHEST))
        tops = [BOX - BLOCK - (BLOCK + 1) * level for level in range(HIGHEST)]
        boxes.append(
            tuple(Thing("square", colour, "medium", 40, top) for colour, top in zip(colours, tops, strict=False))
        )
    return Scene(True, tuple(boxes))


def draw_things(rng: random.Random, most: int = MOST) -> Scene:
    return Scene(
        False, tuple(fill_box(rng, min(most, rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 7)))) for _ in range(BOXES))
    )


def fill_box(rng: random.Random, count: int) -> tuple[Thing, ...]:
    """Up to `count` things that do not overlap; every third one stands at a wall."""
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


def picture(scene: Scene) -> Image.Image:
    image = Image.new("RGB", (3 * BOX + 2 * GAP, BOX), BETWEEN)
    draw = ImageDraw.Draw(image)
    for index, things in enumerate(scene.boxes):
        start = index * (BOX + GAP)
        draw.rectangle((start, 0, start + BOX - 1, BOX - 1), fill=GROUND)
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


# ---- sentences: how many of some unit (towers, boxes, things) there are with some property


def count_sentence(rng: random.Random, one: str, many: str, count: Callable[[Scene], int], most: int) -> Sentence:
    """A quantifier before `one` or `many`, judged by how many the scene has."""
    number = rng.randint(2, most)
    written = rng.choice((WORDS[number], str(number)))
    text, holds = rng.choice(
        (
            (f"There is {rng.choice(('a', 'at least one', 'at least 1'))} {one}", lambda found: found >= 1),
            (f"There is {rng.choice(('exactly one', 'only one', 'one', '1'))} {one}", lambda found: found == 1),
            (f"There is no {one}", lambda found: found == 0),
            (f"There are {rng.choice(('exactly ', 'only ', ''))}{written} {many}", lambda found: found == number),
            (f"There are at least {written} {many}", lambda found: found >= number),
        )
    )
    return Sentence(text + rng.choice((".", "")), lambda scene: holds(count(scene)))


def about_things(rng: random.Random) -> Sentence:
    shape, colour = rng.choice((None, *SHAPES)), rng.choice((None, *COLOURS, *COLOURS))
    noun = shape or rng.choice(("item", "object"))
    words, where = rng.choice(
        (
            ("", None),
            (
                f" {rng.choice(('touching the edge', 'touching the wall', 'touching an edge'))}",
                lambda walls: bool(walls),
            ),
            (" not touching any edge", lambda walls: not walls),
            (" closely touching the bottom of a box", lambda walls: "bottom" in walls),
            (" closely touching right wall of a box", lambda walls: "right" in walls),
            (" closely touching a corner of a box", lambda walls: len(walls) == 2),
        )
    )
    adjective = "" if colour is None else f"{colour} "

    def count(scene: Scene) -> int:
        return sum(
            (shape is None or thing.shape == shape)
            and (colour is None or thing.colour == colour)
            and (where is None or where(thing.walls))
            for things in scene.boxes
            for thing in things
        )

    return count_sentence(rng, f"{adjective}{noun}{words}", f"{adjective}{noun}s{words}", count, 5)


def about_boxes(rng: random.Random) -> Sentence:
    first, second = rng.sample(list(COLOURS), 2)
    shapes, number = rng.choices(SHAPES, k=2), rng.randint(1, 7)
    few, items = rng.randint(1, 3), rng.choice(("items", "objects"))

    def colours_of(things) -> list[str]:
        return [thing.colour for thing in things]

    def kinds_of(things) -> set:
        return {(thing.colour, thing.shape) for thing in things}

    words, holds = rng.choice(
        (
            (f"{rng.choice(('exactly ', ''))}{rng.choice((WORDS[number], number))} {items}", lambda things: len(things) == number),
            (f"a {first} {shapes[0]} and a {second} {shapes[1]}",
             lambda things: {(first, shapes[0]), (second, shapes[1])} <= kinds_of(things)),
            (f"a {first} {shapes[0]} touching the wall",
             lambda things: any((one.colour, one.shape) == (first, shapes[0]) and one.walls for one in things)),
            (f"{rng.choice((WORDS[few], few))} {first} {items if few > 1 else items[:-1]}",
             lambda things: colours_of(things).count(first) == few),
            (f"at least {rng.choice((WORDS[few], few))} {first} {items}", lambda things: colours_of(things).count(first) >= few),
            (f"only {first} {items}", lambda things: set(colours_of(things)) == {first}),
            (f"only {first} and {second} {items}", lambda things: set(colours_of(things)) == {first, second}),
            (f"{items} of only one color", lambda things: len(set(colours_of(things))) == 1),
            (f"{items} of all 3 colors", lambda things: len(set(colours_of(things))) == 3),
            (f"a {first} item on top", lambda things: min(things, key=lambda one: one.top).colour == first),
        )
    )  # fmt: skip
    return unit_sentence(rng, ("box", "grey box", "grey square"), words, holds, "boxes")


def about_towers(rng: random.Random) -> Sentence:
    first, second = rng.choices(list(COLOURS), k=2)
    number, few = rng.randint(1, HIGHEST), rng.randint(1, 3)
    over, base = rng.choice(("over", "above", "on top of", "on")), rng.choice(("at the base", "at the bottom"))
    blocks = "block" if number == 1 else "blocks"

    def colours_of(tower) -> list[str]:
        return [block.colour for block in tower]

    words, holds = rng.choice(
        (
            (f"{rng.choice(('exactly ', 'only ', ''))}{rng.choice((WORDS[number], number))} {blocks}", lambda tower: len(tower) == number),
            (f"at least {rng.choice((WORDS[number], number))} {blocks}", lambda tower: len(tower) >= number),
            (f"a {first} block {base}", lambda tower: tower[0].colour == first),
            (f"a {first} block at the top", lambda tower: tower[-1].colour == first),
            (f"exactly {WORDS[number]} {blocks} and a {first} block {base}",
             lambda tower: len(tower) == number and tower[0].colour == first),
            (f"exactly {WORDS[number]} {blocks} and a {first} block at the top",
             lambda tower: len(tower) == number and tower[-1].colour == first),
            (f"a {first} block {over} a {second} block",
             lambda tower: (second, first) in zip(colours_of(tower), colours_of(tower)[1:], strict=False)),
            (f"{rng.choice((WORDS[few], few))} {first} {'block' if few == 1 else 'blocks'}",
             lambda tower: colours_of(tower).count(first) == few),
            (f"{first} blocks", lambda tower: first in colours_of(tower)),
            (f"only {first} blocks", lambda tower: set(colours_of(tower)) == {first}),
            (f"only {first} and {second} blocks", lambda tower: set(colours_of(tower)) == {first, second}),
            ("blocks of only one color", lambda tower: len(set(colours_of(tower))) == 1),
            ("blocks of all 3 colours", lambda tower: len(set(colours_of(tower))) == 3),
        )
    )  # fmt: skip
    return unit_sentence(rng, ("tower",), words, holds, "towers")


def unit_sentence(rng: random.Random, names: tuple[str, ...], words: str, holds: Callable, many: str) -> Sentence:
    """How many boxes or towers have what `words` say; also of each of them, and of one of the three."""

    def count(scene: Scene) -> int:
        return sum(bool(things) and holds(things) for things in scene.boxes)

    name = rng.choice(names)
    kind = rng.random()
    if kind < 0.1:
        return Sentence(f"{rng.choice(('Each', 'Every'))} {name} has {words}", lambda scene: count(scene) == 3)
    if kind < 0.2:
        return Sentence(f"One of the {name} has {words}.", lambda scene: count(scene) >= 1)
    having = rng.choice(("with", "having", "which has"))
    return count_sentence(rng, f"{name} {having} {words}", f"{many} {having.replace('has', 'have')} {words}", count, 3)


def about_blocks(rng: random.Random) -> Sentence:
    """Blocks by their colour and place, whichever tower they stand in."""
    colour = rng.choice(list(COLOURS))
    words, which = rng.choice(
        (
            ("", slice(None)),
            (" as the base of a tower", slice(1)),
            (" as the top of a tower", slice(-1, None)),
        )
    )

    def count(scene: Scene) -> int:
        return sum(block.colour == colour for tower in scene.boxes for block in tower[which])

    return count_sentence(rng, f"{colour} block{words}", f"{colour} blocks{words}", count, 3)


# ---- rows


def say(rng: random.Random, scene: Scene, wanted: bool) -> Sentence:
    """A sentence that is true, or false, of the scene."""
    makers = (
        (about_towers, about_towers, about_blocks) if scene.has_towers else (about_things, about_things, about_boxes)
    )
    sentences = (rng.choice(makers)(rng) for _ in range(TRIES))
    sentence = next((one for one in sentences if one.is_true_of(scene) == wanted), None)
    return sentence or say(rng, scene, not wanted)


def describe(scene: Scene) -> Exchange:
    """What there is in the three boxes, from the left."""
    if scene.has_towers:
        towers = [" ".join(block.colour for block in tower) for tower in scene.boxes]
        return Exchange("boxes", "Which blocks have the towers, from the base up?", ", ".join(towers))
    boxes = [", ".join(sorted(f"{thing.colour} {thing.shape}" for thing in things)) for things in scene.boxes]
    return Exchange("boxes", "What is in the boxes?", "; ".join(boxes))


def load_boxes(root: Path, split: str, rows: int, sentences: int = 3, most: int = MOST, seed: int = 0) -> Dataset:
    r"""
    root (`Path`): not read; every adapter takes it.
    split (`str`): the name of a draw.
    rows (`int`): how many scenes.
    sentences (`int`, *optional*): of each scene, behind its description.
    most (`int`, *optional*): things in a box, where they are scattered.
    seed (`int`, *optional*, defaults to 0): another seed draws other scenes.
    """
    made = []
    for index in range(rows):
        rng = random.Random(f"{split} {seed} {index}")
        scene = draw_towers(rng) if rng.random() < 0.5 else draw_things(rng, most)
        exchanges = [describe(scene)]
        for _ in range(sentences):
            sentence = say(rng, scene, rng.random() < 0.5)
            answer = "true" if sentence.is_true_of(scene) else "false"
            exchanges.append(Exchange("boxes", f"{sentence.text} True or false?", answer))
        made.append(conversation(f"{split}-{index}", exchanges, picture(scene)))
    return make_dataset(made)
