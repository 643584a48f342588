"""Word and character error rate through jiwer."""

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
