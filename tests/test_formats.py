"""Shapes: records as they come from the Hub, and the rows they become."""

import pytest

from training.data.formats import FORMATS, NO_ANSWER, BrokenSample, MissingColumn, fill, format_options, lookup
from training.data.samples import answer_of, references_of


PNG, WAV = b"png bytes", b"wav bytes"
IMAGE, SOUND = {"bytes": PNG, "path": None}, {"bytes": WAV, "path": None}


def kinds(turn: dict) -> list[str]:
    return [part["type"] for part in turn["content"]]


def said(row: dict) -> list[tuple[str, str]]:
    """(role, parts as text, a medium as its mark)."""
    texts = {"image": "<image>", "audio": "<audio>", "video": "<video>"}
    return [
        (turn["role"], "|".join(texts.get(part["type"], part["text"]) for part in turn["content"]))
        for turn in row["messages"]
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
        row = FORMATS["messages"](record)
        assert said(row) == [("system", "Be brief."), ("user", "Look:|<image>"), ("assistant", "A cat.")]
        assert row["images"] == [IMAGE] and row["audios"] == []

    def test_messages_as_strings_get_their_media_first(self):
        record = {
            "messages": [{"role": "user", "content": "Same?"}, {"role": "assistant", "content": "No."}],
            "images": [IMAGE, IMAGE],
            "audios": [SOUND],
        }
        row = FORMATS["messages"](record)
        assert said(row)[0] == ("user", "<audio>|<image>|<image>|Same?")

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
        row = FORMATS["llava"](record)
        assert said(row) == [
            ("user", "<image>|What is it?"),
            ("assistant", "A cat."),
            ("user", "Sure?"),
            ("assistant", "Yes."),
        ]
        assert row["images"] == [{"bytes": None, "path": "train/1.jpg"}]

    def test_llava_without_image(self):
        turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi!"}]
        assert FORMATS["llava"]({"conversations": turns, "image": None})["images"] == []
        assert FORMATS["llava"]({"conversations": turns})["images"] == []

    def test_videos_stand_where_their_marks_and_parts_are(self):
        turns = [{"from": "human", "value": "Here: <video> What happens?"}, {"from": "gpt", "value": "A fall."}]
        row = FORMATS["llava"]({"conversations": turns, "clip": "1.mp4"}, video="clip")
        assert said(row)[0] == ("user", "Here:|<video>|What happens?")
        assert row["videos"] == [{"bytes": None, "path": "1.mp4"}] and row["images"] == []
        part = {"type": "video", "text": None}
        messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A fall."}]
        assert FORMATS["messages"]({"messages": messages, "videos": ["1.mp4"]})["videos"] == row["videos"]
        row = FORMATS["labelled_media"]({"clip": "1.mp4", "label": "fall"}, video="clip", prompt="What happens?")
        assert said(row) == [("user", "<video>|What happens?"), ("assistant", "fall")] and len(row["videos"]) == 1

    def test_cauldron(self):
        texts = [{"user": "1?", "assistant": "a", "source": "x"}, {"user": "2?", "assistant": "b", "source": "x"}]
        row = FORMATS["cauldron"]({"texts": texts, "images": [IMAGE]})
        assert said(row) == [("user", "<image>|1?"), ("assistant", "a"), ("user", "2?"), ("assistant", "b")]

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
        row = FORMATS["labelled_media"](record, image="image", prompt="{sentence} True?", words=["no", "yes"])
        assert said(row) == [("user", "<image>|It is red. True?"), ("assistant", "yes")]
        by_name = {"label": "dog_bark", "audio": WAV}
        row = FORMATS["labelled_media"](by_name, audio="audio", prompt="What?", words={"dog_bark": "a dog"})
        assert answer_of(row) == "a dog" and row["audios"] == [SOUND]
        assert answer_of(FORMATS["labelled_media"]({"label": 7}, prompt="What?")) == "7"

    def test_a_label_without_word(self):
        with pytest.raises(BrokenSample, match="label 3 has no word"):
            FORMATS["labelled_media"]({"label": 3}, prompt="What?", words=["no", "yes"])

    def test_captions(self):
        record = {"image": IMAGE, "caption": ["A cat.", "One cat. "]}
        (row,) = FORMATS["captions"](record)
        assert references_of(row) == ["A cat.", "One cat."]
        rows = FORMATS["captions"](record, each=True)
        assert [answer_of(row) for row in rows] == ["A cat.", "One cat."] == [references_of(row)[0] for row in rows]

    def test_vqa_learns_the_commonest_answer_and_judges_by_all(self):
        answers = [
            {"answer": "cat", "answer_id": 1},
            {"answer": "dog", "answer_id": 2},
            {"answer": "dog", "answer_id": 3},
        ]
        record = {"image": IMAGE, "question": "What?", "answers": answers}
        row = FORMATS["vqa"](record, answer="answers.answer")
        assert answer_of(row) == "dog" and references_of(row) == ["cat", "dog", "dog"]

    def test_choices(self):
        record = {"image": [], "question": "Which?", "choices": ["red", "blue"], "answer": 1}
        row = FORMATS["vqa"](record, choices="choices")
        assert said(row) == [("user", "Which?\nA. red\nB. blue"), ("assistant", "B")]

    def test_asr(self):
        row = FORMATS["asr"]({"audio": SOUND, "text": "hello"})
        assert kinds(row["messages"][0]) == ["audio", "text"] and answer_of(row) == "hello"

    @pytest.mark.parametrize(
        "record", [{"en": "A dog.", "de": "Ein Hund."}, {"translation": {"en": "A dog.", "de": "Ein Hund."}}]
    )
    def test_translation(self, record):
        row = FORMATS["translation"](record)
        assert said(row) == [("user", "Translate en to de: A dog."), ("assistant", "Ein Hund.")]
        assert answer_of(FORMATS["translation"](record, source="de", target="en", prompt="{text}")) == "A dog."

    def test_summarisation_with_several_references(self):
        record = {"document": "Long.", "s1": "a", "s2": "b"}
        row = FORMATS["summarisation"](record, answer="s1", references=["s1", "s2"])
        assert answer_of(row) == "a" and references_of(row) == ["a", "b"]

    def test_extractive_qa(self):
        record = {"context": "In 1973.", "question": "When?", "answers": {"text": ["1973", "In 1973", "1973"]}}
        row = FORMATS["extractive_qa"](record)
        assert said(row)[0] == ("user", "In 1973.\n\nWhen?") and answer_of(row) == "1973"
        nothing = {**record, "answers": {"text": []}}
        assert answer_of(FORMATS["extractive_qa"](nothing)) == NO_ANSWER

    def test_instructions(self):
        record = {"instruction": "Shorten.", "input": "a b", "output": "a"}
        assert said(FORMATS["instructions"](record))[0] == ("user", "Shorten.\n\na b")
        assert said(FORMATS["instructions"]({**record, "input": ""}))[0] == ("user", "Shorten.")

    @pytest.mark.parametrize("answer", [None, "  ", []])
    def test_no_answer_is_broken(self, answer):
        with pytest.raises(BrokenSample, match="answer"):
            FORMATS["prompt_answer"]({"q": "?", "answer": answer}, prompt="{q}", answer="answer")


class TestText:
    def test_windows_hold_every_character_once(self):
        text = "abcdefghij"
        rows = FORMATS["text"]({"text": text}, window=4)
        assert [said(row) for row in rows] == [[("assistant", piece)] for piece in ("abcd", "efgh", "ij")]
        assert [said(row) for row in FORMATS["text"]({"text": text})] == [[("assistant", text)]]

    def test_blank(self):
        with pytest.raises(BrokenSample, match="blank"):
            FORMATS["text"]({"text": " \n"})


@pytest.mark.parametrize("name", FORMATS)
def test_every_shape_says_its_options(name):
    options = format_options(name)
    assert "record" not in options and "options" not in options
    assert ("prompt" in options) == (name not in ("messages", "llava", "cauldron", "text", "rows"))
