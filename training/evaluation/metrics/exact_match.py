"""Exact match: the share of predictions that are a right answer, letter by letter, outer blanks apart."""

from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_share


def exact_matches(predictions: list[str], references: list[list[str]]) -> list[bool]:
    """Which predictions are one of their references."""
    return [
        prediction.strip() in [one.strip() for one in right]
        for prediction, right in zip(predictions, references, strict=True)
    ]


class ExactMatch(AnswerMetric):
    """{"exact_match": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval (Wilson)."""

    measure = "exact_match"

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        return {"exact_match": estimate_share(exact_matches(predictions, references))}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [float(right) for right in exact_matches(predictions, references)]
