"""CIDEr-D of captions: n-grams in common, weighted by how rare they are (Vedantam et al. 2015, sections 4 and 5)."""

import math
from collections import Counter

from training.data.words import WORDS_WITH_APOSTROPHE, folded
from training.evaluation.metrics.answers import AnswerMetric


LONGEST = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # of the Gaussian penalty on another length, in words
SCALE = 10.0

Grams = list[Counter]  # counts of the n-grams, by n


def ngrams(text: str) -> Grams:
    words = WORDS_WITH_APOSTROPHE.findall(folded(text))
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, LONGEST + 1)]


def cider_scores(predictions: list[str], references: list[list[str]]) -> list[float]:
    """CIDEr-D of each caption. Rarity is counted over the references of all captions: a single caption scores 0."""
    captions = [ngrams(prediction) for prediction in predictions]
    targets = [[ngrams(one) for one in ones] for ones in references]
    seen_in: Counter = Counter()
    for ones in targets:
        seen_in.update({gram for grams in ones for counts in grams for gram in counts})
    total = math.log(len(references))
    rarity = {gram: total - math.log(count) for gram, count in seen_in.items()}
    return [
        SCALE * sum(similarity(caption, one, rarity, total) for one in ones) / len(ones)
        for caption, ones in zip(captions, targets, strict=True)
    ]


def similarity(caption: Grams, reference: Grams, rarity: dict, unseen: float) -> float:
    """Cosine of the weighted counts, those of the caption clipped to the reference's, averaged over n, times the penalty."""
    penalty = math.exp(-((caption[0].total() - reference[0].total()) ** 2) / (2 * SIGMA**2))
    cosines = []
    for said, right in zip(caption, reference, strict=True):
        weighted, target = (
            {gram: count * rarity.get(gram, unseen) for gram, count in counts.items()} for counts in (said, right)
        )
        common = sum(min(weight, target.get(gram, 0.0)) * target.get(gram, 0.0) for gram, weight in weighted.items())
        norms = math.hypot(*weighted.values()) * math.hypot(*target.values())
        cosines.append(common / norms if norms else 0.0)
    return penalty * sum(cosines) / len(cosines)


class CIDEr(AnswerMetric):
    r"""{"cider": mean, "low": mean, "high": mean, "n": count}, from 0 to 10, with intervals by bootstrap (rarities stay those of the
    whole set). As the COCO evaluation, but for its tokenizer: words are lower case without punctuation, not the Penn Treebank's. Where
    a script sets no blanks between words, its characters are the words."""

    measure = "cider"
    about = ("CIDEr-D", "captions", "own (Vedantam et al. 2015)")
    best = SCALE

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return cider_scores(predictions, references)
