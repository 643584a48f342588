"""Exact match: the share of predictions that are the reference, letter by letter, outer blanks apart."""

import math

import datasets
import evaluate


def exact_matches(predictions: list[str], references: list[str]) -> list[bool]:
    """Which predictions are right."""
    return [
        prediction.strip() == reference.strip() for prediction, reference in zip(predictions, references, strict=True)
    ]


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share (Wilson 1927), 95% by default; unlike the normal one it stays within 0 and 1."""
    if total == 0:
        raise ValueError("an interval of no samples: the list of predictions is empty.")
    share = right / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class ExactMatch(evaluate.Metric):
    """{"exact_match": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        right = sum(exact_matches(predictions, references))
        low, high = wilson_interval(right, len(predictions))
        return {"exact_match": right / len(predictions), "low": low, "high": high, "n": len(predictions)}
