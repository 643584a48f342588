"""The demo's data: deterministic, held out as it says, and every answer is what the picture, sound or text shows."""

import io
import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest
import soundfile
from PIL import Image

from training.data import digits, scenes, sounds, text_tasks
from training.data.conversation import Exchange, ask, conversation
from training.data.demo import ROW_MAKERS, TASKS, load_demo
from training.data.rows import answer_of, text_of


def rows_of(source: str, split: str, count: int = 200, exchanges: int = 4) -> list[dict]:
    return [ROW_MAKERS[source](split, index, 0, exchanges) for index in range(count)]


def exchanges_of(row: dict) -> list[tuple[str, str]]:
    messages = row["messages"]
    return [(text_of(messages[i]), text_of(messages[i + 1])) for i in range(0, len(messages), 2)]


@pytest.mark.parametrize("source", TASKS)
class TestEverySource:
    def test_same_rows_at_every_call(self, source):
        first, second = (load_demo(None, "train", source, rows=12, exchanges=2) for _ in range(2))
        assert first.to_list() == second.to_list()

    def test_row_does_not_depend_on_how_many(self, source):
        few, many = (load_demo(None, "train", source, rows=rows).to_list() for rows in (5, 9))
        assert many[:5] == few

    def test_another_seed_and_split_draw_others(self, source):
        rows = load_demo(None, "train", source, rows=12).to_list()
        for other in (load_demo(None, "train", source, 12, seed=1), load_demo(None, "validation", source, 12)):
            assert [row["messages"] for row in rows] != [row["messages"] for row in other.to_list()]

    def test_single_exchanges_cover_every_task_equally(self, source):
        counts = Counter(row["task"] for row in rows_of(source, "test", 120, exchanges=1))
        assert set(counts) == set(TASKS[source])
        assert max(counts.values()) - min(counts.values()) <= 1

    def test_media_stand_in_the_first_question_only(self, source):
        kind = {"digits": "image", "scenes": "image", "sounds": "audio", "text": None}[source]
        for row in rows_of(source, "train", 20):
            parts = [[part["type"] for part in message["content"]] for message in row["messages"]]
            assert parts[0] == ([kind] if kind else []) + ["text"]
            assert all(part == ["text"] for part in parts[1:])
            assert (len(row["images"]), len(row["audios"])) == (kind == "image", kind == "audio")

    def test_ids_are_unique(self, source):
        ids = [row["id"] for split in ("train", "test") for row in rows_of(source, split, 30)]
        assert len(set(ids)) == len(ids)


def test_unknown_source_and_split_are_refused():
    with pytest.raises(ValueError, match="no source 'smells'; it has digits, scenes, sounds, text"):
        load_demo(None, "train", "smells", rows=1)
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_demo(None, "dev", "text", rows=1)


class TestConversation:
    def test_exact_row(self):
        row = conversation(
            "a", [Exchange("t", "Why?", "so"), Exchange("s", "How?", "thus")], image=Image.new("RGB", (2, 2))
        )
        assert [(message["role"], message["content"]) for message in row["messages"]] == [
            ("user", [{"type": "image", "text": None}, {"type": "text", "text": "Why?"}]),
            ("assistant", [{"type": "text", "text": "so"}]),
            ("user", [{"type": "text", "text": "How?"}]),
            ("assistant", [{"type": "text", "text": "thus"}]),
        ]
        assert (row["id"], row["task"], row["audios"]) == ("a", "s+t", [])
        assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (2, 2)

    def test_ask_takes_each_task_once(self):
        makers = {name: lambda name=name: (f"{name}?", name) for name in "abc"}
        for count, expected in ((1, 1), (2, 2), (9, 3)):
            tasks = [exchange.task for exchange in ask(random.Random(0), makers, "b", count)]
            assert len(tasks) == len(set(tasks)) == expected
            assert "b" in tasks


class TestDigits:
    def test_every_image_is_in_exactly_one_split(self):
        splits = [
            {pixels.tobytes() for pixels, _ in digits.digits(split)} for split in ("train", "validation", "test")
        ]
        assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])
        assert sum(len(digits.digits(split)) for split in ("train", "validation", "test")) == 1797
        assert 0.15 < len(digits.digits("test")) / 1797 < 0.25

    def test_answers(self):
        numbers = {name: number for number, name in enumerate(digits.NAMES)}
        for index, row in enumerate(rows_of("digits", "test", 300)):
            held_out = digits.digits("test")
            digit = held_out[index % len(held_out)][1]
            for question, answer in exchanges_of(row):
                asked = re.fullmatch(r"Is this an? (\w+)\?", question)
                if asked:
                    expected = "yes" if numbers[asked[1]] == digit else "no"
                elif question.startswith("Is this digit"):
                    true = {"even": digit % 2 == 0, "odd": digit % 2 == 1, "larger": digit > 4, "smaller": digit < 5}
                    expected = "yes" if true[question.split()[3].rstrip("?")] else "no"
                elif question.startswith("Which"):
                    expected = digits.NAMES[digit]
                else:
                    expected = f"a handwritten {digits.NAMES[digit]}"
                assert answer == expected, question

    def test_held_out_pictures_are_upright_and_whole(self):
        """Undistorted, the picture shrunk to the original's raster is the original again."""
        pixels, _ = digits.digits("test")[0]
        picture = digits.paint(pixels, random.Random(0), vary=False).convert("L")
        side = round(8 / 0.21)
        start = (digits.SIZE - side) // 2
        cut = picture.crop((start, start, start + side, start + side)).resize((8, 8), Image.Resampling.BOX)
        assert np.corrcoef(255 - np.asarray(cut, dtype=float).ravel(), pixels.ravel())[0, 1] > 0.95


