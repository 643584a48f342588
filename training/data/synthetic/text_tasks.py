"""Text tasks in a small closed world: reverse words, sort them, read, translate, summarise.

A prompt is held out by a checksum of what it is about (the words, the sentence, the story), so that nothing of the
evaluation was trained on, whatever the phrasing.
"""

import random
import zlib
from collections.abc import Callable

from training.data.synthetic.conversation import Turn, conversation


WORDS = (
    "apple", "bread", "cloud", "door", "egg", "fish", "garden", "hat",
    "island", "jar", "kite", "lamp", "moon", "nest", "orange", "pen",
)  # fmt: skip
PRONOUNS = {"Anna": "she", "Ben": "he", "Clara": "she", "David": "he", "Emma": "she", "Felix": "he"}
THINGS = ("ball", "book", "cup", "hat", "kite", "lamp", "pen", "bag")
COLOURS = ("red", "green", "blue", "yellow", "black", "white")
PLACES = ("park", "market", "station", "library", "beach", "school")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEATHER = ("It rained all day", "The sun was out", "It was cold", "The wind was strong")
FRENCH_NOUNS = {"cat": "chat", "dog": "chien", "horse": "cheval", "wolf": "loup", "fox": "renard", "duck": "canard"}
FRENCH_COLOURS = {
    "red": "rouge",
    "black": "noir",
    "white": "blanc",
    "green": "vert",
    "grey": "gris",
    "yellow": "jaune",
}
FRENCH_VERBS = {"sees": "voit", "follows": "suit", "likes": "aime", "finds": "trouve"}

Draw = tuple[str, str, str]  # (what the prompt is about, question, answer)


def reverse(rng: random.Random) -> Draw:
    words = rng.sample(WORDS, rng.randint(3, 4))
    return " ".join(words), f"Reverse the words: {' '.join(words)}", " ".join(reversed(words))


def sort(rng: random.Random) -> Draw:
    words = rng.sample(WORDS, rng.randint(3, 4))
    return " ".join(words), f"Sort the words: {' '.join(words)}", " ".join(sorted(words))


def read(rng: random.Random) -> Draw:
    """Two sentences and a question that one of them answers."""
    (first, second), things, colours = rng.sample(list(PRONOUNS), 2), rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    story = f"{first} has a {colours[0]} {things[0]}. {second} has a {colours[1]} {things[1]}."
    asked = rng.randrange(2)
    name, thing, colour = (first, second)[asked], things[asked], colours[asked]
    questions = (
        (f"Who has the {thing}?", name),
        (f"What colour is the {thing}?", colour),
        (f"What does {name} have?", f"a {colour} {thing}"),
    )
    question, answer = rng.choice(questions)
    return story, f"{story} {question}", answer


def translate(rng: random.Random) -> Draw:
    """Into French, where the colour follows the noun."""
    nouns, colours = rng.sample(list(FRENCH_NOUNS), 2), rng.sample(list(FRENCH_COLOURS), 2)
    verb = rng.choice(list(FRENCH_VERBS))
    english = f"the {colours[0]} {nouns[0]} {verb} a {colours[1]} {nouns[1]}"
    first, second = (f"{FRENCH_NOUNS[n]} {FRENCH_COLOURS[c]}" for n, c in zip(nouns, colours, strict=True))
    return english, f"Translate into French: {english}", f"le {first} {FRENCH_VERBS[verb]} un {second}"


def summarise(rng: random.Random) -> Draw:
    """Who bought what, without the day, the place and the weather."""
    name, day, place = rng.choice(list(PRONOUNS)), rng.choice(DAYS), rng.choice(PLACES)
    colour, thing, weather = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(WEATHER)
    sentences = [f"On {day} {name} went to the {place}.", f"{weather}."]
    rng.shuffle(sentences)
    story = f"{' '.join(sentences)} There {PRONOUNS[name]} found a {colour} {thing} and bought it."
    return story, f"Summarise: {story}", f"{name} bought a {colour} {thing}"


TASKS: dict[str, Callable[[random.Random], Draw]] = {
    "text_reverse": reverse,
    "text_sort": sort,
    "text_read": read,
    "text_translate": translate,
    "text_summarise": summarise,
}


def is_held_out(about: str) -> bool:
    return zlib.crc32(about.encode()) % 10 == 0


def draw_turn(rng: random.Random, task: str, held_out: bool) -> Turn:
    while True:
        about, question, answer = TASKS[task](rng)
        if is_held_out(about) == held_out:
            return Turn(task, question, answer)


def make_sample(split: str, index: int, seed: int, turns: int) -> dict:
    """Sample `index` of a split: its first task cycles through all tasks, the others are any."""
    rng = random.Random(f"text/{seed}/{split}/{index}")
    tasks = list(TASKS)
    chosen = [tasks[index % len(tasks)], *rng.choices(tasks, k=turns - 1)]
    rng.shuffle(chosen)
    drawn = [draw_turn(rng, task, held_out=split == "test") for task in chosen]
    return conversation(f"text-{split}-{index}", drawn)
