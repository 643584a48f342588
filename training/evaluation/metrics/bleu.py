"""BLEU and chrF of translations, by sacrebleu (Papineni et al. 2002; Popović 2015; Post 2018)."""

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import _bootstrap_resample

from training.evaluation.metrics.answers import RESAMPLES, AnswerMetric, Estimate


class Translation(AnswerMetric):
    r"""{"bleu", "low", "high", "chrf", "chrf_low", "chrf_high", "n"}, from 0 to 100, of raw text (not tokenised), with the percentile intervals of sacrebleu's own resamples (fixed seed)."""

    measure = "bleu"
    about = ("BLEU, chrF", "translations", "sacrebleu")
    best = 100.0

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        # sacrebleu takes the first references of all samples, then the second ones ...; None where a sample has no more
        most = max(map(len, references))
        streams = [[right[place] if place < len(right) else None for right in references] for place in range(most)]
        return {"bleu": corpus_score(BLEU(), predictions, streams), "chrf": corpus_score(CHRF(), predictions, streams)}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        """chrF: BLEU of a single sentence is mostly 0."""
        metric = CHRF()
        return [metric.sentence_score(*pair).score for pair in zip(predictions, references, strict=True)]


def corpus_score(metric, predictions: list[str], streams: list[list[str | None]]) -> Estimate:
    """As `metric.corpus_score(..., n_bootstrap=...)`, whose summary of the resamples (sacrebleu 2.6) raises a TypeError with
    numpy 2 when some of them are 0."""
    value = metric.corpus_score(predictions, streams).score
    statistics = metric._extract_corpus_statistics(predictions, streams)
    _, resampled = _bootstrap_resample(statistics, metric, RESAMPLES)
    low, high = np.percentile([score.score for score in resampled], [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