class TestScenes:
    def test_held_out_pairings_never_occur_in_training(self):
        for split in ("train", "validation"):
            for row in rows_of("scenes", split, 600):
                for _, answer in exchanges_of(row):
                    for colour, shape in scenes.HELD_OUT:
                        assert not re.search(rf"\b{colour} {shape}", answer)

    @pytest.mark.parametrize("kind", ["single", "pair", "group", "mix"])
    def test_drawn_scenes_hold_what_they_should(self, kind):
        rng = random.Random(1)
        for held_out in (False, True) * 100:
            scene = scenes.draw_scene(rng, kind, held_out)
            looks = [(thing.colour, thing.shape) for thing in scene.things]
            assert any(look in scenes.HELD_OUT for look in looks) == held_out
            assert len(looks) == (2 if kind in ("pair", "mix") else 1)
            assert len({colour for colour, _ in looks}) == len({shape for _, shape in looks}) == len(looks)
            cells = [cell for thing in scene.things for cell in thing.cells]
            assert len(cells) == len(set(cells))

    def test_every_colour_and_shape_is_learnt_and_held_out(self):
        for seen in (set(scenes.HELD_OUT), {(c, s) for c in scenes.COLOURS for s in scenes.SHAPES} - scenes.HELD_OUT):
            assert {colour for colour, _ in seen} == set(scenes.COLOURS)
            assert {shape for _, shape in seen} == set(scenes.SHAPES)

    def test_answers_agree_with_the_caption(self):
        """The caption alone, read by other code, answers every other question."""
        numbers = {name: number for number, name in enumerate(scenes.NUMBERS, 1)}
        checked = Counter()
        for row in rows_of("scenes", "test", 600):
            exchanges = exchanges_of(row)
            caption = next(
                (a for q, a in exchanges if q in ("Describe the picture.", "What does the picture show?")), None
            )
            if caption is None:
                continue
            shapes = "|".join(scenes.SHAPES)
            found = re.findall(rf"(\w+) (\w+) ({shapes})", caption)
            things = {shape: (count, colour) for count, colour, shape in found}
            for question, answer in exchanges:
                words = question.rstrip("?").split()
                if question.startswith("What colour"):
                    shape = next(s for s in things if words[-1].startswith(s))
                    assert answer == things[shape][1]
                elif question.startswith(("Which shape", "What is the")):
                    assert things[answer][1] in words
                elif question == "How many shapes are there?":
                    assert numbers[answer] == sum(numbers[count] for count, _ in things.values())
                elif question.startswith("How many"):
                    shape = next(s for s in things if words[2].startswith(s))
                    assert answer == things[shape][0]
                elif question.startswith("Where"):
                    assert caption.endswith(f"at the {answer}")
                elif question.startswith("Is the"):
                    first, second = list(things)
                    true = {(first, second): "left of" if "left of" in caption else "above"}
                    true[second, first] = {"left of": "right of", "above": "below"}[true[first, second]]
                    asked = " ".join(words[3:-2])
                    assert answer == ("yes" if asked == true[words[2], words[-1]] else "no")
                else:
                    continue
                checked[words[0]] += 1
        assert min(checked[word] for word in ("What", "Which", "How", "Where", "Is")) > 20

    @pytest.mark.parametrize("shape", scenes.SHAPES)
    @pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 1)])
    def test_pictures_show_the_thing_where_it_is(self, shape, cell):
        for seed in range(4):
            scene = scenes.Scene("single", (scenes.Thing("blue", shape, (cell,)),))
            pixels = np.asarray(scenes.paint(scene, random.Random(seed)), dtype=float)
            is_blue = pixels[..., 2] - pixels[..., 0] > 90
            rows, columns = np.nonzero(is_blue)
            assert 40 < len(rows) < 200  # of 16 x 16 pixels in a cell
            assert (rows.mean() // 16, columns.mean() // 16) == cell

    def test_yes_and_no_are_balanced(self):
        answers = Counter(
            answer_of(row) for row in rows_of("scenes", "test", 1200, 1) if row["task"] == "scene_relation"
        )
        assert 0.4 < answers["yes"] / answers.total() < 0.6

    def test_place_names(self):
        names = {scenes.place_name((row, column)) for row in range(3) for column in range(3)}
        assert names == {
            *("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
        }


class TestSounds:
    def test_held_out_pairings_never_occur_in_training(self):
        rng = random.Random(0)
        for kind in ("notes", "glide"):
            for held_out in (False, True) * 100:
                sound = sounds.draw_sound(rng, kind, held_out)
                assert ((sound.instrument, sound.register, sound.what) in sounds.HELD_OUT) == held_out
                assert sound.kind == kind

    def test_splits_draw_from_their_pairings(self):
        for split in ("train", "validation", "test"):
            for row in rows_of("sounds", split, 200, exchanges=3):
                caption = next(
                    (a for q, a in exchanges_of(row) if q in ("Describe the sound.", "What do you hear?")), None
                )
                if caption is None:
                    continue
                words = caption.split()
                instrument, register = (
                    next(word for word in words if word in of) for of in (sounds.INSTRUMENTS, sounds.REGISTERS)
                )
                what = next(word for word in words if word in sounds.NUMBERS + sounds.DIRECTIONS)
                assert ((instrument, register, what) in sounds.HELD_OUT) == (split == "test")

    def test_training_plays_every_pair_of_attributes(self):
        """Only the threefold combination is new in what is held out."""
        every = set(itertools.product(sounds.INSTRUMENTS, sounds.REGISTERS, sounds.NUMBERS + sounds.DIRECTIONS))
        for left_out in range(3):
            pairs, learnt = (
                {one[:left_out] + one[left_out + 1 :] for one in ones} for ones in (every, every - sounds.HELD_OUT)
            )
            assert pairs == learnt

    @pytest.mark.parametrize("instrument", sounds.INSTRUMENTS)
    @pytest.mark.parametrize("what", sounds.NUMBERS)
    def test_as_many_notes_as_said(self, instrument, what):
        """Counted in the wave: between two notes there is a pause."""
        for seed in range(3):
            wave = sounds.synthesise(sounds.Sound(instrument, ("low", "high")[seed % 2], what), random.Random(seed))
            level = np.array([np.abs(piece).max() for piece in np.array_split(wave, len(wave) * 100 // sounds.RATE)])
            loud = np.flatnonzero(level > 0.16 * level.max())  # hundredths of a second
            pauses = (np.diff(loud) > 5).sum()
            assert pauses == sounds.NUMBERS.index(what)

    @pytest.mark.parametrize("instrument", sounds.INSTRUMENTS)
    @pytest.mark.parametrize("what", sounds.DIRECTIONS)
    def test_glides_go_as_said(self, instrument, what):
        """Measured in the spectrum: the strongest frequency early in the note against later."""
        for seed in range(3):
            wave = sounds.synthesise(sounds.Sound(instrument, ("low", "high")[seed % 2], what), random.Random(seed))
            early, late = (wave[round(place * len(wave)) :][: sounds.RATE // 10] for place in (0.2, 0.55))
            peaks = [
                np.abs(np.fft.rfft(piece * np.hanning(len(piece))))[: len(piece) // 10].argmax()
                for piece in (early, late)
            ]
            assert (peaks[1] > peaks[0]) == (what == "rising")

    def test_waves_are_clean(self):
        for row in rows_of("sounds", "test", 20):
            wave, rate = soundfile.read(io.BytesIO(row["audios"][0]["bytes"]))
            assert rate == sounds.RATE
            assert np.isfinite(wave).all() and 0.2 < np.abs(wave).max() <= 1
            assert 0.15 < len(wave) / rate < 2


class TestText:
    def test_what_is_held_out_never_occurs_in_training(self):
        rng = random.Random(0)
        for task, draw in text_tasks.TASKS.items():
            abouts = [draw(rng)[0] for _ in range(300)]
            assert 0.03 < sum(map(text_tasks.is_held_out, abouts)) / len(abouts) < 0.2, task
        for split in ("train", "test"):
            for row in rows_of("text", split, 200, exchanges=1):
                question = text_of(row["messages"][0])
                about = re.sub(r"^(Reverse the words|Sort the words|Translate into French|Summarise): ", "", question)
                about = re.sub(r" (Who|What) [^.]*\?$", "", about)
                if row["task"] != "text_summarise":
                    assert text_tasks.is_held_out(about) == (split == "test"), question

    def test_answers(self):
        for row in rows_of("text", "test", 300, exchanges=1):
            question, answer, task = text_of(row["messages"][0]), answer_of(row), row["task"]
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
