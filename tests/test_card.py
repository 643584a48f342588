"""The model card tells what is known and keeps quiet about the rest."""

import os

import pytest

from modeling_mmgpt import save_checkpoint
from modeling_mmgpt.card_mmgpt import part_sizes, rename_card


def saved_card(folder, model, processor, **facts) -> str:
    save_checkpoint(folder / "nano", model, processor, card=facts)
    return (folder / "nano" / "README.md").read_text()


def test_parts_and_results(tmp_path, model, processor):
    results = [
        {"task": "captions", "measure": "exact match", "value": "0.97", "n": 300},
        {"task": "speech", "measure": "word errors", "value": "0.05", "low": "0.03", "high": "0.08", "n": 80},
    ]
    card = saved_card(tmp_path, model, processor, results=results, license="apache-2.0")
    assert "| captions | exact match | 0.97 |  | 300 |" in card
    assert "| speech | word errors | 0.05 | 0.03 to 0.08 | 80 |" in card
    assert "license: apache-2.0" in card and "that sees and hears" in card
    sizes = part_sizes(model)
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert all(f"| {part} | {size:,} |" in card for part, size in sizes.items())


def test_what_is_not_known_is_not_told(tmp_path, model, processor):
    card = saved_card(tmp_path, model, processor)
    assert "Nothing was measured" in card and "## Bias\n\nNot measured." in card
    assert "None" not in card and "Hardware" not in card and "\n\n\n\n" not in card


def test_everything_known_is_told(tmp_path, model, processor):
    bias = [{"task": "gender", "measure": "stereotype preferred", "value": 0.52, "low": 0.46, "high": 0.58, "n": 262}]
    facts = {
        "hardware": "2 CPU cores",
        "intended_use": "Pictures of red things.",
        "base_model": "me/base",
        "bias": bias,
    }
    card = saved_card(tmp_path, model, processor, **facts, licences={"decoder": "mit", "me/data": "cc-by-4.0"})
    assert "Hardware: 2 CPU cores." in card and "Pictures of red things." in card and "Trained from me/base." in card
    assert "| gender | stereotype preferred | 0.52 | 0.46 to 0.58 | 262 |" in card and "Not measured." not in card
    assert "| decoder | mit |" in card and "| me/data | cc-by-4.0 |" in card


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"train_seconds": 3.0}, r"no place for \['train_seconds'\]"),
        ({"results": [{"task": "captions", "value": 1}]}, r"lacks \['measure', 'n'\]"),
        ({"bias": [{"task": "gender"}]}, r"lacks \['measure', 'n', 'value'\]"),
    ],
)
def test_a_fact_the_card_has_no_place_for_is_not_dropped(tmp_path, model, processor, facts, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "nano", model, processor, card=facts)
    assert os.listdir(tmp_path) == []


def test_a_new_name_stands_where_the_old_one_was():
    card = '---\nlicense: mit\n---\n\n# model\n\nThe model.\n\nname = "model"\n'
    assert rename_card(card, "model", "me/it") == card.replace("# model", "# me/it").replace('"model"', '"me/it"')
