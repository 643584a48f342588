"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries, by rouge_score (Lin 2004)."""

import regex

from training.data.words import words_of
from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio


MEASURES = ["rouge1", "rouge2", "rougeL"]


class Rouge(AnswerMetric):
    r"""{"rouge1", "low", "high", "rouge2", ..., "rougeL", ..., "n"}: F-measures from 0 to 1 of words stemmed by Porter, each against
    the reference that it agrees with best, with intervals by bootstrap.

    Words are those of any script, its characters where it sets no blanks between words; those of a to z are stemmed unless another
    language than English is said."""

    measure = "rouge1"
    about = ("ROUGE-1, -2, -L, the best of several references", "summaries", "rouge_score")

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        scores = rouge_scores(predictions, references, self.language)
        return {name: estimate_ratio([score[name].fmeasure for score in scores]) for name in MEASURES}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [score["rouge1"].fmeasure for score in rouge_scores(predictions, references, self.language)]


class WordTokenizer:
    """As rouge_score's own tokenizer, which reads only a to z and digits, for every script."""

    def __init__(self, stemmer):
        self.stemmer = stemmer

    def tokenize(self, text: str) -> list[str]:
        words = words_of(text.replace("_", " "))
        return [self.stem(word) if len(word) > 3 else word for word in words]

    def stem(self, word: str) -> str:
        return self.stemmer.stem(word) if self.stemmer and regex.fullmatch("[a-z0-9]+", word) else word


def rouge_scores(predictions: list[str], references: list[list[str]], language: str | None) -> list[dict]:
    # These imports take a second that only summaries need.
    from nltk.stem.porter import PorterStemmer
    from rouge_score.rouge_scorer import RougeScorer

    tokenizer = WordTokenizer(PorterStemmer() if language in (None, "en") else None)
    scorer = RougeScorer(MEASURES, tokenizer=tokenizer)
    return [scorer.score_multi(right, prediction) for prediction, right in zip(predictions, references, strict=True)]
