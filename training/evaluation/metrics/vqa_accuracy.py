"""VQA accuracy: an answer that three other people gave is right, fewer give a part of it (Antol et al. 2015, section 3)."""

import re

from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio


ARTICLES = {"a", "an", "the"}
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ENOUGH = 3  # people


def normalise(answer: str) -> str:
    """As the official evaluation: lower case, no articles, no punctuation but the point and colon in numbers, number words as
    digits. Apostrophes are dropped, where the official one puts missing ones in by a list: `dont` is `don't` either way."""
    answer = answer.lower().replace("'", "").replace("’", "")
    answer = re.sub(r"(?<=\d),(?=\d)", "", answer)
    answer = re.sub(r"(?<!\d)[.:]|[.:](?!\d)|[^\w\s.:]", " ", answer)
    return " ".join(DIGITS.get(word, word) for word in answer.split() if word not in ARTICLES)


def vqa_accuracy(prediction: str, references: list[str]) -> float:
    """min(1, how many of the others said so / 3), averaged over leaving out each person in turn.

    Where fewer than four answered, all the others have to agree; one answer alone has to be met."""
    said = normalise(prediction)
    same = [normalise(one) == said for one in references]
    others = len(same) - 1
    if not others:
        return float(same[0])
    return sum(min(1.0, (sum(same) - one) / min(ENOUGH, others)) for one in same) / len(same)


class VQAAccuracy(AnswerMetric):
    """{"vqa_accuracy": mean, "low": mean, "high": mean, "n": count}, low and high bounding the 95% interval (bootstrap)."""

    measure = "vqa_accuracy"

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        return {"vqa_accuracy": estimate_ratio(self.score_samples(predictions, references))}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [vqa_accuracy(*pair) for pair in zip(predictions, references, strict=True)]
