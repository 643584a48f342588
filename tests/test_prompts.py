"""The words of formats by language, and how a source takes them."""

import gzip
import json

import pytest

from training.data.formats import FORMATS, format_options
from training.data.loading import load_source
from training.data.prompts import NO_ANSWERS, WORDS, in_language
from training.data.samples import NO_ANSWER, answer_of, text_of
from training.recipe_sections import SourceArguments


RECORDS = {
    "captions": {"image": [], "caption": "x"},
    "asr": {"audio": [], "text": "x"},
    "translation": {"en": "x", "de": "x", "text": "x"},
    "summarization": {"document": "x", "summary": "x"},
    "extractive_qa": {"context": "x", "question": "x", "answers": {"text": []}},
}


def as_made(made: dict | list[dict]) -> dict:
    return made[0] if isinstance(made, list) else made


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("name", RECORDS)
def test_every_format_has_words_in_every_language(language, name):
    assert set(WORDS[language]) == set(RECORDS)
    sample = as_made(FORMATS[name](RECORDS[name], **in_language(name, language)))
    word = answer_of(sample) if name == "extractive_qa" else text_of(sample["messages"][0])
    assert word and "{" not in word
    assert (
        word
        == as_made(FORMATS[name](RECORDS[name], **in_language(name, f"{language}-XX")))["messages"][
            -1 if name == "extractive_qa" else 0
        ]["content"][-1]["text"]
    )


@pytest.mark.parametrize("name", RECORDS)
def test_english_is_the_default(name):
    assert FORMATS[name](RECORDS[name]) == FORMATS[name](RECORDS[name], **in_language(name, "en"))
    assert NO_ANSWERS["en"] == NO_ANSWER


def test_formats_without_words_take_no_language():
    assert {name for name in FORMATS if "language" in format_options(name)} == set(RECORDS)


class TestSource:
    @pytest.fixture
    def source(self, tmp_path):
        with gzip.open(tmp_path / "news.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(json.dumps({"document": "长文。", "summary": "短。"}, ensure_ascii=False))

        def make(**options):
            return SourceArguments(
                format="summarization", files=str(tmp_path / "news.jsonl.gz"), split="train", options=options
            )

        return make

    def test_takes_the_words_of_its_language(self, source):
        (sample,) = load_source(source(language="zh"), None)
        assert text_of(sample["messages"][0]) == "概括：\n长文。"

    def test_keeps_a_prompt_of_its_own(self, source):
        (sample,) = load_source(source(language="zh", prompt="{document} TL;DR"), None)
        assert text_of(sample["messages"][0]) == "长文。 TL;DR"

    def test_a_language_without_words_names_the_way_out(self, source):
        with pytest.raises(ValueError, match=r"no words of its own in the language 'sw', but in ar, .*write `prompt`"):
            load_source(source(language="sw"), None)
        with pytest.raises(ValueError, match="'chinese' is no code of a language"):
            load_source(source(language="chinese"), None)
