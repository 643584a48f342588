"""Words of languages with and without blanks between them."""

import re
import unicodedata

import pytest

from training.data.words import (
    EUROPEAN,
    SPACED,
    composed,
    folded,
    is_mostly,
    join_unspaced,
    language_code,
    scaled,
    split_words,
    words_of,
    written_length,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, Mr. O_x 3.5!", ["don", "t", "stop", "mr", "o_x", "3", "5"]),
        ("我用Python 3写。", ["我", "用", "python", "3", "写"]),
        ("東京タワーです", ["東", "京", "タ", "ワ", "ー", "で", "す"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("العَرَبِيَّة، نعم؟", ["العَرَبِيَّة", "نعم"]),
        ("나는 학교에 간다.", ["나는", "학교에", "간다"]),
        ("für Übung", ["für", "übung"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("می‌خواهم بروم", ["می‌خواهم", "بروم"]),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    "text", ["The cat's 2nd hat, x_1 — no: 3.5% (or ½)!", "Ça va où? Straße ÆØÅ", "Привет, мир 12"]
)
def test_european_words_are_what_they_always_were(text):
    assert words_of(text) == re.findall(r"\w+", text.lower())
    assert split_words(text) == text.split()


def test_splitting_keeps_punctuation():
    assert split_words("He said: 你好, ok") == ["He", "said:", "你", "好", ",", "ok"]


def test_blanks_between_characters_go():
    assert join_unspaced("我 爱 Python 3 ที่ นี่ a b") == "我爱 Python 3 ที่นี่ a b"


def test_a_word_is_several_characters():
    assert scaled(["a"] * 9, 5) == scaled(words_of("나는 학교에 간다"), 5) == 5
    assert scaled(words_of("今天天气很好"), 5) == 10
    assert scaled(words_of("วันนี้อากาศดี"), 5) == 20
    assert scaled([], 5) == 5


def test_scripts_and_lengths():
    assert all(is_mostly(EUROPEAN, text) for text in ("The cat", "Привет", "αβγ", "12!", ""))
    unspaced, spaced = ("你好", "かな", "ไทย", "ខ្មែរ"), ("مرحبا", "हिन्दी", "한국어", "שלום")
    assert not any(is_mostly(EUROPEAN, text) for text in unspaced + spaced)
    assert all(is_mostly(SPACED, text) for text in spaced) and not any(is_mostly(SPACED, text) for text in unspaced)
    assert (written_length("abc"), written_length("你好a"), written_length("한글"), written_length("हि")) == (
        3,
        5,
        4,
        2,
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (unicodedata.normalize("NFD", "각각 ế"), "각각 ế"),
        ("\u200fכלב\u200e", "כלב"),
        ("ຂ້ອຍ\u200bຮັກ", "ຂ້ອຍຮັກ"),
        ("Bahn\u00adhof\ufeff", "Bahnhof"),
    ],
)
def test_spellings_that_look_the_same_are_made_one(text, same):
    assert composed(text) == same and words_of(text) == words_of(same)
    assert written_length(text) == written_length(same)


def test_what_joins_letters_is_spelling():
    assert composed("ක්\u200dෂ") == "ක්\u200dෂ" and words_of("ක්\u200dෂ") == ["ක්\u200dෂ"]


def test_widths_of_east_asia_are_folded_and_nothing_else():
    assert folded("ＰＹＴＨＯＮ３　ｱﾌﾟﾘ ﾃﾞｰﾀ") == "python3 アプリ データ"
    assert folded("½ ﬁ x²") == "½ ﬁ x²"


def test_codes():
    assert [language_code(name) for name in ("en", "zh-Hans", "PT_br", "yue")] == ["en", "zh", "pt", "yue"]
    for name in ("chinese", "", "z", "12"):
        with pytest.raises(ValueError, match="no code of a language"):
            language_code(name)
