"""What metrics share: intervals, the shape of results, loading by file, the table of training/README.md."""

import json
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest

from training.evaluation.metrics import DEFAULT_METRIC, METRICS, find_metric
from training.evaluation.metrics.answers import Estimate, estimate_ratio, estimate_share, read_estimates, tabulate


CHECKOUT = Path(__file__).resolve().parent.parent


def test_a_share_has_the_interval_of_wilson():
    # Newcombe 1998, table I: 81 of 263
    assert estimate_share([True] * 81 + [False] * 182) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    value, low, high = estimate_share([1.0] * 10)
    assert low < 1 and value == high == 1
    with pytest.raises(ValueError, match="no samples"):
        estimate_share([])


class TestBootstrap:
    def test_agrees_with_the_normal_interval_of_many_samples(self):
        numbers = [0.0, 1.0] * 500
        value, low, high = estimate_ratio(numbers)
        # standard error 0.5 / sqrt(1000) = 0.0158, times 1.96
        assert value == 0.5
        assert (low, high) == pytest.approx((0.469, 0.531), abs=0.004)

    def test_is_the_same_every_time(self):
        assert estimate_ratio([1.0, 5.0, 2.0]) == estimate_ratio([1.0, 5.0, 2.0])

    def test_weighs_samples_by_their_wholes(self):
        assert estimate_ratio([1, 0], [9, 1]).value == 0.1

    def test_of_equal_samples_has_no_width_and_of_one_none_either(self):
        assert estimate_ratio([0.25] * 5) == (0.25, 0.25, 0.25) == estimate_ratio([0.25])

    def test_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="no samples"):
            estimate_ratio([])


def test_the_main_measure_has_the_plain_bounds():
    estimates = {"f1": Estimate(0.5, 0.4, 0.6), "exact": Estimate(0.3, 0.2, 0.4)}
    table = tabulate(estimates, n=7)
    assert table == {"f1": 0.5, "low": 0.4, "high": 0.6, "exact": 0.3, "exact_low": 0.2, "exact_high": 0.4, "n": 7}
    found = read_estimates({**table, "majority": 0.1}, "f1")
    assert found == estimates and list(found) == list(estimates)


ANSWERS = [name for name, kind in METRICS.items() if kind.needs_generation]


@pytest.mark.parametrize("name", ANSWERS)
class TestEveryMetricOfAnswers:
    texts = ["a black cat sat here 4", "two old dogs ran away 5", "no birds sing today 6"]

    def test_a_perfect_answer_is_best_and_a_wrong_one_is_not(self, name):
        metric = find_metric(name)
        references = [[text] for text in self.texts]
        right = metric.compute(predictions=self.texts, references=references)
        wrong = metric.compute(predictions=["nothing alike 1"] * 3, references=references)
        assert right["n"] == 3 and metric.measure in right
        assert right[metric.measure] == pytest.approx(metric.best)
        assert abs(wrong[metric.measure] - metric.best) > 0.1 * abs(metric.best or 1)
        assert right["low"] <= right[metric.measure] + 1e-6 and right[metric.measure] <= right["high"] + 1e-6
        assert metric.score_samples(self.texts, references) == pytest.approx([metric.best] * 3)

    def test_one_reference_may_be_a_plain_string(self, name):
        predictions = ["a cat", "two dogs ran off", "nothing"]
        many = find_metric(name).compute(predictions=predictions, references=[[text] for text in self.texts])
        assert find_metric(name).compute(predictions=predictions, references=self.texts) == many

    def test_another_reference_helps_or_at_least_counts(self, name):
        predictions = [self.texts[0], "x y z w 9", "x y z w 9"]
        one = find_metric(name).compute(predictions=predictions, references=[["q q q q 1"]] * 3)
        two = find_metric(name).compute(
            predictions=predictions, references=[["q q q q 1", self.texts[0]], *[["q q q q 1"]] * 2]
        )
        assert one != two


def test_metrics_load_from_their_files_in_a_fresh_process(tmp_path):
    code = (
        "import evaluate, json, sys\n"
        "folder = 'training/evaluation/metrics/'\n"
        "kinds = [type(evaluate.load(f'{folder}{name}.py')).__name__ for name in json.loads(sys.argv[1])]\n"
        "print(json.dumps(kinds))"
    )
    files = {kind: Path(sys.modules[kind.__module__].__file__).stem for kind in METRICS.values()}
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(files.values()))],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [kind.__name__ for kind in files]


def test_the_registry_knows_its_names():
    assert find_metric(None).measure == "exact_match"
    assert all(issubclass(kind, evaluate.Metric) for kind in METRICS.values())
    with pytest.raises(ValueError, match=r"'rogue'.*'rouge'"):
        find_metric("rogue")


def test_the_page_has_the_table_of_metrics():
    lines = []
    for name, kind in METRICS.items():
        note = " (default)" if name == DEFAULT_METRIC else "" if kind.needs_generation else " (plain text)"
        lines.append(f"| `{name}`{note} | {' | '.join(kind.about)} |\n")
    table = "| `metric` | measures | of | computed by |\n|---|---|---|---|\n" + "".join(lines)
    assert table in (CHECKOUT / "training" / "README.md").read_text(encoding="utf-8"), f"\n{table}"
