"""The demo's data: deterministic, held out as it says, and every answer is true of its image, audio or text."""

import io
import random
import re
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
import soundfile
from PIL import Image

from training.data.samples import answer_of, text_of
from training.data.synthetic import digits, melodies, scenes, text_tasks
from training.data.synthetic.conversation import Turn, ask, conversation
from training.data.synthetic.course import BLOCK, SOURCES, TASKS, approximate_length, load_course, load_demo


CAPTION_QUESTIONS = ("Describe the picture.", "What does the picture show?")


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
        kind = {"digits": "image", "scenes": "image", "audio": "audio", "text": None}[source]
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
    with pytest.raises(ValueError, match="no source 'smells'; it has digits, scenes, audio, text"):
        load_demo(None, "train", "smells", samples=1)
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_demo(None, "dev", "text", samples=1)
    with pytest.raises(ValueError, match="no source 'smells'"):
        load_course(None, "train", {"smells": 1}, {})


class TestConversation:
    def test_exact_sample(self):
        sample = conversation(
            "a", [Turn("t", "Why?", "so"), Turn("s", "How?", "thus")], image=Image.new("RGB", (2, 2))
        )
        assert [(message["role"], message["content"]) for message in sample["messages"]] == [
            ("user", [{"type": "image", "text": None}, {"type": "text", "text": "Why?"}]),
            ("assistant", [{"type": "text", "text": "so"}]),
            ("user", [{"type": "text", "text": "How?"}]),
            ("assistant", [{"type": "text", "text": "thus"}]),
        ]
        assert (sample["id"], sample["task"], sample["audios"]) == ("a", "s+t", [])
        assert Image.open(io.BytesIO(sample["images"][0]["bytes"])).size == (2, 2)

    def test_ask_begins_with_the_first_and_takes_each_task_once(self):
        askers = {name: lambda name=name: (f"{name}?", name * 2) for name in "abc"}
        for count, expected in ((1, 1), (2, 2), (9, 3)):
            tasks = [turn.task for turn in ask(random.Random(0), askers, "b", count)]
            assert len(tasks) == len(set(tasks)) == expected
            assert tasks[0] == "b"

    def test_ask_leaves_out_what_was_said(self):
        askers = {
            "shape": lambda: ("Which shape is red?", "star"),
            "colour": lambda: ("What colour is it?", "red"),
            "caption": lambda: ("What is it?", "red star"),
        }
        after = {first: {one.task for one in ask(random.Random(0), askers, first, 3)[1:]} for first in askers}
        assert after["caption"] == after["shape"] == set()  # "red" is in the question already
        assert after["colour"] <= {"shape", "caption"} and after["colour"]


class TestDigits:
    def test_every_image_is_in_exactly_one_split(self):
        splits = [
            {pixels.tobytes() for pixels, _ in digits.digits(split)} for split in ("train", "validation", "test")
        ]
        assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])
        assert sum(len(digits.digits(split)) for split in ("train", "validation", "test")) == 1797
        assert 0.15 < len(digits.digits("test")) / 1797 < 0.25

    def test_answers(self):
        held_out = digits.digits("test")
        for index, sample in enumerate(draw_samples("digits", "test", 300)):
            digit = held_out[index % len(held_out)][1]
            name = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"]
            expected = {
                "Describe the picture.": f"a handwritten {name[digit]}",
                "What does the picture show?": f"a handwritten {name[digit]}",
                "Which digit is this?": name[digit],
                "Which digit is written here?": name[digit],
                "Which digit comes next?": name[digit + 1],
                "What comes after this digit?": name[digit + 1],
                "Is this digit even or odd?": "odd" if digit in (1, 3, 5, 7, 9) else "even",
                "Is it even or odd?": "odd" if digit in (1, 3, 5, 7, 9) else "even",
            }
            for question, answer in turns_of(sample):
                assert answer == expected[question]

    def test_training_names_digits_first(self):
        assert {sample["task"] for sample in draw_samples("digits", "train", 100, 1)} == {
            "digit_caption",
            "digit_name",
        }

    def test_held_out_images_are_upright_and_whole(self):
        """Undistorted, the image shrunk to the original's raster is the original again."""
        pixels, _ = digits.digits("test")[0]
        image = digits.paint(pixels, random.Random(0), vary=False).convert("L")
        side = round(8 / 0.21)
        start = (digits.SIZE - side) // 2
        cut = image.crop((start, start, start + side, start + side)).resize((8, 8), Image.Resampling.BOX)
        assert np.corrcoef(255 - np.asarray(cut, dtype=float).ravel(), pixels.ravel())[0, 1] > 0.95


