"""Formats: records as they come from the Hub and the samples they become, and data sets that bring their own files."""

import io
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from training.data.formats import FORMATS, OWN_DATA, BrokenSample, MissingColumn, fill, format_options, lookup
from training.data.samples import NO_ANSWER, answer_of, references_of


DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
PNG, WAV = b"png bytes", b"wav bytes"
IMAGE, AUDIO = {"bytes": PNG, "path": None}, {"bytes": WAV, "path": None}


def needs(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not at {DATA}")
    return DATA


def kinds(turn: dict) -> list[str]:
    return [part["type"] for part in turn["content"]]


def turns_of(sample: dict) -> list[tuple[str, str]]:
    """(role, parts as text, a medium as its mark)."""
    texts = {"image": "<image>", "audio": "<audio>", "video": "<video>"}
    return [
        (turn["role"], "|".join(texts.get(part["type"], part["text"]) for part in turn["content"]))
        for turn in sample["messages"]
    ]


class TestColumns:
    record = {"a": {"b": 1}, "answers": [{"answer": "x"}, {"answer": "y"}], "seg.png": b"0", "none": None}

    @pytest.mark.parametrize(
        ("column", "value"), [("a.b", 1), ("answers.answer", ["x", "y"]), ("seg.png", b"0"), ("a", {"b": 1})]
    )
    def test_lookup(self, column, value):
        assert lookup(self.record, column) == value

    def test_a_missing_column_names_those_there_are(self):
        with pytest.raises(MissingColumn, match=r"no column 'answer'; the nearest is \['answers'\]"):
            lookup(self.record, "answer")

    def test_an_empty_value_is_the_samples_fault(self):
        with pytest.raises(BrokenSample, match="'none' is empty"):
            lookup(self.record, "none")

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ("text.__class__", "its part '__class__' is asked of a str"),
            ("texts.upper", "its part 'upper' is asked of a list"),
            ("a.b.real", "its part 'real' is asked of a int"),
            ("text:>200000000", r"the nearest is \['text'\]"),
            ("text!r", r"the nearest is \['text'\]"),
            ("", "no column ''"),
        ],
    )
    def test_templates_are_plain_substitution(self, column, message):
        record = {"text": "abc", "texts": ["a", "b"], **self.record}
        with pytest.raises(MissingColumn, match=message):
            fill(f"{{{column}}}", record)

    def test_doubled_braces_are_braces(self):
        assert fill('{{"a": {a.b}}}', self.record) == '{"a": 1}'

    def test_fill_does_not_read_braces_in_values(self):
        assert fill("{q} ({a.b})", {"q": "what is {x}?", **self.record}) == "what is {x}? (1)"


