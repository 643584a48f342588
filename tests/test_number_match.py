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
