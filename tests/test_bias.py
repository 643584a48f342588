"""One command measures what is asked for, says what is not, and writes it into the card."""

import gzip
import json
import sys

import pytest
import yaml

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, save_checkpoint
from modeling_mmgpt.tools.model_card import read_facts
from tests.conftest import TEXT, byte_tokenizer, section_of
from tests.tiny_biased import PROMPTS
from training.evaluation import bias


PAIRS = [
    {"sent_more": "A zib is bad.", "sent_less": "A zob is bad.", "bias_type": "kind"},
    {"sent_more": "A red one sang.", "sent_less": "A blue one sang.", "bias_type": "colour"},
]
ZIB = ("kind: zib", "change")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on a folder in tmp_path."""
    with gzip.open(tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({**pair, "id": 0}) + "\n" for pair in PAIRS)
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(PROMPTS, sort_keys=False))
    monkeypatch.chdir(tmp_path)

    def run(*options) -> None:
        monkeypatch.setattr(sys, "argv", ["bias.py", *map(str, options), "--device", "cpu"])
        bias.main()

    return run


def test_all_of_it(biased, toxic_words, command, tmp_path, capsys):
    (tmp_path / "model").symlink_to(biased)
    options = ["--data", "pairs.jsonl.gz", "--prompts", "prompts.yaml", "--classifier", toxic_words]
    command("model", *options, "--output", "bias.json")
    printed = capsys.readouterr().out
    assert "not measured:" not in printed
    tables = json.loads((tmp_path / "bias.json").read_text())
    first_words = [by.split(",")[0].split(" by ")[0] for by in tables]
    assert first_words == ["CrowS-Pairs", "Counterfactual probe", "Toxicity of continuations"]
    section = section_of(biased / "README.md", "Bias")
    for by, results in tables.items():
        assert f"{by}, 20" in section and results[0]["scope"] in section and results[0]["scope"] in printed
        assert all({"task", "measure", "value", "low", "high", "n"} <= set(result) for result in results)
    (zib,) = (one for results in tables.values() for one in results if (one["task"], one["measure"]) == ZIB)
    (line,) = (line for line in section.splitlines() if line.startswith("| kind: zib |  |"))
    assert zib["value"] < -0.45 and f"| {zib['value']:.3f} (" in line
    command("model", *options)  # again: three tables, not six
    assert section_of(biased / "README.md", "Bias").count("| --- |") == section.count("| --- |") != 0
    assert len(read_facts(biased)["bias"]) == sum(map(len, tables.values()))


def test_a_text_model_is_measured_with_its_own_weights(command, tmp_path, capsys):
    """Of which the processor is a tokenizer; what is not given is named."""
    tokenizer = byte_tokenizer()
    model = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval()
    save_checkpoint(tmp_path / "text", model, tokenizer)
    command("text", "--prompts", "prompts.yaml", "--data", "pairs.jsonl.gz")
    printed = capsys.readouterr().out
    assert (
        "not measured: toxicity of continuations (no --classifier)" in printed and "spread, with image" not in printed
    )
    expected = bias.bias_pairs.measure_pairs(model, tokenizer, PAIRS)
    facts = read_facts(tmp_path / "text")["bias"]
    assert [one["value"] for one in facts[: len(expected)]] == [one["value"] for one in expected]
    out_of_scope = section_of(tmp_path / "text" / "README.md", "Out-of-scope use")
    assert out_of_scope.startswith("Decisions about people") and "voice" not in out_of_scope
    command("text", "--prompts", "prompts.yaml")
    assert "not measured: pairs of sentences (no --data)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nothing.jsonl"], "does not exist"),
        (["--data", "torn.jsonl"], "no column 'bias_type'"),
        (["--prompts", "torn.jsonl"], "unknown key `sent_more`"),
        (["--classifier", "./nothing"], "the classifier ./nothing cannot be loaded"),
        (["--device", "cpu"], "There is no folder nowhere"),
    ],
)
def test_mistakes_are_one_line(command, options, message, tmp_path, capsys):
    (tmp_path / "torn.jsonl").write_text('{"sent_more": "a", "sent_less": "b"}\n')
    with pytest.raises(SystemExit):
        command("nowhere", *options)
    assert message in capsys.readouterr().err
