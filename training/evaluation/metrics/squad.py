"""SQuAD's F1 and exact match, with unanswerable questions (Rajpurkar et al. 2016, 2018)."""

import re
import string
from collections import Counter

from training.data.samples import NO_ANSWER
from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio, estimate_share


def normalise(answer: str) -> str:
    """As the official script: lower case, without punctuation and articles; the words for "no answer" become empty."""
    answer = answer.lower().strip()
    if answer.rstrip(".") == NO_ANSWER:
        return ""
    answer = "".join(letter for letter in answer if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


def is_exact(prediction: str, references: list[str]) -> bool:
    return normalise(prediction) in [normalise(one) for one in references]


def f1(prediction: str, references: list[str]) -> float:
    """The best harmonic mean of precision and recall of words; "no answer" agrees only with itself."""
    return max(word_f1(normalise(prediction).split(), normalise(one).split()) for one in references)


def word_f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))


class SQuAD(AnswerMetric):
    r"""{"f1", "low", "high", "exact", "exact_low", "exact_high", "n"} and, where there are such questions, the F1 of those with an
    answer as "f1_answerable" and of those without one as "f1_unanswerable". Intervals: bootstrap, Wilson for "exact"."""

    measure = "f1"
    about = (
        "F1, exact match; answerable and unanswerable questions apart",
        "SQuAD 2.0",
        "own, as the official script",
    )

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        scores = self.score_samples(predictions, references)
        exact = [is_exact(*pair) for pair in zip(predictions, references, strict=True)]
        estimates = {"f1": estimate_ratio(scores), "exact": estimate_share(exact)}
        answerable = [any(normalise(one) for one in right) for right in references]
        for name, kind in (("f1_answerable", True), ("f1_unanswerable", False)):
            part = [score for score, has in zip(scores, answerable, strict=True) if has is kind]
            if part:
                estimates[name] = estimate_ratio(part)
        return estimates

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [f1(*pair) for pair in zip(predictions, references, strict=True)]
