"""Drawn scenes: coloured shapes on a plain background, with captions and questions about what, which, how many and where.

Three kinds of scene: `single` (one thing in one of nine places), `pair` (two things beside or above each other) and `group`
(two to five equal things). What is held out are combinations of colour, shape, count and place: a checksum of the caption
decides, so that no scene of the evaluation was ever described in training.
"""

import math
import random
import zlib
from dataclasses import dataclass

from PIL import Image, ImageDraw

from training.data.synthetic.conversation import Asker, ask, conversation, next_task


SIZE = 48  # pixels along a side
SUPERSAMPLING = 4  # drawn this much larger, then averaged: smooth edges
COLOURS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (40, 98, 222),
    "yellow": (242, 200, 40),
    "purple": (142, 68, 173),
    "orange": (240, 128, 30),
}
FORMATS = ("circle", "square", "triangle", "star", "cross")
NUMBERS = ("one", "two", "three", "four", "five")
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
# Where the two of a pair are.
SIDES = {"left of": ("on the left", "on the right"), "above": ("at the top", "at the bottom")}
TASKS = {  # task: the kinds of scene that it asks about; two pairs to each other kind where one has to tell things apart
    "scene_caption": ("single", "pair", "pair", "group"),
    "scene_colour": ("single", "pair", "pair", "group"),
    "scene_shape": ("single", "pair", "pair", "group"),
    "scene_count": ("group",),
    "scene_position": ("single",),
}

# Training asks in another order and other proportions than the test. What a shape is has to be learnt before anything about two of
# them: the first samples show one thing each and mostly ask for its name. Then pairs come most often, and of these captions and
# colours: their relation, and which of them is meant, take longest to learn.
FIRST_LOOKS = 8000  # samples
FIRST_PRACTICE = (
    *(("scene_shape", "single"), ("scene_caption", "single")) * 3,
    ("scene_colour", "single"),
    ("scene_position", "single"),
)
PRACTICE = (
    *((f"scene_{task}", "pair") for task in ("colour", "caption", "shape", "colour", "caption") * 2),
    *(("scene_caption", "group"), ("scene_count", "group"), ("scene_position", "single")) * 2,
    *((task, kind) for task in ("scene_colour", "scene_shape") for kind in ("single", "group")),
    ("scene_caption", "single"),
)


@dataclass(frozen=True)
class Thing:
    """One kind of thing and the cells (row, column) of the 3 x 3 grid that hold it."""

    colour: str
    shape: str
    cells: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """`things` in the order in which the caption names them: from the top or from the left."""

    kind: str
    things: tuple[Thing, ...]


def plural(shape: str, count: int) -> str:
    if count == 1:
        return shape
    return shape + ("es" if shape.endswith("s") else "s")


def place_name(cell: tuple[int, int]) -> str:
    """As in "top left", "right", "centre"."""
    return f"{ROWS[cell[0]]} {COLUMNS[cell[1]]}".strip() or "centre"


# ---- what is in a scene


def is_held_out(scene: Scene) -> bool:
    return zlib.crc32(caption(scene).encode()) % 8 == 0


def draw_scene(rng: random.Random, kind: str, held_out: bool) -> Scene:
    """A scene of `kind` that is held out, or one that is not; two things in it share neither colour nor shape."""
    while True:
        names = 2 if kind == "pair" else 1
        looks = zip(rng.sample(list(COLOURS), names), rng.sample(FORMATS, names), strict=True)
        places = draw_places(rng, kind)
        scene = Scene(kind, tuple(Thing(*look, cells) for look, cells in zip(looks, places, strict=True)))
        if is_held_out(scene) == held_out:
            return scene


def draw_places(rng: random.Random, kind: str) -> list[tuple[tuple[int, int], ...]]:
    """For each thing of a scene its cells."""
    if kind == "pair":
        line, (first, second) = rng.randrange(3), sorted(rng.sample(range(3), 2))
        is_beside = rng.random() < 0.5
        return [((line, first),), ((line, second),)] if is_beside else [((first, line),), ((second, line),)]
    cells = [(row, column) for row in range(3) for column in range(3)]
    rng.shuffle(cells)
    return [tuple(cells[: 1 if kind == "single" else rng.randint(2, 5)])]


# ---- what can be asked about it


def relation(scene: Scene) -> str:
    """Of the first of a pair to the second."""
    (first,), (second,) = (thing.cells for thing in scene.things)
    return "left of" if first[0] == second[0] else "above"


