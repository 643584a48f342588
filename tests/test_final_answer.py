"""Exact match of what stands after the last mark."""

import pytest

from training.evaluation.metrics.final_answer import FinalAnswer, final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("1 + 0 = 1 #### true", " true"), ("true", "true"), ("#### 1 #### 2", " 2"), ("1 = 1 ####", "")],
)
def test_what_stands_after_the_last_mark(text, answer):
    assert final_answer(text) == answer


def test_metric_computes():
    predictions = ["1 + 1 = 2 #### true", "true", "1 = 1 #### false", "true #### so"]
    score = FinalAnswer().compute(predictions=predictions, references=["true", "3 = 3 #### true", "true", "true"])
    assert score["final_answer"] == 0.5 and score["n"] == 4
