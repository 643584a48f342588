"""The demo's data: deterministic, held out as it says, and every answer is true of its image, audio or text."""

from collections import Counter
from itertools import groupby

import pytest

from training.data.samples import text_of
from training.data.synthetic import digits, scenes
from training.data.synthetic.course import BLOCK, SOURCES, TASKS, approximate_length, load_course, load_demo


def draw_samples(source: str, split: str, count: int = 200, turns: int = 4) -> list[dict]:
    return [SOURCES[source].make_sample(split, index, 0, turns) for index in range(count)]


def turns_of(sample: dict) -> list[tuple[str, str]]:
    messages = sample["messages"]
    return [(text_of(messages[i]), text_of(messages[i + 1])) for i in range(0, len(messages), 2)]


@pytest.mark.parametrize("source", TASKS)
class TestEverySource:
    def test_same_samples_at_every_call(self, source):
        first, second = (load_demo(None, "train", source, samples=12, turns=2) for _ in range(2))
        assert first.to_list() == second.to_list()

    def test_a_sample_does_not_depend_on_how_many(self, source):
        few, many = (load_demo(None, "train", source, samples=count).to_list() for count in (5, 9))
        assert many[:5] == few

    def test_another_seed_and_split_draw_others(self, source):
        samples = load_demo(None, "train", source, samples=12).to_list()
        for other in (load_demo(None, "train", source, 12, seed=1), load_demo(None, "validation", source, 12)):
            assert [one["messages"] for one in samples] != [one["messages"] for one in other.to_list()]

    def test_single_turns_cover_every_task_equally(self, source):
        counts = Counter(sample["task"] for sample in draw_samples(source, "test", 120, turns=1))
        assert set(counts) == set(TASKS[source])
        assert max(counts.values()) - min(counts.values()) <= 1

    def test_training_asks_all_that_the_test_asks(self, source):
        count = {"digits": digits.FIRST_LOOKS, "scenes": scenes.FIRST_LOOKS}.get(source, 0)
        samples = [SOURCES[source].make_sample("train", index, 0, 1) for index in range(count, count + 150)]
        assert {sample["task"] for sample in samples} == set(TASKS[source])

    def test_media_stand_in_the_first_question_only(self, source):
        kind = {"digits": "image", "scenes": "image", "audio": "audio"}.get(source)
        for sample in draw_samples(source, "train", 20):
            parts = [[part["type"] for part in message["content"]] for message in sample["messages"]]
            assert parts[0] == ([kind] if kind else []) + ["text"]
            assert all(part == ["text"] for part in parts[1:])
            assert (len(sample["images"]), len(sample["audios"])) == (kind == "image", kind == "audio")

    def test_ids_are_unique(self, source):
        ids = [sample["id"] for split in ("train", "test") for sample in draw_samples(source, split, 30)]
        assert len(set(ids)) == len(ids)


def test_course_spreads_its_sources_in_blocks_and_keeps_the_order_of_each():
    counts = {"digits": 40, "text": 80}
    course = load_course(None, "train", counts, {})["id"]
    sources = [name.partition("-")[0] for name in course]
    for source, count in counts.items():
        assert [name for name in course if name.startswith(source)] == [f"{source}-train-{i}" for i in range(count)]
    blocks = [(source, len(list(block))) for source, block in groupby(sources)]
    assert {length for _, length in blocks} <= {8, BLOCK, 2 * BLOCK, 3 * BLOCK}
    assert abs(sources[:60].count("digits") - 20) <= BLOCK  # a third of the course, wherever one looks


def test_course_puts_samples_of_several_turns_into_blocks_of_like_length():
    course = load_course(None, "train", {"audio": 200}, {"audio": 2})
    drawn = load_demo(None, "train", "audio", 200, 2)
    assert sorted(course["id"]) == sorted(drawn["id"])
    assert course["id"] == load_course(None, "train", {"audio": 200}, {"audio": 2})["id"]

    def padded(samples) -> float:
        lengths = [approximate_length(sample) for sample in samples]
        return sum(max(lengths[start : start + BLOCK]) for start in range(0, len(lengths), BLOCK))

    assert padded(course) < 0.9 * padded(drawn)


def test_unknown_source_and_split_are_refused():
    with pytest.raises(ValueError, match="no source 'smells'; it has digits, scenes, audio, text, text_zh"):
        load_demo(None, "train", "smells", samples=1)
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_demo(None, "dev", "text", samples=1)
    with pytest.raises(ValueError, match="no source 'smells'"):
        load_course(None, "train", {"smells": 1}, {})
