"""The exact match metric."""

import unicodedata

import pytest

from training.evaluation.metrics.exact_match import ExactMatch, exact_matches


def test_outer_blanks_do_not_count_and_case_does():
    assert exact_matches([" seven", "Seven", "eight"], [["seven "], ["seven"], ["seven"]]) == [True, False, False]


def test_any_reference_will_do():
    assert exact_matches(["b", "c"], [["a", "b"], ["a", "b"]]) == [True, False]


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError):
        exact_matches(["a"], [["a"], ["b"]])


def test_metric_computes():
    score = ExactMatch().compute(predictions=["a", "b", "c", "d"], references=["a", "b", "c", "x"])
    assert score["exact_match"] == 0.75 and score["n"] == 4
    # Wilson: (0.75 + 1.96^2/8 +- 1.96 sqrt(0.1875/4 + 1.96^2/64)) / (1 + 1.96^2/4)
    assert (score["low"], score["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)


@pytest.mark.parametrize("text", ["한국어", "Tiếng Việt", "café", "ガ"])
def test_composed_and_decomposed_letters_are_the_same(text):
    assert exact_matches([unicodedata.normalize("NFD", text)], [[text]]) == [True]


@pytest.mark.parametrize(("text", "same"), [("\u200fשלום\u200e ", "שלום"), ("ພາ\u200bສາ", "ພາສາ")])
def test_what_cannot_be_seen_does_not_count_and_what_joins_letters_does(text, same):
    assert exact_matches([text, "ක්ෂ"], [[same], ["ක්\u200dෂ"]]) == [True, False]
