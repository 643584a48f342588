"""VQA accuracy, by hand."""

import pytest

from training.evaluation.metrics.vqa_accuracy import VQAAccuracy, normalise, vqa_accuracy


@pytest.mark.parametrize(("times", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people(times, accuracy):
    # 2 of 10 said so: leaving one of the two out, 1/3; leaving one of the eight out, 2/3
    assert vqa_accuracy("red", ["red"] * times + ["blue"] * (10 - times)) == pytest.approx(accuracy)


def test_one_person_has_to_be_met_and_few_to_agree():
    assert vqa_accuracy("Red.", ["red"]) == 1.0
    assert vqa_accuracy("red", ["red", "red"]) == 1.0
    assert vqa_accuracy("red", ["red", "blue", "blue"]) == pytest.approx((0 + 0.5 + 0.5) / 3)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [("The two dogs!", "2 dogs"), ("don't know", "dont know"), ("1,000", "1000"), ("3.5", "3.5"), ("10:30", "10:30")],
)
def test_normalise(answer, normal):
    assert normalise(answer) == normal


def test_metric_averages():
    score = VQAAccuracy().compute(predictions=["red", "no"], references=[["red"] * 10, ["yes"] * 10])
    assert score["vqa_accuracy"] == 0.5 and (score["low"], score["high"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "language", "normal"),
    [
        ("एक कुत्ता।", None, "एक कुत्ता"),
        ("สีแดง", "th", "สีแดง"),
        ("红色。", "zh", "红色"),
        ("a casa", "pt", "a casa"),
        ("a house", "en", "house"),
        ("绿 色", "zh", "绿色"),
        ("４ 匹", "ja", "4 匹"),
        ("\u200fכלב", "he", "כלב"),
    ],
)
def test_normalise_keeps_the_marks_of_letters_and_the_words_of_other_languages(answer, language, normal):
    assert normalise(answer, language) == normal


def test_another_vowel_sign_is_another_answer():
    assert VQAAccuracy("hi").compute(predictions=["की"], references=[["का"]])["vqa_accuracy"] == 0
