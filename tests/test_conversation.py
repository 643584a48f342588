"""The conversations of drawn samples: exact messages, and questions whose answers were not said before."""

import io
import random

from PIL import Image

from training.data.synthetic.conversation import Turn, ask, conversation


def test_exact_sample():
    sample = conversation("a", [Turn("t", "Why?", "so"), Turn("s", "How?", "thus")], image=Image.new("RGB", (2, 2)))
    assert [(message["role"], message["content"]) for message in sample["messages"]] == [
        ("user", [{"type": "image", "text": None}, {"type": "text", "text": "Why?"}]),
        ("assistant", [{"type": "text", "text": "so"}]),
        ("user", [{"type": "text", "text": "How?"}]),
        ("assistant", [{"type": "text", "text": "thus"}]),
    ]
    assert (sample["id"], sample["task"], sample["audios"]) == ("a", "s+t", [])
    assert Image.open(io.BytesIO(sample["images"][0]["bytes"])).size == (2, 2)


def test_ask_begins_with_the_first_and_takes_each_task_once():
    askers = {name: lambda name=name: (f"{name}?", name * 2) for name in "abc"}
    for count, expected in ((1, 1), (2, 2), (9, 3)):
        tasks = [turn.task for turn in ask(random.Random(0), askers, "b", count)]
        assert len(tasks) == len(set(tasks)) == expected
        assert tasks[0] == "b"


def test_ask_leaves_out_what_was_said():
    askers = {
        "shape": lambda: ("Which shape is red?", "star"),
        "colour": lambda: ("What colour is it?", "red"),
        "caption": lambda: ("What is it?", "red star"),
    }
    after = {first: {one.task for one in ask(random.Random(0), askers, first, 3)[1:]} for first in askers}
    assert after["caption"] == after["shape"] == set()  # "red" is in the question already
    assert after["colour"] <= {"shape", "caption"} and after["colour"]
