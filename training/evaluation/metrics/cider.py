"""CIDEr-D of captions: n-grams in common, weighed by how rare they are (Vedantam et al. 2015, sections 4 and 5)."""

import math
import re
from collections import Counter

from training.evaluation.metrics.answers import AnswerMetric, Estimate, estimate_ratio


LONGEST = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # of the Gaussian penalty on another length, in words
SCALE = 10.0

Grams = list[Counter]  # counts of the n-grams, by n


def ngrams(text: str) -> Grams:
    words = re.findall(r"\w+(?:['’]\w+)?", text.lower())
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, LONGEST + 1)]


def cider_scores(predictions: list[str], references: list[list[str]]) -> list[float]:
    """CIDEr-D of each caption. How rare an n-gram is, is counted in the references of all of them: one caption alone has 0."""
    said = [ngrams(prediction) for prediction in predictions]
    right = [[ngrams(one) for one in ones] for ones in references]
    seen_in: Counter = Counter()
    for ones in right:
        seen_in.update({gram for grams in ones for counts in grams for gram in counts})
    total = math.log(len(references))
    rarity = {gram: total - math.log(count) for gram, count in seen_in.items()}
    return [
        SCALE * sum(similarity(caption, one, rarity, total) for one in ones) / len(ones)
        for caption, ones in zip(said, right, strict=True)
    ]


def similarity(caption: Grams, reference: Grams, rarity: dict, unseen: float) -> float:
    """Cosine of the weighted counts, those of the caption clipped to the reference's, averaged over n, times the penalty."""
    penalty = math.exp(-((caption[0].total() - reference[0].total()) ** 2) / (2 * SIGMA**2))
    cosines = []
    for said, right in zip(caption, reference, strict=True):
        weighed, target = (
            {gram: count * rarity.get(gram, unseen) for gram, count in counts.items()} for counts in (said, right)
        )
        common = sum(min(weight, target.get(gram, 0.0)) * target.get(gram, 0.0) for gram, weight in weighed.items())
        norms = math.hypot(*weighed.values()) * math.hypot(*target.values())
        cosines.append(common / norms if norms else 0.0)
    return penalty * sum(cosines) / len(cosines)


class CIDEr(AnswerMetric):
    r"""{"cider": mean, "low": mean, "high": mean, "n": count}, from 0 to 10, with intervals by bootstrap (rarities stay those of the
    whole set). CIDEr-D as the COCO evaluation counts it, but for the words: lower case, without punctuation, not by the Penn
    Treebank's rules."""

    measure = "cider"
    best = SCALE

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        return {"cider": estimate_ratio(cider_scores(predictions, references))}

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return cider_scores(predictions, references)
