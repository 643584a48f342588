"""ROUGE through rouge_score."""

import pytest

from training.evaluation.metrics.rouge import Rouge


def test_by_hand():
    score = Rouge().compute(predictions=["the gunman kill police"], references=["police killed the gunman"])
    # stems are the same four; one of three pairs ("the gunman") in common; longest common subsequence 2 of 4
    assert (score["rouge1"], score["rouge2"], score["rougeL"]) == pytest.approx((1.0, 1 / 3, 0.5))


def test_of_several_references_the_best_one_counts():
    score = Rouge().compute(predictions=["a b", "c"], references=[["x", "a b"], ["d", "e", "f"]])
    assert score["rouge1"] == 0.5 and score["n"] == 2
    assert (score["low"], score["high"]) == (0.0, 1.0)
