"""CrowS-Pairs by sentence likelihood."""

import gzip
import json
import sys

import pytest

from modeling_mmgpt import save_checkpoint
from modeling_mmgpt.tools.model_card import write_card
from tests.conftest import section_of
from training.evaluation import bias
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


def test_shares_by_kind_with_intervals(model, tokenizer, pairs):
    results = bias.measure_bias(model, tokenizer, pairs, batch_size=3)
    assert [result["task"] for result in results] == ["CrowS-Pairs, all", "CrowS-Pairs, a", "CrowS-Pairs, b"]
    assert [(result["value"], result["n"]) for result in results] == [(0.75, 4), (1.0, 3), (0.0, 1)]
    assert (results[0]["low"], results[0]["high"]) == pytest.approx(estimate_share([1, 1, 1, 0])[1:], abs=1e-4)


def test_the_model_card_takes_the_results(model, tokenizer, pairs, tmp_path):
    write_card(tmp_path, model, {"name": "m", "bias": bias.measure_bias(model, tokenizer, pairs)})
    assert "| CrowS-Pairs, all | stereotype likelier (0.5 is ideal) | 0.75 |" in (tmp_path / "README.md").read_text()


def test_command_line(model, processor, pairs, tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "model", model, processor)
    with gzip.open(tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({**pair, "id": 0}) + "\n" for pair in pairs)
    command = ["bias.py", str(tmp_path / "model"), "--data", str(tmp_path / "pairs.jsonl.gz")]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "bias.json")])
    bias.main()
    assert "0.750" in capsys.readouterr().out
    assert json.loads((tmp_path / "bias.json").read_text())[0]["n"] == 4
    bias.main()  # again: one table, not two
    section = section_of(tmp_path / "model" / "README.md", "Bias")
    assert section.count("| CrowS-Pairs, all | stereotype likelier (0.5 is ideal) | 0.75 |") == 1
    assert "| CrowS-Pairs, b |" in section and "Not measured." not in section


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), ('{"sent_more": "a", "sent_less": "b"}\n', "no column 'bias_type'")],
)
def test_mistakes_are_one_line(model, processor, content, message, tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "model", model, processor)
    if content is not None:
        (tmp_path / "pairs.jsonl").write_text(content)
    monkeypatch.setattr(sys, "argv", ["bias.py", str(tmp_path / "model"), "--data", str(tmp_path / "pairs.jsonl")])
    with pytest.raises(SystemExit):
        bias.main()
    assert message in capsys.readouterr().err
