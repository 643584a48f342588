"""VQA accuracy: an answer of at least three annotators is right, one of fewer in part (Antol et al. 2015, section 3)."""

import regex

from training.data.words import folded, join_unspaced
from training.evaluation.metrics.answers import AnswerMetric


ARTICLES = {"a", "an", "the"}
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ENOUGH = 3  # annotators


def normalise(answer: str, language: str | None = None) -> str:
    """As the official evaluation: lower case, no articles, no punctuation but the point and colon in numbers, number words as
    digits. Apostrophes are dropped, where the official one restores missing ones from a list: `dont` is `don't` either way.
    Articles and number words are those of English: of another language they stay."""
    answer = folded(answer).replace("'", "").replace("’", "")
    answer = regex.sub(r"(?<=\d),(?=\d)", "", answer)
    answer = regex.sub(r"(?<!\d)[.:]|[.:](?!\d)|[^\w\p{N}\s.:]", " ", answer)
    if language not in (None, "en"):
        return join_unspaced(" ".join(answer.split()))
    return join_unspaced(" ".join(DIGITS.get(word, word) for word in answer.split() if word not in ARTICLES))


def vqa_accuracy(prediction: str, references: list[str], language: str | None = None) -> float:
    """min(1, number of the others who agree / 3), averaged over leaving out each annotator in turn.

    With fewer than four annotators, all the others have to agree; with one, the answer has to be theirs."""
    answer = normalise(prediction, language)
    same = [normalise(one, language) == answer for one in references]
    others = len(same) - 1
    if not others:
        return float(same[0])
    return sum(min(1.0, (sum(same) - one) / min(ENOUGH, others)) for one in same) / len(same)


class VQAAccuracy(AnswerMetric):
    """{"vqa_accuracy": mean, "low": mean, "high": mean, "n": count}, low and high bounding the 95% interval (bootstrap)."""

    measure = "vqa_accuracy"
    about = ("agreement with ten annotators", "VQA", "own, as the official rules")

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [vqa_accuracy(*pair, self.language) for pair in zip(predictions, references, strict=True)]
