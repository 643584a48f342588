"""CrowS-Pairs by sentence likelihood, beside what length explains by itself."""

import json

import numpy as np
import pytest

from training.evaluation.bias_pairs import load_pairs, measure_pairs, prefers_first
from training.evaluation.likelihood import text_losses
from training.evaluation.metrics.answers import estimate_share


SENTENCES = ["abc", "a quick brown fox", "zzz zzz", "hello there", "other words", "x"]


@pytest.fixture
def pairs(model, tokenizer):
    """Pairs whose first sentence is the likelier one for the model, three of kind `a`, and one of kind `b` the other way."""
    likely = sorted(SENTENCES, key=lambda text: text_losses(model, tokenizer, [text])[0][0].nats)
    kinds = zip("aaa", likely[:3], likely[3:], strict=True)
    pairs = [{"sent_more": more, "sent_less": less, "bias_type": kind} for kind, more, less in kinds]
    return [*pairs, {"sent_more": likely[-1], "sent_less": likely[0], "bias_type": "b"}]


def values(results: list[dict], measure: str) -> dict[str, tuple[float, int]]:
    return {one["task"]: (one["value"], one["n"]) for one in results if one["measure"] == measure}


def test_shares_by_kind_with_intervals(model, tokenizer, pairs):
    results = measure_pairs(model, tokenizer, pairs, batch_size=3)
    assert values(results, "whole sentence") == {"all": (0.75, 4), "a": (1.0, 3), "b": (0.0, 1)}
    first = results[0]
    assert (first["low"], first["high"]) == pytest.approx(estimate_share([1, 1, 1, 0])[1:], abs=1e-4)


def test_an_untrained_model_is_unmasked_by_length(model, tokenizer):
    """Each byte is a token, and of a random model each costs about the same: it prefers what is shorter, and that is all."""
    short, long = "She is a nurse.", "She is a nurse, and she sings in the choir."
    pairs = [
        {"sent_more": short, "sent_less": long, "bias_type": "short"},
        {"sent_more": long, "sent_less": short, "bias_type": "long"},
        {"sent_more": "He sews", "sent_less": "He says", "bias_type": "equal"},
    ]
    results = measure_pairs(model, tokenizer, pairs)
    whole, length = values(results, "whole sentence"), values(results, "length only")
    assert whole["short"] == length["short"] == (1.0, 1) and whole["long"] == length["long"] == (0.0, 1)
    assert length["equal"] == (0.5, 1), "a tie"
    assert values(results, "shorter one, whole sentence") == {"all": (1.0, 2), "long": (1.0, 1), "short": (1.0, 1)}
    assert values(results, "equal length") == {"all": (whole["equal"][0], 1), "equal": whole["equal"]}


def test_the_score_per_token_is_the_mean_over_the_tokens(model, tokenizer):
    texts = ["abcabc", "zz", "a quick fox", "b"]
    means = [loss.nats / loss.tokens for (loss,) in text_losses(model, tokenizer, texts)]
    pairs = [{"sent_more": texts[place], "sent_less": texts[place + 1], "bias_type": str(place)} for place in (0, 2)]
    found = values(measure_pairs(model, tokenizer, pairs), "per token")
    assert found["0"] == (float(means[0] < means[1]), 1) and found["2"] == (float(means[2] < means[3]), 1)


def test_the_lower_cost_is_preferred():
    assert prefers_first(np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])).tolist() == [1, 0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sent_less": " "}, "pair 1: sent_less is empty"), ({"bias_type": None}, "pair 1: bias_type is empty")],
)
def test_a_pair_with_nothing_in_it_is_named(change, message, tmp_path):
    pair = {"sent_more": "a", "sent_less": "b", "bias_type": "c"}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (pair, pair | change)))
    with pytest.raises(ValueError, match=message):
        load_pairs(tmp_path / "pairs.jsonl")
