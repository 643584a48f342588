"""Text tasks in a small closed world: reverse words, sort them, read, translate, summarise; in English and in Chinese.

A prompt is held out by a checksum of what it is about (the words, the sentence, the story), so that nothing of the
evaluation was trained on, whatever the phrasing. Sample i says the same in every language.
"""

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

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

Draw = tuple[str, str, str]  # (what the prompt is about, in English; question; answer)


@dataclass(frozen=True)
class TextTasks:
    r"""The tasks in one language: a source of the demo.

    source (`str`): its name, with which its tasks and samples begin.
    sentences (`dict`): by what they are for, with names in braces.
    words (`dict`): its words by the English ones; those that it lacks are the English ones.
    counted (`dict`): what stands between "a" or "the" and a thing, by the English word of the thing.
    order (`tuple`): `WORDS` in the order of its dictionary.
    comma, gap (`str`): between the words of a list, between sentences.
    """

    source: str
    sentences: dict[str, str]
    words: dict[str, str]
    counted: dict[str, str]
    order: tuple[str, ...]
    comma: str
    gap: str

    @cached_property
    def TASKS(self) -> dict[str, Callable]:
        """The draw of each task by its name. The modules that are the other sources have a constant of this name."""
        return {f"{self.source}_{name}": draw for name, draw in DRAWS.items()}

    def say(self, key: str, **words: str) -> str:
        """The sentence of that key with these English words in it, in this language."""
        return self.sentences[key].format(**{name: self.words.get(word, word) for name, word in words.items()})

    def one(self, colour: str, thing: str, key: str = "one") -> str:
        """A thing of a colour."""
        return self.say(key, colour=colour, thing=thing, counted=self.counted.get(thing, ""))

    def listed(self, words: Iterable[str]) -> str:
        return self.comma.join(self.words.get(word, word) for word in words)

    def make_sample(self, split: str, index: int, seed: int, turns: int) -> dict:
        """Sample `index` of a split: its first task cycles through all tasks, the others are any."""
        rng = random.Random(f"text/{seed}/{split}/{index}")
        tasks = list(self.TASKS)
        chosen = [tasks[index % len(tasks)], *rng.choices(tasks, k=turns - 1)]
        rng.shuffle(chosen)
        drawn = [self.draw_turn(rng, task, held_out=split == "test") for task in chosen]
        return conversation(f"{self.source}-{split}-{index}", drawn)

    def draw_turn(self, rng: random.Random, task: str, held_out: bool) -> Turn:
        while True:
            about, question, answer = self.TASKS[task](rng, self)
            if is_held_out(about) == held_out:
                return Turn(task, question, answer)


ENGLISH = TextTasks(
    source="text",
    sentences={
        "one": "a {colour} {thing}",
        "the": "the {colour} {thing}",
        "reverse": "Reverse the words: {words}",
        "sort": "Sort the words: {words}",
        "has": "{name} has {thing}.",
        "who": "Who has the {thing}?",
        "colour": "What colour is the {thing}?",
        "what": "What does {name} have?",
        "does": "{subject} {verb} {object}",
        "translate": "Translate into French: {sentence}",
        "went": "On {day} {name} went to the {place}.",
        "weather": "{weather}.",
        "found": "There {pronoun} found {thing} and bought it.",
        "summarise": "Summarise: {story}",
        "bought": "{name} bought {thing}",
    },
    words={},
    counted={},
    order=WORDS,
    comma=" ",
    gap=" ",
)
CHINESE = TextTasks(
    source="text_zh",
    sentences={
        "one": "一{counted}{colour}的{thing}",
        "the": "那{counted}{colour}的{thing}",
        "reverse": "把词语倒过来：{words}",
        "sort": "按拼音排列词语：{words}",
        "has": "{name}有{thing}。",
        "who": "谁有{thing}？",
        "colour": "{thing}是什么颜色的？",
        "what": "{name}有什么？",
        "does": "{subject}{verb}{object}",
        "translate": "译成法语：{sentence}",
        "went": "{day}{name}去了{place}。",
        "weather": "{weather}。",
        "found": "{pronoun}在那里看到{thing}，就买了下来。",
        "summarise": "概括：{story}",
        "bought": "{name}买了{thing}",
    },
    words={
        "apple": "苹果", "bread": "面包", "cloud": "云", "door": "门", "egg": "鸡蛋", "fish": "鱼", "garden": "花园", "hat": "帽子",
        "island": "岛", "jar": "罐子", "kite": "风筝", "lamp": "灯", "moon": "月亮", "nest": "鸟巢", "orange": "橙子", "pen": "笔",
        "ball": "球", "book": "书", "cup": "杯子", "bag": "包",
        "Anna": "安娜", "Ben": "班恩", "Clara": "克拉拉", "David": "大卫", "Emma": "艾玛", "Felix": "费利克斯", "she": "她", "he": "他",
        "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "black": "黑色", "white": "白色", "grey": "灰色",
        "park": "公园", "market": "市场", "station": "车站", "library": "图书馆", "beach": "海滩", "school": "学校",
        "Monday": "星期一", "Tuesday": "星期二", "Wednesday": "星期三", "Thursday": "星期四", "Friday": "星期五",
        "Saturday": "星期六", "Sunday": "星期日",
        "It rained all day": "下了一整天雨", "The sun was out": "出了太阳", "It was cold": "天气很冷", "The wind was strong": "风很大",
        "cat": "猫", "dog": "狗", "horse": "马", "wolf": "狼", "fox": "狐狸", "duck": "鸭子",
        "sees": "看见", "follows": "跟着", "likes": "喜欢", "finds": "找到",
    },
    counted={
        "ball": "个", "book": "本", "cup": "个", "hat": "顶", "kite": "只", "lamp": "盏", "pen": "支", "bag": "个",
        "cat": "只", "dog": "条", "horse": "匹", "wolf": "匹", "fox": "只", "duck": "只",
    },
    order=(
        "pen", "orange", "island", "lamp", "kite", "jar", "garden", "egg",
        "hat", "door", "bread", "nest", "apple", "fish", "moon", "cloud",
    ),
    comma="、",
    gap="",
)  # fmt: skip


