"""Word and character error rate through jiwer."""

import unicodedata

import pytest

from training.evaluation.metrics.error_rate import ErrorRate, normalise


def test_by_hand():
    score = ErrorRate().compute(predictions=["The cat, sat down.", "a"], references=["the cat sat", "a b"])
    # words: 1 too many, 1 missing, of 3 + 2; characters: 5 too many, 2 missing, of 11 + 3
    assert score["wer"] == pytest.approx(2 / 5) and score["cer"] == pytest.approx(7 / 14)


def test_the_nearest_reference_counts():
    assert ErrorRate().compute(predictions=["a b"], references=[["c", "a b"]])["wer"] == 0.0


def test_an_empty_prediction_is_all_wrong_and_a_longer_one_is_worse():
    assert ErrorRate().compute(predictions=[""], references=["a b"])["wer"] == 1.0
    assert ErrorRate().compute(predictions=["x y z w"], references=["a b"])["wer"] == 2.0


def test_normalise():
    assert normalise('Don\'t -- "Stop", he said') == "don't stop he said"


@pytest.mark.parametrize(
    ("prediction", "reference", "wer", "cer"),
    [
        ("今天天气很好。", "今天天气不好", 1 / 6, 1 / 6),
        ("今天 天气 不好", "今天天气不好", 0, 0),  # blanks are no errors
        ("我用 Python 写", "我用Python写", 0, 2 / 9),  # beside Latin words they count as characters
        ("東京です", "東京だ", 2 / 3, 2 / 3),
        ("ที่นี่", "ที่นั่น", 1 / 3 + 1 / 3, 2 / 7),
        ("मौसम अच्छी है", "मौसम अच्छा है", 1 / 3, 1 / 13),  # a vowel sign is an error
        ("الطقس جميل اليوم", "الطقس، جميل غدا؟", 1 / 3, 5 / 14),
        ("나는 학교에 갔다", "나는 학교에 간다", 1 / 3, 1 / 9),
        (unicodedata.normalize("NFD", "나는 갔다"), "나는 갔다", 0, 0),
        ("Schiff\u00adfahrt", "Schifffahrt", 0, 0),
        ("ＯＫ、はい", "ok はい", 0, 0),
    ],
)
def test_every_script_has_words_and_characters(prediction, reference, wer, cer):
    score = ErrorRate().compute(predictions=[prediction], references=[reference])
    assert (score["wer"], score["cer"]) == pytest.approx((wer, cer))
