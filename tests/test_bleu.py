"""BLEU and chrF through sacrebleu."""

import pytest

from training.evaluation.metrics.bleu import Translation


def test_by_hand():
    score = Translation().compute(predictions=["the cat sat on the mat"], references=["the cat sat on a mat"])
    # n-grams in common: 5 of 6, 3 of 5, 2 of 4, 1 of 3; the same length
    assert score["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert 0 < score["chrf"] < 100


def test_samples_may_have_different_numbers_of_references():
    predictions = ["a dog ran away now", "the cat sat on the mat"]
    score = Translation().compute(
        predictions=predictions, references=[[predictions[0]], ["something else", predictions[1]]]
    )
    assert score["bleu"] == pytest.approx(100)


def test_the_interval_holds_the_value_and_has_a_width():
    right = ["the cat sat on the mat", "a dog ran away now", "no birds sing in the wood"] * 5
    predictions = [*right[:7], *["a cat is on the mat of the dog"] * 8]
    score = Translation().compute(predictions=predictions, references=right)
    assert 0 < score["low"] < score["bleu"] < score["high"] < 100
    assert score["chrf_low"] < score["chrf"] < score["chrf_high"]


def test_empty_predictions_score_zero():
    score = Translation().compute(predictions=["", ""], references=["a dog ran away", "a cat"])
    assert (score["bleu"], score["low"], score["high"]) == (0, 0, 0)
