"""Is a model right as often as it is sure? The reliability diagram and the expected calibration error (Guo et al. 2017, arXiv:1706.04599).

Answers are put into bins by the confidence that the model had in them, the geometric mean of the probabilities of their tokens; in
each bin the mean confidence stands beside the mean score. The error is the mean distance of the two, weighted by the bins' sizes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.evaluation.metrics import METRICS


BINS = 10


class Bin(NamedTuple):
    """Answers with a confidence from `low` to `high`, the lower bound left out (but 0)."""

    low: float
    high: float
    n: int
    confidence: float  # mean
    score: float  # mean, 1 where all are right


def reliability(confidences: Sequence[float], scores: Sequence[float], bins: int = BINS) -> list[Bin]:
    """The bins that hold answers, of `bins` of the same width."""
    confidences, scores = np.asarray(confidences, dtype=float), np.asarray(scores, dtype=float)
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for place in sorted(set(places.tolist())):
        own = places == place
        means = float(confidences[own].mean()), float(scores[own].mean())
        found.append(Bin(place / bins, (place + 1) / bins, int(own.sum()), *means))
    return found


def calibration_error(bins: list[Bin]) -> float:
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.confidence - one.score) for one in bins) / total


def calibrate(records: list[dict]) -> dict[str, list[Bin]]:
    """The bins of each task, from the records of `evaluate_samples`; tasks whose scores do not go from 0 to 1 have none."""
    tasks: dict[str, tuple[list, list]] = {}
    for record in records:
        if "confidence" in record and METRICS[record["metric"].partition(":")[0]].best == 1.0:
            confidences, scores = tasks.setdefault(record["task"] or "all", ([], []))
            confidences.append(record["confidence"])
            scores.append(record["score"])
    return {task: reliability(*pair) for task, pair in sorted(tasks.items())}


def format_calibration(tasks: dict[str, list[Bin]]) -> str:
    lines = [f"{'task':<20}{'confidence':>12}{'answers':>9}{'mean confidence':>17}{'mean score':>12}{'error':>9}"]
    for task, bins in tasks.items():
        for place, (low, high, n, confidence, score) in enumerate(bins):
            start = (
                f"{task if place == 0 else '':<20}{f'{low:.1f}-{high:.1f}':>12}{n:>9}{confidence:>17.3f}{score:>12.3f}"
            )
            lines.append(start + (f"{calibration_error(bins):>9.3f}" if place == 0 else ""))
    return "\n".join(lines)


def calibration_results(tasks: dict[str, list[Bin]], split: str) -> list[dict]:
    """As the model card takes them."""
    results = []
    for task, bins in tasks.items():
        rounded = [[round(number, 4) for number in one] for one in bins]
        value, n = round(calibration_error(bins), 4), sum(one.n for one in bins)
        measured = {"task": task, "measure": "expected calibration error", "value": value, "n": n}
        results.append({**measured, "split": split, "bins": rounded})
    return results


def draw_reliability(tasks: dict[str, list[Bin]], path: Path) -> None:
    """A panel for each task: mean score over mean confidence, beside the diagonal of a model that is right as often as it is sure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(tasks), figsize=(4 * len(tasks), 4), layout="constrained", squeeze=False)
    for axes, (task, bins) in zip(panels[0], tasks.items(), strict=True):
        axes.bar([one.low for one in bins], [one.score for one in bins], 1 / BINS, align="edge", alpha=0.4)
        axes.plot([one.confidence for one in bins], [one.score for one in bins], marker="o")
        axes.plot([0, 1], [0, 1], linestyle="--", color="grey")
        title = f"{task}: calibration error {calibration_error(bins):.3f}"
        axes.set(title=title.replace("$", r"\$"), xlabel="confidence", ylabel="score", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
