"""Perplexity and bits per byte, by hand."""

import math

import pytest

from training.evaluation.metrics.perplexity import Perplexity


def test_by_hand():
    score = Perplexity().compute(losses=[2 * math.log(2), 4 * math.log(2)], tokens=[2, 2], bytes=[4, 8])
    assert score["loss"] == pytest.approx(1.5 * math.log(2))
    assert score["perplexity"] == pytest.approx(2**1.5)
    assert score["bits_per_byte"] == pytest.approx(6 / 12)
    assert score["n"] == 2
    # the bootstrap draws the first window twice, or the second
    assert (score["low"], score["high"]) == pytest.approx((2, 4))


def test_longer_windows_weigh_more():
    assert Perplexity().compute(losses=[1.0, 6.0], tokens=[1, 9], bytes=[1, 9])["loss"] == pytest.approx(0.7)
