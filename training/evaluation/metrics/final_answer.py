"""Final answer: exact match of what stands after the last `####`, for models that write how they got there before it."""

from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_share
from training.evaluation.metrics.exact_match import exact_matches


MARK = "####"  # as GSM8K writes it before its results


def final_answer(text: str) -> str:
    """What stands after the last mark; the whole text where there is none."""
    return text.rpartition(MARK)[2]


def final_matches(predictions: list[str], references: list[list[str]]) -> list[bool]:
    """Which predictions end in the final answer of one of their references."""
    return exact_matches(
        [final_answer(one) for one in predictions], [[final_answer(one) for one in right] for right in references]
    )


class FinalAnswer(AnswerMetric):
    """{"final_answer": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval (Wilson)."""

    measure = "final_answer"

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        return {"final_answer": estimate_share(final_matches(predictions, references))}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [float(right) for right in final_matches(predictions, references)]
