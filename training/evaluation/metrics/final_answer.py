"""Final answer: exact match of what follows the last `####`, for models that write their reasoning before it."""

from training.data.samples import FINAL_MARK
from training.evaluation.metrics.answers import AnswerMetric, estimate_share
from training.evaluation.metrics.exact_match import exact_matches


def final_answer(text: str) -> str:
    """What follows the last mark; the whole text where there is none."""
    return text.rpartition(FINAL_MARK)[2]


class FinalAnswer(AnswerMetric):
    """{"final_answer": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval (Wilson)."""

    measure = "final_answer"
    about = ("exact match of what follows `####`, after the reasoning", "answers with reasoning", "own")
    interval = staticmethod(estimate_share)

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        references = [[final_answer(one) for one in right] for right in references]
        return exact_matches([final_answer(one) for one in predictions], references)