def caption(scene: Scene) -> str:
    """As in "a red star at the top left", "a red star above a blue circle", "three red stars"."""
    first = scene.things[0]
    count = len(first.cells)
    if scene.kind == "group":
        return f"{NUMBERS[count - 1]} {first.colour} {plural(first.shape, count)}"
    where = f"at the {place_name(first.cells[0])}"
    if scene.kind == "pair":
        where = f"{relation(scene)} a {scene.things[1].name}"
    return f"a {first.name} {where}".replace("a orange", "an orange")


def askers(scene: Scene, rng: random.Random) -> dict[str, Asker]:
    """For each task that fits the scene, a function that returns a question and its answer."""
    first = scene.things[0]

    def ask_colour():
        if scene.kind == "pair":
            place, thing = rng.choice(list(zip(SIDES[relation(scene)], scene.things, strict=True)))
            return f"What colour is the shape {place}?", thing.colour
        return f"What colour {'is the shape' if scene.kind == 'single' else 'are the shapes'}?", first.colour

    def ask_shape():
        thing = rng.choice(scene.things)
        general = {"single": "Which shape is this?", "group": "Which shapes are these?"}
        return general.get(scene.kind, f"Which shape is {thing.colour}?"), plural(thing.shape, len(thing.cells))

    captions = ("Describe the picture.", "What does the picture show?")
    places = ("Where is the shape?", "Where in the picture is the shape?")
    by_task = {
        "scene_caption": lambda: (rng.choice(captions), caption(scene)),
        "scene_colour": ask_colour,
        "scene_shape": ask_shape,
        "scene_count": lambda: ("How many shapes are there?", NUMBERS[len(first.cells) - 1]),
        "scene_position": lambda: (rng.choice(places), place_name(first.cells[0])),
    }
    return {task: asker for task, asker in by_task.items() if scene.kind in TASKS[task]}


# ---- how it looks


def outline(shape: str, x: float, y: float, radius: float, angle: float) -> list[tuple[float, float]]:
    """The corners of `shape` around (x, y), turned by `angle` radians; sizes chosen so that all look equally large."""
    if shape == "circle":
        corners = [(0.9 * radius, 2 * math.pi * i / 48) for i in range(48)]
    elif shape == "square":
        corners = [(1.15 * radius, math.pi / 4 + math.pi / 2 * i) for i in range(4)]
    elif shape == "triangle":
        corners = [(1.2 * radius, 2 * math.pi / 3 * i) for i in range(3)]
    elif shape == "star":
        corners = [((1.25, 0.52)[i % 2] * radius, math.pi / 5 * i) for i in range(10)]
    else:  # cross: three corners around each of the four notches
        long, notch = math.hypot(1.1, 0.36) * radius, 0.36 * math.sqrt(2) * radius
        half = math.atan2(0.36, 1.1)
        arm = ((long, -half), (long, half), (notch, math.pi / 4))
        corners = [(length, math.pi / 2 * i + turn) for i in range(4) for length, turn in arm]
    return [(x + r * math.sin(a + angle), y - r * math.cos(a + angle)) for r, a in corners]


def paint(scene: Scene, rng: random.Random) -> Image.Image:
    """The scene as an image; background, sizes, places, angles and shades vary a little."""
    background = tuple(rng.randint(226, 252) for _ in range(3))
    side = SIZE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    cell_side = side / 3
    for thing in scene.things:
        for row, column in thing.cells:
            radius = cell_side * rng.uniform(0.39, 0.45)
            x = cell_side * (column + 0.5 + rng.uniform(-0.08, 0.08))
            y = cell_side * (row + 0.5 + rng.uniform(-0.08, 0.08))
            shade = tuple(min(255, max(0, value + rng.randint(-14, 14))) for value in COLOURS[thing.colour])
            pen.polygon(outline(thing.shape, x, y, radius, rng.uniform(-0.1, 0.1)), fill=shade)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def make_sample(split: str, index: int, seed: int, turns: int) -> dict:
    """Sample `index` of a split: the tasks of the first question come in turn (in training, by the practice that is due), and the
    scene is of a kind that the task asks about."""
    rng = random.Random(f"scenes/{seed}/{split}/{index}")
    practice = None
    if split == "train":
        practice = FIRST_PRACTICE if index < FIRST_LOOKS else PRACTICE
    task, kind = next_task(rng, index, TASKS, practice)
    scene = draw_scene(rng, kind, held_out=split == "test")
    asked = ask(rng, askers(scene, rng), task, turns)
    return conversation(f"scenes-{split}-{index}", asked, image=paint(scene, rng))
