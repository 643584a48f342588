"""Number match: the share of answers whose last number is the right one (GSM8K, Cobbe et al. 2021, section 2)."""

import re
from decimal import Decimal

from training.evaluation.metrics.answers import AnswerMetric, estimate_share
from training.evaluation.metrics.final_answer import final_answer


NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def last_number(text: str) -> Decimal | None:
    """The last number after the last mark, or of the whole text where there is none; `1,000.0` and `1000` are the same."""
    found = NUMBER.findall(final_answer(text))
    return Decimal(found[-1].replace(",", "")) if found else None


class NumberMatch(AnswerMetric):
    """{"number_match": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval (Wilson)."""

    measure = "number_match"
    about = ("share whose last number after `####` is right", "GSM8K", "own")
    interval = staticmethod(estimate_share)

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        """An answer without a number is wrong."""
        numbers = map(last_number, predictions)
        targets = [set(map(last_number, right)) for right in references]
        return [float(number in right - {None}) for number, right in zip(numbers, targets, strict=True)]
