"""SQuAD's F1 and exact match, by hand."""

import pytest

from training.data.prompts import NO_ANSWERS
from training.evaluation.metrics.squad import SQuAD, f1, is_exact


def test_words_in_common():
    # "Norman dukes of France" without the article: 2 of 4 words right, 2 of 2 found
    assert f1("the Norman dukes of France", ["Norman dukes"]) == pytest.approx(2 / 3)
    assert f1("red red", ["red"]) == pytest.approx(2 / 3)
    assert f1("green", ["blue", "a green"]) == 1.0


def test_case_articles_and_punctuation_do_not_count():
    assert is_exact("The U.S.A.!", ["usa"])
    assert not is_exact("usa today", ["usa"])


def test_no_answer_agrees_only_with_no_answer():
    assert f1("Unanswerable.", ["unanswerable"]) == f1("", ["unanswerable"]) == 1.0
    assert f1("unanswerable", ["blue"]) == f1("blue", ["unanswerable"]) == 0.0


@pytest.mark.parametrize("language", NO_ANSWERS)
def test_no_answer_is_known_in_every_language_that_has_words_for_it(language):
    score = SQuAD(language).compute(predictions=["x"], references=[NO_ANSWERS[language]])
    assert score["f1_unanswerable"] == 0.0 and "f1_answerable" not in score


def test_metric_tells_both_kinds_of_question_apart():
    score = SQuAD().compute(
        predictions=["blue whale", "unanswerable", "red", "unanswerable"],
        references=[["blue"], ["blue", "sea"], ["unanswerable"], ["unanswerable"]],
    )
    assert score["f1"] == pytest.approx((2 / 3 + 0 + 0 + 1) / 4)
    assert score["exact"] == 0.25
    assert score["f1_answerable"] == pytest.approx(1 / 3) and score["f1_unanswerable"] == 0.5


@pytest.mark.parametrize(
    ("language", "prediction", "reference", "score"),
    [
        (None, "北京市。", "北京", 2 * 2 / (3 + 2)),
        ("zh", "《北京市》", "北京", 2 * 2 / (3 + 2)),
        ("ja", "東京都", "「東京」", 2 * 2 / (3 + 2)),
        ("th", "กรุงเทพ", "กรุงเทพ", 1.0),
        (None, "मुंबई शहर।", "मुंबई", 2 / 3),
        ("ar", "القاهرة؟", "القاهرة", 1.0),
        ("de", "der Rhein", "Rhein", 1.0),
        ("es", "¿el río?", "río", 1.0),
        ("fr", "a bord", "bord", 2 / 3),  # not an English article
        (None, "der Rhein", "Rhein", 2 / 3),
        ("ar", "النيل", "نيل", 1.0),
        ("vi", "những con mèo", "con mèo", 1.0),
        ("ko", "부산은", "부산", 2 * 2 / (3 + 2)),  # characters, since the particle is part of the word
        ("he", "\u200fירושלים\u200e", "ירושלים", 1.0),
        ("km", "ភ្នំ\u200bពេញ", "ភ្នំពេញ", 1.0),
        ("zh", "ＩＢＭ公司", "IBM 公司", 1.0),
        ("zh", "无法回答。", "无法回答", 1.0),
        ("hi", "उत्तर नहीं है।", "उत्तर नहीं है", 1.0),
        ("ja", "回答不能", "回答者", 0.0),  # no answer shares nothing with an answer
    ],
)
def test_every_language_has_its_words_articles_and_punctuation(language, prediction, reference, score):
    assert SQuAD(language).compute(predictions=[prediction], references=[reference])["f1"] == pytest.approx(score)
