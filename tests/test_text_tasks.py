"""Text tasks: held out as they should be, with right answers."""

import random
import re

from tests.test_course import draw_samples
from training.data.samples import answer_of, text_of
from training.data.synthetic import text_tasks


def test_what_is_held_out_never_occurs_in_training():
    rng = random.Random(0)
    for task, draw in text_tasks.TASKS.items():
        abouts = [draw(rng)[0] for _ in range(300)]
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
        english, _, answer = text_tasks.translate(rng)
        words = [french[word] for word in english.split()]
        assert answer.split() == [words[i] for i in (0, 2, 1, 3, 4, 6, 5)]
