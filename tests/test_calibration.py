"""Calibration: bins, error and diagram, against numbers worked out by hand."""

import pytest

from training.evaluation.calibration import (
    Bin,
    calibrate,
    calibration_error,
    calibration_results,
    draw_reliability,
    format_calibration,
    reliability,
)


CONFIDENCES, SCORES = [0.0, 0.05, 0.1, 0.11, 0.95, 1.0, 1.0], [0, 1, 0, 1, 1, 1, 0]


def test_bins_hold_their_upper_bounds():
    first, second, last = reliability(CONFIDENCES, SCORES)
    assert first == (0.0, 0.1, 3, pytest.approx(0.05), pytest.approx(1 / 3))
    assert second == (0.1, 0.2, 1, pytest.approx(0.11), 1.0)
    assert last == (0.9, 1.0, 3, pytest.approx(2.95 / 3), pytest.approx(2 / 3))


def test_the_error_is_the_weighted_distance():
    expected = (3 * (1 / 3 - 0.05) + 0.89 + 3 * (2.95 - 2) / 3) / 7
    assert calibration_error(reliability(CONFIDENCES, SCORES)) == pytest.approx(expected)


def test_a_model_that_is_right_as_often_as_it_is_sure_has_no_error():
    confidences = [0.25] * 4 + [0.75] * 4
    assert calibration_error(reliability(confidences, [1, 0, 0, 0, 1, 1, 1, 0])) == 0
    assert calibration_error(reliability(confidences, [0] * 4 + [1] * 4)) == 0.25


RECORDS = [
    {"task": "b", "metric": "exact_match", "confidence": 0.9, "score": 1.0},
    {"task": "b", "metric": "exact_match", "confidence": 0.9, "score": 0.0},
    {"task": None, "metric": "squad:fr", "confidence": 0.5, "score": 0.5},
    {"task": "errors", "metric": "wer", "confidence": 0.5, "score": 2.0},
    {"task": "texts", "metric": "perplexity", "loss": 1.0},
    {"task": "b", "metric": "exact_match", "score": 1.0},
]


def test_tasks_whose_scores_go_from_0_to_1_have_bins():
    assert calibrate(RECORDS) == {"all": [Bin(0.4, 0.5, 1, 0.5, 0.5)], "b": [Bin(0.8, 0.9, 2, 0.9, 0.5)]}
    assert calibrate(RECORDS[-2:]) == {}


def test_the_table_the_results_and_the_diagram(tmp_path):
    tasks = calibrate(RECORDS)
    lines = format_calibration(tasks).splitlines()
    assert lines[2].split() == ["b", "0.8-0.9", "2", "0.900", "0.500", "0.400"]
    (_, result) = calibration_results(tasks, "test")
    assert result == {
        "task": "b",
        "measure": "expected calibration error",
        "value": 0.4,
        "n": 2,
        "split": "test",
        "bins": [[0.8, 0.9, 2, 0.9, 0.5]],
    }
    draw_reliability(tasks, tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
