"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries, by rouge_score (Lin 2004)."""

from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio


MEASURES = ["rouge1", "rouge2", "rougeL"]


class Rouge(AnswerMetric):
    r"""{"rouge1", "low", "high", "rouge2", ..., "rougeL", ..., "n"}: F-measures from 0 to 1 of words stemmed by Porter, each against
    the reference that it agrees with best, with intervals by bootstrap. rouge_score reads only a to z and digits."""

    measure = "rouge1"
    about = ("ROUGE-1, -2, -L, the best of several references", "summaries", "rouge_score")

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        scores = rouge_scores(predictions, references)
        return {name: estimate_ratio([score[name].fmeasure for score in scores]) for name in MEASURES}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [score["rouge1"].fmeasure for score in rouge_scores(predictions, references)]


def rouge_scores(predictions: list[str], references: list[list[str]]) -> list[dict]:
    from rouge_score.rouge_scorer import RougeScorer  # its import takes a second that only summaries need

    scorer = RougeScorer(MEASURES, use_stemmer=True)
    return [scorer.score_multi(right, prediction) for prediction, right in zip(predictions, references, strict=True)]
