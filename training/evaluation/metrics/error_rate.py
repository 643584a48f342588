"""Word and character error rate of transcripts, by jiwer."""

import jiwer
import regex

from training.data.words import folded, join_unspaced, split_words
from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio


def normalise(text: str) -> str:
    """Lower case, without punctuation but the apostrophe in a word: these are spelling, not recognition. Neither are blanks between
    the characters of a script that needs none."""
    plain = regex.sub(r"(?<!\w)'|'(?!\w)|[^\w\p{N}\s']|_", " ", folded(text).replace("’", "'"))
    return join_unspaced(" ".join(plain.split()))


def count_words(reference: str, prediction: str) -> jiwer.WordOutput:
    return jiwer.process_words(*(" ".join(split_words(text)) for text in (reference, prediction)))


def count_errors(process, predictions: list[str], references: list[list[str]]) -> tuple[list[int], list[int]]:
    """Substitutions, deletions and insertions of each sample and the length of its reference, of several references those of the nearest."""
    errors, lengths = [], []
    for prediction, right in zip(predictions, references, strict=True):
        counted = [process(normalise(one), normalise(prediction)) for one in right]
        pairs = [
            (out.substitutions + out.deletions + out.insertions, out.hits + out.substitutions + out.deletions)
            for out in counted
        ]
        wrong, length = min(pairs, key=lambda pair: pair[0] / max(pair[1], 1))
        errors.append(wrong)
        lengths.append(length)
    return errors, lengths


class ErrorRate(AnswerMetric):
    r"""{"wer", "low", "high", "cer", "cer_low", "cer_high", "n"}: all errors over the length of all references, so 0 is best and more
    than 1 is possible; intervals by bootstrap over samples. Case and punctuation do not count. Where a script sets no blanks between
    words, as Chinese and Thai, each character is a word."""

    measure = "wer"
    about = ("word and character error rate, without case and punctuation", "transcripts", "jiwer")
    best = 0.0

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        return {
            "wer": estimate_ratio(*count_errors(count_words, predictions, references)),
            "cer": estimate_ratio(*count_errors(jiwer.process_characters, predictions, references)),
        }

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        pairs = zip(*count_errors(count_words, predictions, references), strict=True)
        return [wrong / max(length, 1) for wrong, length in pairs]
