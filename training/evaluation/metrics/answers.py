"""What the metrics share: predictions beside one or several references, and an interval around every number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
from scipy import stats

from training.data.words import language_code


RESAMPLES = 1000
SEED = 0


class Estimate(NamedTuple):
    """A measured number with the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def estimate_share(right: Sequence[float]) -> Estimate:
    """The share of those that are right (1) among all, with the interval of Wilson (1927); unlike the normal one it stays within 0
    and 1."""
    total, z = len(right), 1.96  # 95%
    if total == 0:
        raise ValueError("an interval of no samples: the list of predictions is empty.")
    share = sum(right) / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return Estimate(share, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def estimate_ratio(parts: Sequence[float], wholes: Sequence[float] | None = None) -> Estimate:
    """The sum of `parts` over the sum of `wholes` (the mean, without wholes), with the percentile interval of the bootstrap
    over samples (Efron 1979). One sample says nothing about others: both bounds are then the value itself."""
    parts = np.asarray(parts, dtype=float)
    wholes = np.ones_like(parts) if wholes is None else np.asarray(wholes, dtype=float)
    if not len(parts):
        raise ValueError("an interval of no samples: the list of predictions is empty.")
    value = ratio(parts, wholes)
    if len(parts) == 1:
        return Estimate(float(value), float(value), float(value))
    interval = stats.bootstrap(
        (parts, wholes), ratio, paired=True, n_resamples=RESAMPLES, batch=50, method="percentile", rng=SEED
    ).confidence_interval
    return Estimate(float(value), float(interval.low), float(interval.high))


def ratio(parts: np.ndarray, wholes: np.ndarray, axis: int = -1) -> np.ndarray:
    return parts.sum(axis=axis) / np.maximum(wholes.sum(axis=axis), 1e-12)


class AnswerMetric(evaluate.Metric, ABC):
    r"""`compute(predictions=[text], references=[text or list of texts])` returns the main measure under its name with `low` and
    `high`, the bounds of its 95% interval; each further measure M with `M_low` and `M_high`; and `n`.

    measure (`str`): name of the main measure.
    about (`tuple[str, str, str]`): what it measures, of which answers, and what computes it: its line in the README's table.
    best (`float`): what `score_samples` returns for an answer that cannot be better.
    interval (callable): the estimate of the main measure from the scores of all samples.
    needs_generation (`bool`): whether it compares generated answers; else it reads the likelihood of texts.

    Where the language matters it is the name of the configuration: `Metric("zh")`.
    """

    measure: str
    about: tuple[str, str, str]
    best = 1.0
    interval = staticmethod(estimate_ratio)
    needs_generation = True

    @property
    def language(self) -> str | None:
        """The code of the language of all answers, or None where it was not said: English, or what their script tells."""
        return None if self.config_name == "default" else language_code(self.config_name)

    def check_references(self, references: list[list[str]]) -> None:
        """Refuses references that the metric would silently judge wrong, such as those of a language that it was not told."""

    @abstractmethod
    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        """The score of each answer by itself, so that the worst ones can be found."""

    def estimate(self, predictions: list[str], references: list[list[str]]) -> dict[str, Estimate]:
        """The measures by name, the main one first."""
        return {self.measure: self.interval(self.score_samples(predictions, references))}

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        kinds = (datasets.List(text), text)
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=[datasets.Features({"predictions": text, "references": kind}) for kind in kinds],
        )

    def _compute(self, predictions: list[str], references: list) -> dict[str, float]:
        references = [[one] if isinstance(one, str) else list(one) for one in references]
        self.check_references(references)
        return tabulate(self.estimate(predictions, references), len(predictions))


def tabulate(estimates: dict[str, Estimate], n: int) -> dict[str, float]:
    """The flat dict that `compute` returns."""
    table: dict[str, float] = {}
    for place, (name, estimate) in enumerate(estimates.items()):
        prefix = "" if place == 0 else f"{name}_"
        table |= {name: estimate.value, f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}
    return table | {"n": n}


def read_estimates(table: dict, measure: str) -> dict[str, Estimate]:
    """The estimates in a dict that `compute` returned, those of the main `measure` first: the inverse of `tabulate`."""
    prefixes = {measure: ""} | {name: f"{name}_" for name in table if f"{name}_low" in table}
    return {
        name: Estimate(table[name], table[f"{prefix}low"], table[f"{prefix}high"]) for name, prefix in prefixes.items()
    }