class TestConversations:
    def test_messages_with_parts(self):
        record = {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image", "text": None}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            ],
            "images": [IMAGE],
        }
        sample = FORMATS["messages"](record)
        assert turns_of(sample) == [("system", "Be brief."), ("user", "Look:|<image>"), ("assistant", "A cat.")]
        assert sample["images"] == [IMAGE] and sample["audios"] == []

    def test_messages_as_strings_get_their_media_first(self):
        record = {
            "messages": [{"role": "user", "content": "Same?"}, {"role": "assistant", "content": "No."}],
            "images": [IMAGE, IMAGE],
            "audios": [AUDIO],
        }
        sample = FORMATS["messages"](record)
        assert turns_of(sample)[0] == ("user", "<audio>|<image>|<image>|Same?")

    def test_messages_with_media_inside(self):
        part = {"type": "image", "path": "cat.png"}
        record = {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A cat."}]}
        assert FORMATS["messages"](record)["images"] == [{"bytes": None, "path": "cat.png"}]

    def test_llava(self):
        record = {
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "A cat."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
            "image": "train/1.jpg",
        }
        sample = FORMATS["llava"](record)
        assert turns_of(sample) == [
            ("user", "<image>|What is it?"),
            ("assistant", "A cat."),
            ("user", "Sure?"),
            ("assistant", "Yes."),
        ]
        assert sample["images"] == [{"bytes": None, "path": "train/1.jpg"}]

    def test_llava_without_image(self):
        turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi!"}]
        assert FORMATS["llava"]({"conversations": turns, "image": None})["images"] == []
        assert FORMATS["llava"]({"conversations": turns})["images"] == []

    def test_videos_stand_where_their_marks_and_parts_are(self):
        turns = [{"from": "human", "value": "Here: <video> What happens?"}, {"from": "gpt", "value": "A fall."}]
        sample = FORMATS["llava"]({"conversations": turns, "clip": "1.mp4"}, video="clip")
        assert turns_of(sample)[0] == ("user", "Here:|<video>|What happens?")
        assert sample["videos"] == [{"bytes": None, "path": "1.mp4"}] and sample["images"] == []
        part = {"type": "video", "text": None}
        messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A fall."}]
        assert FORMATS["messages"]({"messages": messages, "videos": ["1.mp4"]})["videos"] == sample["videos"]
        sample = FORMATS["labelled_media"]({"clip": "1.mp4", "label": "fall"}, video="clip", prompt="What happens?")
        assert (
            turns_of(sample) == [("user", "<video>|What happens?"), ("assistant", "fall")]
            and len(sample["videos"]) == 1
        )

    def test_cauldron(self):
        texts = [{"user": "1?", "assistant": "a", "source": "x"}, {"user": "2?", "assistant": "b", "source": "x"}]
        sample = FORMATS["cauldron"]({"texts": texts, "images": [IMAGE]})
        assert turns_of(sample) == [("user", "<image>|1?"), ("assistant", "a"), ("user", "2?"), ("assistant", "b")]

    @pytest.mark.parametrize(
        ("turns", "image", "message"),
        [
            ([("human", "<image><image> Same?"), ("gpt", "No")], PNG, "2 image parts, but it comes with 1"),
            ([("human", "<image> What?"), ("gpt", "No")], None, "1 image parts, but it comes with 0"),
            ([("human", "What?")], None, "no assistant turn"),
            ([("gpt", "What?")], PNG, "no user turn"),
            ([("human", "What?"), ("gpt", "Yes")], 7, "holds int"),
        ],
    )
    def test_broken(self, turns, image, message):
        conversation = [{"from": role, "value": text} for role, text in turns]
        with pytest.raises(BrokenSample, match=message):
            FORMATS["llava"]({"conversations": conversation, "image": image})


class TestQuestions:
    def test_labelled_media(self):
        record = {"image": PNG, "label": 1, "sentence": "It is red."}
        sample = FORMATS["labelled_media"](record, image="image", prompt="{sentence} True?", words=["no", "yes"])
        assert turns_of(sample) == [("user", "<image>|It is red. True?"), ("assistant", "yes")]
        by_name = {"label": "dog_bark", "audio": WAV}
        sample = FORMATS["labelled_media"](by_name, audio="audio", prompt="What?", words={"dog_bark": "a dog"})
        assert answer_of(sample) == "a dog" and sample["audios"] == [AUDIO]
        assert answer_of(FORMATS["labelled_media"]({"label": 7}, prompt="What?")) == "7"

    def test_a_label_without_word(self):
        with pytest.raises(BrokenSample, match="label 3 has no word"):
            FORMATS["labelled_media"]({"label": 3}, prompt="What?", words=["no", "yes"])

    def test_captions(self):
        record = {"image": IMAGE, "caption": ["A cat.", "One cat. "]}
        (sample,) = FORMATS["captions"](record)
        assert references_of(sample) == ["A cat.", "One cat."]
        samples = FORMATS["captions"](record, each=True)
        assert (
            [answer_of(sample) for sample in samples]
            == ["A cat.", "One cat."]
            == [references_of(sample)[0] for sample in samples]
        )

    def test_vqa_learns_the_commonest_answer_and_judges_by_all(self):
        answers = [
            {"answer": "cat", "answer_id": 1},
            {"answer": "dog", "answer_id": 2},
            {"answer": "dog", "answer_id": 3},
        ]
        record = {"image": IMAGE, "question": "What?", "answers": answers}
        sample = FORMATS["vqa"](record, answer="answers.answer")
        assert answer_of(sample) == "dog" and references_of(sample) == ["cat", "dog", "dog"]

    def test_choices(self):
        record = {"image": [], "question": "Which?", "choices": ["red", "blue"], "answer": 1}
        sample = FORMATS["vqa"](record, choices="choices")
        assert turns_of(sample) == [("user", "Which?\nA. red\nB. blue"), ("assistant", "B")]

    def test_asr(self):
        sample = FORMATS["asr"]({"audio": AUDIO, "text": "hello"})
        assert kinds(sample["messages"][0]) == ["audio", "text"] and answer_of(sample) == "hello"

    @pytest.mark.parametrize(
        "record", [{"en": "A dog.", "de": "Ein Hund."}, {"translation": {"en": "A dog.", "de": "Ein Hund."}}]
    )
    def test_translation(self, record):
        sample = FORMATS["translation"](record)
        assert turns_of(sample) == [("user", "Translate en to de: A dog."), ("assistant", "Ein Hund.")]
        assert answer_of(FORMATS["translation"](record, source="de", target="en", prompt="{text}")) == "A dog."

    def test_summarisation_with_several_references(self):
        record = {"document": "Long.", "s1": "a", "s2": "b"}
        sample = FORMATS["summarization"](record, answer="s1", references=["s1", "s2"])
        assert answer_of(sample) == "a" and references_of(sample) == ["a", "b"]

    def test_extractive_qa(self):
        record = {"context": "In 1973.", "question": "When?", "answers": {"text": ["1973", "In 1973", "1973"]}}
        sample = FORMATS["extractive_qa"](record)
        assert turns_of(sample)[0] == ("user", "In 1973.\n\nWhen?") and answer_of(sample) == "1973"
        nothing = {**record, "answers": {"text": []}}
        assert answer_of(FORMATS["extractive_qa"](nothing)) == NO_ANSWER

    def test_instructions(self):
        record = {"instruction": "Shorten.", "input": "a b", "output": "a"}
        assert turns_of(FORMATS["instructions"](record))[0] == ("user", "Shorten.\n\na b")
        assert turns_of(FORMATS["instructions"]({**record, "input": ""}))[0] == ("user", "Shorten.")

    @pytest.mark.parametrize("answer", [None, "  ", []])
    def test_no_answer_is_broken(self, answer):
        with pytest.raises(BrokenSample, match="answer"):
            FORMATS["prompt_answer"]({"q": "?", "answer": answer}, prompt="{q}", answer="answer")


class TestText:
    def test_windows_hold_every_character_once(self):
        text = "abcdefghij"
        samples = FORMATS["text"]({"text": text}, window=4)
        assert [turns_of(sample) for sample in samples] == [[("assistant", piece)] for piece in ("abcd", "efgh", "ij")]
        assert [turns_of(sample) for sample in FORMATS["text"]({"text": text})] == [[("assistant", text)]]

    def test_blank(self):
        with pytest.raises(BrokenSample, match="blank"):
            FORMATS["text"]({"text": " \n"})


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_names_its_options(name):
    options = format_options(name)
    assert {"id", "media_folder", "detokenise"} <= set(options)
    assert "record" not in options and "options" not in options
    assert ("prompt" in options) == (name not in ("messages", "llava", "cauldron", "text", "samples"))


class TestOwnData:
    """Formats that bring their own data."""

    def test_their_options_are_those_of_the_loader(self):
        assert format_options("easy_vqa") == ["open_only"] and format_options("fsdd") == []

    @pytest.mark.parametrize("name", ["easy_vqa", "fsdd"])
    def test_missing_data_names_the_way_out(self, name: str, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"data\.root=FOLDER"):
            OWN_DATA[name].load(tmp_path, "train")

    def test_fsdd(self):
        samples = OWN_DATA["fsdd"].load(needs("fsdd"), "test")
        assert len(samples) == 300
        assert Counter(answer_of(sample) for sample in samples) == {str(digit): 30 for digit in range(10)}
        sample = samples[0]
        assert [item["type"] for item in sample["messages"][0]["content"]] == ["audio", "text"]
        wave, rate = soundfile.read(io.BytesIO(sample["audios"][0]["bytes"]))
        assert rate == 8000 and wave.ndim == 1

    def test_easy_vqa_asks_every_question_about_its_image(self):
        samples = OWN_DATA["easy_vqa"].load(needs("easy_vqa"), "validation")
        assert len(samples) == 3888
        for sample in samples.select(range(20)):
            assert [item["type"] for item in sample["messages"][0]["content"]] == ["image", "text"]
            assert len(sample["messages"]) == 2 and len(sample["images"]) == 1
        assert Image.open(io.BytesIO(samples[0]["images"][0]["bytes"])).size == (64, 64)
        without = OWN_DATA["easy_vqa"].load(DATA, "validation", open_only=True)
        assert {answer_of(sample) for sample in samples} - {answer_of(sample) for sample in without} == {"yes", "no"}
