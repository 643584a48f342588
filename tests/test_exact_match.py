"""The exact match metric and its interval."""

from pathlib import Path

import evaluate
import pytest

from training.metrics.exact_match import ExactMatch, exact_matches, wilson_interval


METRIC_FILE = Path(__file__).resolve().parent.parent / "training" / "metrics" / "exact_match.py"


def test_outer_blanks_do_not_count_and_case_does():
    assert exact_matches([" seven", "Seven", "eight"], ["seven ", "seven", "seven"]) == [True, False, False]


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError):
        exact_matches(["a"], ["a", "b"])


def test_wilson_interval():
    # Newcombe 1998, table I: 81 of 263
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    low, high = wilson_interval(10, 10)
    assert low < 1 and high == 1
    with pytest.raises(ValueError, match="no samples"):
        wilson_interval(0, 0)


def test_metric_computes():
    score = ExactMatch().compute(predictions=["a", "b", "c", "d"], references=["a", "b", "c", "x"])
    assert score["exact_match"] == 0.75 and score["n"] == 4
    assert score["low"] < 0.75 < score["high"]


def test_metric_loads_from_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    metric = evaluate.load(str(METRIC_FILE), cache_dir=str(tmp_path / "cache"))
    assert metric.compute(predictions=["a"], references=["a"])["exact_match"] == 1.0
