"""GSM8K's number match."""

from decimal import Decimal

import pytest

from training.evaluation.metrics.number_match import NumberMatch, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 eggs.\n#### 7", "7"),
        ("#### 1,080", "1080"),
        ("#### $18.50.", "18.5"),
        ("first #### 3, then #### -12", "-12"),
        ("the answer is 5", "5"),
        ("#### .5", "0.5"),
        ("none at all", None),
        ("8 apples #### many", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_metric_computes():
    references = ["2 * 9 = 18\n#### 18", "#### 1,000", "#### 3"]
    score = NumberMatch().compute(predictions=["#### 18.0", "so 1000", "three"], references=references)
    assert score["number_match"] == pytest.approx(2 / 3) and score["n"] == 3


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [
        ("١٬٢٣٤٫٥", "ar", "1234.5"),
        ("答案是３．５", "zh", "3.5"),
        ("कुल १,००,०००", "hi", "100000"),
        ("1.234,5 Euro", "de", "1234.5"),
        ("1\u202f234,5", "fr", "1234.5"),
        ("2,5", "pl", "2.5"),
        ("2,500", None, "2500"),
        ("2,500", "zh", "2500"),
        ("๑๒ บาท", "th", "12"),
        ("12\u202f345,6", "kk", "12345.6"),
        ("5 조각", "ko", "5"),
        ("3千克", "zh", "3"),  # a unit, not a thousand
    ],
)
def test_last_number_of_other_languages(text, language, number):
    assert last_number(text, language) == Decimal(number)


@pytest.mark.parametrize(
    ("reference", "language"), [("三十", "zh"), ("3万", "zh"), ("合計1億", "ja"), ("모두 5만", "ko")]
)
def test_references_in_words_are_refused(reference, language):
    with pytest.raises(
        ValueError, match=f"last number of '{reference}' is not in digits: write the reference in digits"
    ):
        NumberMatch(language).compute(predictions=["30"], references=[reference])


def test_digits_before_a_number_word_are_another_number():
    assert NumberMatch("zh").compute(predictions=["3万"], references=["3"])["number_match"] == 0
