"""SQuAD's F1 and exact match, with unanswerable questions (Rajpurkar et al. 2016, 2018)."""

import string
from collections import Counter

import regex

from training.data.prompts import NO_ANSWERS
from training.data.words import EUROPEAN, folded, is_mostly, join_unspaced, split_words
from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio, estimate_share


# Those that MLQA leaves out (Lewis et al. 2020), whose rules are SQuAD's for other languages; the Arabic one begins the word.
ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"\bال(?=\w)",
}


def normalise(answer: str, language: str | None = None) -> str:
    """As the official script: lower case, without punctuation and articles; the words for "no answer" become empty. Punctuation is
    that of ASCII in English, of all scripts elsewhere."""
    answer = folded(answer).strip()
    if answer.rstrip(".。।") in NO_ANSWERS.values():
        return ""
    answer = "".join(letter for letter in answer if letter not in string.punctuation)
    if language not in (None, "en") or not is_mostly(EUROPEAN, answer):
        answer = regex.sub(r"\p{P}", "", answer)
    articles = ARTICLES.get(language or "en")
    if articles:
        answer = regex.sub(articles, " ", answer)
    return join_unspaced(" ".join(answer.split()))


def is_exact(prediction: str, references: list[str], language: str | None = None) -> bool:
    return normalise(prediction, language) in [normalise(one, language) for one in references]


def f1(prediction: str, references: list[str], language: str | None = None) -> float:
    """The best harmonic mean of precision and recall of words; of characters where no blanks divide words, and in Korean, whose
    words end in particles (KorQuAD, Lim et al. 2019). "No answer" agrees only with itself."""
    cut = (lambda text: list(text.replace(" ", ""))) if language == "ko" else split_words
    said = cut(normalise(prediction, language))
    return max(word_f1(said, cut(normalise(one, language))) for one in references)


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
        exact = [is_exact(*pair, self.language) for pair in zip(predictions, references, strict=True)]
        estimates = {"f1": estimate_ratio(scores), "exact": estimate_share(exact)}
        answerable = [any(normalise(one, self.language) for one in right) for right in references]
        for name, kind in (("f1_answerable", True), ("f1_unanswerable", False)):
            part = [score for score, has in zip(scores, answerable, strict=True) if has is kind]
            if part:
                estimates[name] = estimate_ratio(part)
        return estimates

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [f1(*pair, self.language) for pair in zip(predictions, references, strict=True)]