class TestScenes:
    def test_what_is_held_out_is_never_described_in_training(self):
        captions = {split: set() for split in ("train", "test")}
        for split, found in captions.items():
            for sample in draw_samples("scenes", split, 1500):
                found |= {answer for question, answer in turns_of(sample) if question in CAPTION_QUESTIONS}
        assert len(captions["test"]) > 150
        assert not captions["train"] & captions["test"]

    @pytest.mark.parametrize("kind", ["single", "pair", "group"])
    def test_drawn_scenes_hold_what_they_should(self, kind):
        rng = random.Random(1)
        for held_out in (False, True) * 100:
            scene = scenes.draw_scene(rng, kind, held_out)
            assert (scene.kind, scenes.is_held_out(scene)) == (kind, held_out)
            colours, shapes = ([getattr(thing, name) for thing in scene.things] for name in ("colour", "shape"))
            assert len(set(colours)) == len(set(shapes)) == len(scene.things) == (2 if kind == "pair" else 1)
            cells = [cell for thing in scene.things for cell in thing.cells]
            assert len(cells) == len(set(cells))
            low, high = {"single": (1, 1), "pair": (2, 2), "group": (2, 5)}[kind]
            assert low <= len(cells) <= high

    def test_training_meets_single_things_first_and_every_question_that_the_test_asks(self):
        first = {sample["task"] for sample in draw_samples("scenes", "train", 100, turns=1)}
        assert first == {"scene_caption", "scene_colour", "scene_position", "scene_shape"}
        assert {kind for _, kind in scenes.FIRST_PRACTICE} == {"single"}
        assert set(scenes.PRACTICE) == {(task, kind) for task, kinds in scenes.TASKS.items() for kind in kinds}

    def test_answers_agree_with_the_caption(self):
        """The caption alone, read by other code, answers every other question."""
        shapes, checked = "|".join(scenes.FORMATS), Counter()
        for sample in draw_samples("scenes", "test", 900):
            turns = turns_of(sample)
            caption = next((a for q, a in turns if q in CAPTION_QUESTIONS), None)
            if caption is None:
                continue
            things = {
                shape: (count, colour) for count, colour, shape in re.findall(rf"(\w+) (\w+) ({shapes})", caption)
            }
            ((first, (count, colour)), *_), (_, other) = things.items(), list(things.values())[-1]
            side = "left" if " left of " in caption else "above"
            near, far = ("on the left", "on the right") if side == "left" else ("at the top", "at the bottom")
            expected = {
                "How many shapes are there?": count,
                "Which shape is this?": first,
                "Which shapes are these?": f"{first}es" if first == "cross" else f"{first}s",
                "What colour is the shape?": colour,
                "What colour are the shapes?": colour,
                "Where is the shape?": caption.partition(" at the ")[2],
                "Where in the picture is the shape?": caption.partition(" at the ")[2],
                f"What colour is the shape {near}?": colour,
                f"What colour is the shape {far}?": other,
                **{f"Which shape is {colour}?": shape for shape, (_, colour) in things.items()},
                **dict.fromkeys(CAPTION_QUESTIONS, caption),
            }
            for question, answer in turns:
                assert answer == expected[question]
                checked[re.sub(rf"\b({shapes}|{'|'.join(scenes.COLOURS)})\b", "X", question)] += 1
        assert len(checked) == 14 and min(checked.values()) > 5

    @pytest.mark.parametrize("shape", scenes.FORMATS)
    @pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 1)])
    def test_images_show_the_thing_where_it_is(self, shape, cell):
        for seed in range(4):
            scene = scenes.Scene("single", (scenes.Thing("blue", shape, (cell,)),))
            pixels = np.asarray(scenes.paint(scene, random.Random(seed)), dtype=float)
            is_blue = pixels[..., 2] - pixels[..., 0] > 90
            rows, columns = np.nonzero(is_blue)
            assert 40 < len(rows) < 200  # of 16 x 16 pixels in a cell
            assert (rows.mean() // 16, columns.mean() // 16) == cell

    def test_no_answer_is_much_likelier_than_the_others(self):
        """What guessing could reach."""
        answers = {task: Counter() for task in scenes.TASKS}
        for sample in draw_samples("scenes", "test", 1200, turns=1):
            answers[sample["task"]][answer_of(sample)] += 1
        shares = {task: max(counts.values()) / counts.total() for task, counts in answers.items()}
        assert shares["scene_caption"] < 0.1 and max(shares.values()) < 0.4

    def test_place_names(self):
        names = {scenes.place_name((row, column)) for row in range(3) for column in range(3)}
        assert names == {
            *("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
        }


class TestMelodies:
    def test_drawn_melodies_are_held_out_or_not(self):
        rng = random.Random(0)
        found = {False: set(), True: set()}
        for kind in ("notes", "glide"):
            for held_out in (False, True) * 500:
                melody = melodies.draw_melody(rng, kind, held_out)
                assert (melody.kind, melodies.is_held_out(melody)) == (kind, held_out)
                assert melody.semitone in melodies.SEMITONES[melody.register]
                found[held_out].add((melody.instrument, melody.what, melody.semitone))
        assert not found[False] & found[True]
        assert 0.1 < len(found[True]) / (len(found[True]) + len(found[False])) < 0.25

    def test_splits_draw_what_they_should(self, monkeypatch):
        drawn = []
        monkeypatch.setattr(melodies, "synthesise", lambda melody, rng: drawn.append(melody) or np.ones(100))
        for split in ("train", "validation", "test"):
            drawn.clear()
            draw_samples("audio", split, 100)
            assert {melodies.is_held_out(melody) for melody in drawn} == {split == "test"}

    def test_answers(self, monkeypatch):
        drawn = []
        monkeypatch.setattr(melodies, "synthesise", lambda melody, rng: drawn.append(melody) or np.ones(100))
        for sample, melody in zip(draw_samples("audio", "test", 200), drawn, strict=True):
            drawn_words = {melody.instrument, melody.register, melody.what}
            for question, answer in turns_of(sample):
                if question in ("Describe the sound.", "What do you hear?"):
                    plural = melody.kind == "notes" and melody.what != "one"
                    assert set(answer.split()) - {"a"} == drawn_words | {"notes" if plural else "note"}
                else:
                    assert answer in drawn_words
                    assert (answer in melodies.INSTRUMENTS) == ("instrument" in question)
                    assert (answer in melodies.NUMBERS) == ("many" in question)
                    assert (answer in melodies.SEMITONES) == ("high or low" in question)

    @pytest.mark.parametrize("register", melodies.SEMITONES)
    @pytest.mark.parametrize("instrument", melodies.INSTRUMENTS)
    def test_pitch_is_as_said(self, instrument, register):
        """Measured in the spectrum: no partial below the pitch, a strong one at it."""
        semitone = melodies.SEMITONES[register][2]
        wave = melodies.synthesise(melodies.Melody(instrument, "one", register, semitone), random.Random(0))
        power = np.abs(np.fft.rfft(wave)) ** 2
        frequencies = np.fft.rfftfreq(len(wave), 1 / melodies.RATE)
        lowest = frequencies[power > 0.1 * power.max()][0]
        assert 0.9 < lowest / (melodies.LOWEST_PITCH * 2 ** (semitone / 12)) < 1.1

    @pytest.mark.parametrize("instrument", melodies.INSTRUMENTS)
    @pytest.mark.parametrize("what", melodies.NUMBERS)
    def test_as_many_notes_as_said(self, instrument, what):
        """Counted in the wave: between two notes there is a pause."""
        for seed in range(3):
            wave = melodies.synthesise(melodies.Melody(instrument, what, "low", 6 * seed), random.Random(seed))
            level = np.array([np.abs(piece).max() for piece in np.array_split(wave, len(wave) * 100 // melodies.RATE)])
            loud = np.flatnonzero(level > 0.16 * level.max())  # hundredths of a second
            pauses = (np.diff(loud) > 5).sum()
            assert pauses == melodies.NUMBERS.index(what)

    @pytest.mark.parametrize("instrument", melodies.INSTRUMENTS)
    @pytest.mark.parametrize("what", melodies.DIRECTIONS)
    def test_glides_go_as_said(self, instrument, what):
        """Measured in the spectrum: the strongest frequency early in the note against later."""
        for seed in range(3):
            wave = melodies.synthesise(melodies.Melody(instrument, what, "low", 6 * seed), random.Random(seed))
            early, late = (wave[round(place * len(wave)) :][: melodies.RATE // 10] for place in (0.2, 0.55))
            peaks = [
                np.abs(np.fft.rfft(piece * np.hanning(len(piece))))[: len(piece) // 10].argmax()
                for piece in (early, late)
            ]
            assert (peaks[1] > peaks[0]) == (what == "rising")

    def test_waves_are_clean(self):
        for sample in draw_samples("audio", "test", 20):
            wave, rate = soundfile.read(io.BytesIO(sample["audios"][0]["bytes"]))
            assert rate == melodies.RATE
            assert np.isfinite(wave).all() and 0.2 < np.abs(wave).max() <= 1
            assert 0.15 < len(wave) / rate < 2


class TestText:
    def test_what_is_held_out_never_occurs_in_training(self):
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

    def test_answers(self):
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

    def test_translation_by_hand(self):
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
