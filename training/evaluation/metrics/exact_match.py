"""Exact match: the share of predictions that equal a reference, apart from white space at both ends."""

from training.data.words import composed
from training.evaluation.metrics.answers import AnswerMetric, estimate_share


def exact_matches(predictions: list[str], references: list[list[str]]) -> list[float]:
    """1 for each prediction that is one of its references, else 0. How Unicode composes a letter of its marks does not count (the same
    Korean or Vietnamese text exists in two forms), nor does what cannot be seen."""
    return [
        float(composed(prediction).strip() in [composed(one).strip() for one in right])
        for prediction, right in zip(predictions, references, strict=True)
    ]


class ExactMatch(AnswerMetric):
    """{"exact_match": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval (Wilson)."""

    measure = "exact_match"
    about = ("share of answers that match a reference exactly", "short answers", "own")
    interval = staticmethod(estimate_share)

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return exact_matches(predictions, references)