def reverse(rng: random.Random, language: TextTasks) -> Draw:
    words = rng.sample(WORDS, rng.randint(3, 4))
    question = language.say("reverse", words=language.listed(words))
    return " ".join(words), question, language.listed(reversed(words))


def sort(rng: random.Random, language: TextTasks) -> Draw:
    words = rng.sample(WORDS, rng.randint(3, 4))
    in_order = sorted(words, key=language.order.index)
    return " ".join(words), language.say("sort", words=language.listed(words)), language.listed(in_order)


def read(rng: random.Random, language: TextTasks) -> Draw:
    """Two sentences and a question that one of them answers."""
    names, things, colours = rng.sample(list(PRONOUNS), 2), rng.sample(THINGS, 2), rng.sample(COLOURS, 2)

    def story(language: TextTasks) -> str:
        facts = zip(names, map(language.one, colours, things), strict=True)
        return language.gap.join(language.say("has", name=name, thing=thing) for name, thing in facts)

    asked = rng.randrange(2)
    name, thing, colour = names[asked], things[asked], colours[asked]
    questions = (
        (language.say("who", thing=thing), language.listed([name])),
        (language.say("colour", thing=thing), language.listed([colour])),
        (language.say("what", name=name), language.one(colour, thing)),
    )
    question, answer = rng.choice(questions)
    return story(ENGLISH), language.gap.join([story(language), question]), answer


def translate(rng: random.Random, language: TextTasks) -> Draw:
    """Into French, where the colour follows the noun."""
    nouns, colours = rng.sample(list(FRENCH_NOUNS), 2), rng.sample(list(FRENCH_COLOURS), 2)
    verb = rng.choice(list(FRENCH_VERBS))

    def sentence(language: TextTasks) -> str:
        subject, what = language.one(colours[0], nouns[0], "the"), language.one(colours[1], nouns[1])
        return language.say("does", subject=subject, verb=verb, object=what)

    first, second = (f"{FRENCH_NOUNS[n]} {FRENCH_COLOURS[c]}" for n, c in zip(nouns, colours, strict=True))
    question = language.say("translate", sentence=sentence(language))
    return sentence(ENGLISH), question, f"le {first} {FRENCH_VERBS[verb]} un {second}"


def summarise(rng: random.Random, language: TextTasks) -> Draw:
    """Who bought what, without the day, the place and the weather."""
    name, day, place = rng.choice(list(PRONOUNS)), rng.choice(DAYS), rng.choice(PLACES)
    colour, thing, weather = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(WEATHER)
    order = ["went", "weather"]
    rng.shuffle(order)

    def story(language: TextTasks) -> str:
        said = [language.say(key, name=name, day=day, place=place, weather=weather) for key in order]
        said.append(language.say("found", pronoun=PRONOUNS[name], thing=language.one(colour, thing)))
        return language.gap.join(said)

    answer = language.say("bought", name=name, thing=language.one(colour, thing))
    return story(ENGLISH), language.say("summarise", story=story(language)), answer


DRAWS: dict[str, Callable[[random.Random, TextTasks], Draw]] = {
    "reverse": reverse,
    "sort": sort,
    "read": read,
    "translate": translate,
    "summarise": summarise,
}


def is_held_out(about: str) -> bool:
    return zlib.crc32(about.encode()) % 10 == 0
