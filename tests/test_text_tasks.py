"""Text tasks: held out as they should be, with right answers."""

import random
import re

from tests.test_course import draw_samples
from training.data.samples import answer_of, text_of
from training.data.synthetic import text_tasks
from training.data.synthetic.course import TASKS
from training.data.synthetic.text_tasks import CHINESE, ENGLISH


PINYIN = {
    "苹果": "pingguo", "面包": "mianbao", "云": "yun", "门": "men", "鸡蛋": "jidan", "鱼": "yu", "花园": "huayuan", "帽子": "maozi",
    "岛": "dao", "罐子": "guanzi", "风筝": "fengzheng", "灯": "deng", "月亮": "yueliang", "鸟巢": "niaochao", "橙子": "chengzi", "笔": "bi",
}  # fmt: skip


def test_what_is_held_out_never_occurs_in_training():
    rng = random.Random(0)
    for task, draw in text_tasks.DRAWS.items():
        abouts = [draw(rng, ENGLISH)[0] for _ in range(300)]
        assert 0.03 < sum(map(text_tasks.is_held_out, abouts)) / len(abouts) < 0.2, task
    for split in ("train", "test"):
        for sample in draw_samples("text", split, 200, turns=1):
            question = text_of(sample["messages"][0])
            about = re.sub(r"^(Reverse the words|Sort the words|Translate into French|Summarise): ", "", question)
            about = re.sub(r" (Who|What) [^.]*\?$", "", about)
            if sample["task"] != "text_summarise":
                assert text_tasks.is_held_out(about) == (split == "test"), question


def test_answers_solve_the_task():
    for sample in draw_samples("text", "test", 300, turns=1):
        question, answer, task = text_of(sample["messages"][0]), answer_of(sample), sample["task"]
        body = question.partition(": ")[2]
        if task == "text_reverse":
            assert answer.split()[::-1] == body.split()
        elif task == "text_sort":
            assert sorted(body.split()) == answer.split()
        elif task == "text_summarise":
            name = next(name for name in text_tasks.PRONOUNS if name in body)
            bought = re.search(r"found (a \w+ \w+) and bought it", body)[1]
            assert answer == f"{name} bought {bought}"
        elif task == "text_read":
            facts = re.findall(r"(\w+) has a (\w+) (\w+)\.", question)
            asked = question.rpartition(". ")[2].rstrip("?").split()
            (name, colour, thing) = next(fact for fact in facts if asked[-1] in fact or asked[-2] in fact)
            assert answer in {"Who": name, "What": f"a {colour} {thing}"}.values() or answer == colour
            expected = name if asked[0] == "Who" else colour if asked[1] == "colour" else f"a {colour} {thing}"
            assert answer == expected


def test_translation_by_hand():
    rng = random.Random(0)
    french = {
        "the": "le",
        "a": "un",
        **text_tasks.FRENCH_NOUNS,
        **text_tasks.FRENCH_COLOURS,
        **text_tasks.FRENCH_VERBS,
    }
    for _ in range(50):
        english, _, answer = text_tasks.translate(rng, ENGLISH)
        words = [french[word] for word in english.split()]
        assert answer.split() == [words[i] for i in (0, 2, 1, 3, 4, 6, 5)]


class TestChinese:
    def test_says_what_the_english_sample_says(self):
        english, chinese = (draw_samples(source, "test", 300, turns=1) for source in ("text", "text_zh"))
        for one, other in zip(english, chinese, strict=True):
            task = one["task"].removeprefix("text_")
            assert other["task"] == f"text_zh_{task}"
            asked, answer, said = text_of(one["messages"][0]), answer_of(one), answer_of(other)
            if task == "reverse":
                assert said == CHINESE.listed(answer.split())
            elif task == "translate":
                assert said == answer
            elif task == "summarise":
                name, _, _, colour, thing = answer.split()
                assert (
                    said
                    == f"{CHINESE.words[name]}买了一{CHINESE.counted[thing]}{CHINESE.words[colour]}的{CHINESE.words[thing]}"
                )
            elif task == "read" and asked.endswith(" have?"):
                _, colour, thing = answer.split()
                assert said == f"一{CHINESE.counted[thing]}{CHINESE.words[colour]}的{CHINESE.words[thing]}"
            elif task == "read":
                assert said == CHINESE.words[answer]

    def test_sorts_by_pinyin(self):
        assert {CHINESE.words[word] for word in text_tasks.WORDS} == set(PINYIN)
        for sample in draw_samples("text_zh", "test", 200, turns=1):
            if sample["task"] == "text_zh_sort":
                words = text_of(sample["messages"][0]).partition("：")[2].split("、")
                assert answer_of(sample) == "、".join(sorted(words, key=PINYIN.get))

    def test_writes_chinese_alone(self):
        for sample in draw_samples("text_zh", "train", 300, turns=2):
            for message in sample["messages"]:
                text = text_of(message)
                assert "{" not in text and (not re.search("[A-Za-z ]", text) or text.startswith("le ")), text

    def test_by_hand(self):
        samples = draw_samples("text_zh", "test", 5, turns=1)
        assert [(text_of(sample["messages"][0]), answer_of(sample)) for sample in samples] == [
            ("把词语倒过来：风筝、门、笔", "笔、门、风筝"),
            ("按拼音排列词语：苹果、门、岛、风筝", "岛、风筝、门、苹果"),
            ("安娜有一盏蓝色的灯。费利克斯有一支绿色的笔。灯是什么颜色的？", "蓝色"),
            ("译成法语：那匹黑色的马找到一只黄色的猫", "le cheval noir trouve un chat jaune"),
            ("概括：出了太阳。星期五班恩去了海滩。他在那里看到一个红色的杯子，就买了下来。", "班恩买了一个红色的杯子"),
        ]

    def test_names_its_tasks(self):
        assert TASKS["text_zh"] == tuple(f"text_zh_{name}" for name in text_tasks.DRAWS)
