"""BLEU and chrF of translations, by sacrebleu (Papineni et al. 2002; Popović 2015; Post 2018)."""

import numpy as np
import regex
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import _bootstrap_resample

from training.data.words import EUROPEAN, SPACED, composed, is_mostly
from training.evaluation.metrics.answers import RESAMPLES, AnswerMetric, Estimate


STANDARD = "13a"  # cuts at blanks and the punctuation of ASCII
# sacrebleu's tokenizers, by language. Those that it has but would download are left out: characters take their place.
TOKENIZERS = {
    **dict.fromkeys(("zh", "yue", "wuu"), "zh"),
    "ja": "ja-mecab",
    "ko": "ko-mecab",
    **dict.fromkeys(("th", "lo", "km", "my", "bo", "dz"), "char"),
    # with punctuation of their own, which the one for all scripts knows
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ug", "ckb", "he", "yi", "am", "ti", "hy", "ka"), "intl"),
    **dict.fromkeys(("hi", "mr", "ne", "sa", "bn", "as", "pa", "gu", "or", "ta", "te", "kn", "ml", "si"), "intl"),
}
# The letters that a tokenizer cuts into words; those that are not named here cut all.
LETTERS = {
    STANDARD: EUROPEAN,
    "intl": SPACED,
    "zh": regex.compile(r"[\p{Han}\p{Bopomofo}\p{Latin}\p{Cyrillic}\p{Greek}]"),
}
FOREIGN = 0.1  # of the references: so many may quote other letters


class Translation(AnswerMetric):
    r"""{"bleu", "low", "high", "chrf", "chrf_low", "chrf_high", "n"}, from 0 to 100, of raw text (not tokenised), with the percentile intervals of sacrebleu's own resamples (fixed seed).

    BLEU's tokenizer is that of the language. chrF counts characters and needs none."""

    measure = "bleu"
    about = ("BLEU, chrF", "translations", "sacrebleu")
    best = 100.0

    def check_references(self, references: list[list[str]]) -> None:
        texts = [one for right in references for one in right]
        letters = LETTERS.get(self.tokenizer)
        foreign = [one for one in texts if letters is not None and not is_mostly(letters, one)]
        if len(foreign) > FOREIGN * len(texts):
            told = "no language" if self.language is None else f"the language {self.language!r}"
            raise ValueError(
                f"BLEU was told {told}, whose tokenizer {self.tokenizer!r} would cut the letters of {len(foreign)} of "
                f"{len(texts)} references wrong, first {foreign[0][:40]!r}. Say their language: metric `bleu:zh`, `bleu:ja`, "
                "`bleu:ar` ..., in sources of one language each."
            )
        self.bleu()

    @property
    def tokenizer(self) -> str:
        return TOKENIZERS.get(self.language, STANDARD)

    def bleu(self) -> BLEU:
        try:
            return BLEU(tokenize=self.tokenizer)
        except RuntimeError as error:  # as sacrebleu says that a package is missing
            raise ImportError(
                f"BLEU of the language {self.language!r} needs a dictionary: `pip install 'sacrebleu[{self.language}]'`. "
                "Metric `rouge` compares such text without one."
            ) from error

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        predictions = [composed(one) for one in predictions]
        references = [[composed(one) for one in right] for right in references]
        # sacrebleu takes the first references of all samples, then the second ones ...; None where a sample has no more
        most = max(map(len, references))
        streams = [[right[place] if place < len(right) else None for right in references] for place in range(most)]
        return {
            "bleu": corpus_score(self.bleu(), predictions, streams),
            "chrf": corpus_score(CHRF(), predictions, streams),
        }

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        """chrF: BLEU of a single sentence is mostly 0."""
        metric = CHRF()
        return [
            metric.sentence_score(composed(prediction), [composed(one) for one in right]).score
            for prediction, right in zip(predictions, references, strict=True)
        ]


def corpus_score(metric, predictions: list[str], streams: list[list[str | None]]) -> Estimate:
    """As `metric.corpus_score(..., n_bootstrap=...)`, whose summary of the resamples (sacrebleu 2.6) raises a TypeError with
    numpy 2 when some of them are 0."""
    value = metric.corpus_score(predictions, streams).score
    statistics = metric._extract_corpus_statistics(predictions, streams)
    _, resampled = _bootstrap_resample(statistics, metric, RESAMPLES)
    low, high = np.percentile([score.score for score in resampled], [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
