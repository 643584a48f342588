"""The model card tells what is known and keeps quiet about the rest; its facts are data."""

import datetime
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTProcessor, save_checkpoint
from modeling_mmgpt.tools.model_card import (
    END,
    START,
    licences_of,
    part_sizes,
    read_facts,
    record_results,
    renamed_files,
    write_card,
)
from tests.conftest import section_of


RESULTS = [
    {"task": "speech", "measure": "wer", "value": 0.05, "low": 0.03, "high": 0.08, "n": 80, "split": "test"},
    {"task": "speech", "measure": "cer", "value": 0.02, "low": 0.01, "high": 0.03, "n": 80, "split": "test"},
]
COLOURS = {"task": "colours", "measure": "exact_match", "value": 0.9, "n": 10, "majority": 0.5, "shuffled": 0.4}
BIAS = [{"task": "gender", "measure": "stereotype preferred", "value": 0.52, "low": 0.46, "high": 0.58, "n": 262}]
MIXTURE = [
    {"source": "me/questions", "samples": 12000, "weight": 2.0, "licence": "cc-by-4.0"},
    {"source": "birds", "samples": None, "weight": 0.5, "licence": None},
]


NOTHING = {"Results": "Nothing was measured when this checkpoint was saved.", "Bias": "Not measured."}


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
    assert "a vision encoder and an audio encoder: it takes text, images and audio," in card
    assert "license: apache-2.0" in card
    sizes = part_sizes(model)
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert all(f"| {part} | {size:,} |" in card for part, size in sizes.items())


def test_what_is_not_known_is_not_told(tmp_path, model, processor):
    card = saved_card(tmp_path, model, processor)
    assert "Nothing was measured" in card and "## Bias\n\nNot measured." in card
    assert "telling from an image or a voice who somebody is" in section_of(
        tmp_path / "nano" / "README.md", "Out-of-scope use"
    )
    assert "None" not in card and "Hardware" not in card and "\n\n\n\n" not in card


def test_everything_known_is_told(tmp_path, model, processor):
    facts = {
        "hardware": "2 CPU cores",
        "intended_use": "Images of red things.",
        "out_of_scope": "Anything blue.",
        "base_model": "me/base",
        "bias": BIAS,
    }
    card = saved_card(tmp_path, model, processor, **facts, licences={"decoder": "mit", "me/data": "cc-by-4.0"})
    assert "Hardware: 2 CPU cores." in card and "Images of red things." in card and "Trained from me/base." in card
    assert section_of(tmp_path / "nano" / "README.md", "Out-of-scope use") == "Anything blue."
    assert "|  | stereotype preferred | n |\n| --- | --- | --- |\n| gender | 0.520 (0.460 to 0.580) | 262 |" in card
    assert "Not measured." not in card
    assert "| decoder | mit |" in card and "| me/data | cc-by-4.0 |" in card


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"train_seconds": 3.0}, r"no place for \['train_seconds'\]"),
        ({"results": [{"task": "captions", "value": 1}]}, r"lacks \['measure', 'n'\]"),
        ({"bias": [{"task": "gender"}]}, r"lacks \['measure', 'n', 'value'\]"),
        ({"mixture": [{"source": "birds"}]}, r"lacks \['licence', 'samples', 'weight'\]"),
    ],
)
def test_a_fact_the_card_has_no_place_for_is_not_dropped(tmp_path, model, processor, facts, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "nano", model, processor, card=facts)
    assert os.listdir(tmp_path) == []


def test_the_facts_are_data(tmp_path, model, processor):
    facts = {"license": "mit", "mixture": MIXTURE, "training": "10 steps.", "results": RESULTS}
    saved_card(tmp_path, model, processor, **facts)
    stored = json.loads((tmp_path / "nano" / "card_facts.json").read_text())
    parts = stored.pop("model")["parts"]
    assert parts == part_sizes(model) and stored == {"name": "nano", **facts}
    assert read_facts(tmp_path / "nano") == json.loads((tmp_path / "nano" / "card_facts.json").read_text())
    assert read_facts(tmp_path) == {}


def test_numbers_of_numpy_are_data_too(tmp_path, model, processor):
    saved_card(tmp_path, model, processor, results=[{**COLOURS, "value": np.float32(0.5), "n": np.int64(10)}])
    (result,) = read_facts(tmp_path / "nano")["results"]
    assert result == {**COLOURS, "value": 0.5, "n": 10}


def test_a_new_name_stands_where_the_old_one_was(tmp_path, model, processor):
    card = saved_card(tmp_path, model, processor, results=RESULTS)
    renamed = card.replace('"nano"', '"me/it"')
    renamed = renamed.replace("# nano\n", "# me/it\n").replace("- name: nano", "- name: me/it")
    files = renamed_files(tmp_path / "nano", "me/it")
    assert files["README.md"] == renamed != card and json.loads(files["card_facts.json"])["name"] == "me/it"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# My birds\n")
    assert renamed_files(tmp_path, "me/it") == {}, "a card that is not ours"


def test_the_mixture_and_the_licence_of_each_part(tmp_path, model, processor):
    card = saved_card(tmp_path, model, processor, mixture=MIXTURE, licences={"decoder": "mit"}, training="10 steps.")
    training = section_of(tmp_path / "nano" / "README.md", "Training")
    assert training.startswith("10 steps.\n\n| data | samples of an epoch | weight |\n")
    assert "| me/questions | 12,000 | 2.0 |\n| birds | streamed | 0.5 |" in training and "not recorded" not in training
    licences = {"decoder": "mit", "me/questions": "cc-by-4.0", "birds": "not stated"}
    assert licences_of(read_facts(tmp_path / "nano")) == licences and "| code | Apache-2.0 |" in card


class TestRecord:
    """What is measured later goes into the card that is there."""

    @pytest.fixture
    def folder(self, tmp_path, model, processor):
        save_checkpoint(tmp_path / "nano", model, processor, card={"license": "mit", "hardware": "2 CPU cores"})
        return tmp_path / "nano"

    def test_a_table_takes_the_place_of_the_sentence(self, folder):
        before = (folder / "README.md").read_text()
        assert record_results(folder, [*RESULTS, COLOURS], by="recipe `toy`, split `test`") == folder / "README.md"
        results = section_of(folder / "README.md", "Results")
        today = datetime.date.today()
        head = "| task | measure | value | 95 % interval | majority | shuffled | n |"
        assert results.startswith(f"Recipe `toy`, split `test`, {today}:\n\n{head}")
        assert "| speech | wer | 0.05 | 0.03 to 0.08 |  |  | 80 |" in results
        assert "| colours | exact_match | 0.9 |  | 0.5 | 0.4 | 10 |" in results
        # All else is as it was, to the byte.
        after = ModelCard.load(folder / "README.md").text
        assert after.replace(results, NOTHING["Results"]) == ModelCard(before).text
        assert "Hardware: 2 CPU cores." in after and NOTHING["Bias"] in after

    def test_the_metadata_have_the_numbers(self, folder):
        record_results(folder, [*RESULTS, {**COLOURS, "dataset": "me/colours"}], by="recipe `toy`")
        data = ModelCard.load(folder / "README.md").data
        assert data.license == "mit" and data.model_name == "nano"
        found = [(one.dataset_type, one.dataset_split, one.metric_type, one.metric_value) for one in data.eval_results]
        speech = [("speech", "test", "wer", 0.05), ("speech", "test", "cer", 0.02)]
        assert found == [*speech, ("me/colours", None, "exact_match", 0.9)]
        assert {one.task_type for one in data.eval_results} == {"any-to-any"}

    def test_measured_again_it_is_replaced_and_others_stay(self, folder):
        record_results(folder, RESULTS, by="recipe `a`")
        record_results(folder, [COLOURS], by="recipe `b`")
        once = (folder / "README.md").read_text()
        record_results(folder, [{**COLOURS, "value": 0.8}], by="recipe `b`")
        changed = once.replace("| 0.9 |", "| 0.8 |").replace("value: 0.9", "value: 0.8")
        assert (folder / "README.md").read_text() == changed
        record_results(folder, [{**COLOURS, "value": 0.9}], by="recipe `b`")
        assert (folder / "README.md").read_text() == once
        assert once.index("Recipe `a`") < once.index("Recipe `b`") < once.index("## Bias")

    def test_bias_has_a_section_of_its_own(self, folder):
        record_results(folder, BIAS, by="CrowS-Pairs", section="Bias")
        path = folder / "README.md"
        assert "| gender | 0.520 (0.460 to 0.580) | 262 |" in section_of(path, "Bias")
        assert section_of(path, "Results") == NOTHING["Results"] and not ModelCard.load(path).data.eval_results
        assert read_facts(folder)["bias"] == [BIAS[0] | {"by": "CrowS-Pairs", "date": str(datetime.date.today())}]

    def test_measures_of_bias_stand_side_by_side_above_what_they_mean(self, folder):
        per_token = {**BIAS[0], "measure": "per token", "value": -0.0004, "n": 200}
        age = {"task": "age", "measure": "per token", "value": "0.50", "n": 9, "low": None}
        bias = [{**BIAS[0], "scope": "English."}, per_token, age]
        record_results(folder, bias, by="CrowS-Pairs", section="Bias")
        assert section_of(folder / "README.md", "Bias").partition(":\n\n")[2] == (
            "|  | stereotype preferred | per token | n |\n| --- | --- | --- | --- |\n"
            "| gender | 0.520 (0.460 to 0.580) | 0.000 (0.460 to 0.580), n 200 | 262 |\n"
            "| age |  | 0.50 | 9 |\n\nEnglish."
        )

    def test_a_card_that_somebody_wrote_keeps_their_words(self, folder):
        own = "---\nlicense: mit\nwidget:\n- text: Hello\n---\n# Birds\n\nMine.\n\n## Thanks\n\nTo all.\n"
        (folder / "README.md").write_text(own)
        (folder / "card_facts.json").unlink()
        record_results(folder, RESULTS, by="recipe `a`")
        record_results(folder, BIAS, by="CrowS-Pairs", section="Bias")
        card = ModelCard.load(folder / "README.md")
        theirs = "# Birds\n\nMine.\n\n## Thanks\n\nTo all.\n\n"
        assert card.text.strip().startswith(f"{theirs}{START}\n\n## Results\n\nRecipe `a`")
        assert "| gender |" in card.text and "## Training" not in card.text
        assert card.data.to_dict()["widget"] == [{"text": "Hello"}] and len(card.data.eval_results) == 2

    def test_a_card_is_written_atomically(self, folder, monkeypatch):
        before = (folder / "README.md").read_text()

        def fail(*arguments):
            raise OSError("the disk is full")

        monkeypatch.setattr("modeling_mmgpt.tools.model_card.os.replace", fail)
        with pytest.raises(OSError, match="disk is full"):
            record_results(folder, RESULTS, by="recipe `a`")
        assert (folder / "README.md").read_text() == before
        (folder / "README.md").write_text("---\n{\n---\n")
        with pytest.raises(ValueError, match=r"README.md cannot be read: fix or remove it"):
            record_results(folder, RESULTS, by="recipe `a`")
        with pytest.raises(ValueError, match=r"lacks \['measure', 'n'\]"):
            record_results(folder, [{"task": "captions", "value": 1}], by="recipe `a`")

    def test_no_card_no_table(self, tmp_path):
        assert record_results(tmp_path, RESULTS, by="recipe `a`") is None and os.listdir(tmp_path) == []


class TestSavedAgain:
    """A model that is loaded and saved again has its card with it, and what its new owner says replaces the old."""

    @pytest.fixture
    def folder(self, tmp_path, model, processor):
        facts = {"license": "mit", "mixture": MIXTURE, "training": "10 steps.", "results": RESULTS}
        save_checkpoint(tmp_path / "nano", model, processor, card=facts)
        record_results(tmp_path / "nano", BIAS, by="CrowS-Pairs", section="Bias")
        return tmp_path / "nano"

    def again(self, folder, card=None) -> str:
        model, processor = (one.from_pretrained(folder) for one in (MMGPTForConditionalGeneration, MMGPTProcessor))
        save_checkpoint(folder.parent / "again", model, processor, card=card)
        return (folder.parent / "again" / "README.md").read_text()

    def test_nothing_new(self, folder):
        first = (folder / "README.md").read_text()
        MMGPTForConditionalGeneration.from_pretrained(folder).save_pretrained(folder.parent / "other")
        for name in ("README.md", "card_facts.json"):
            assert (folder.parent / "other" / name).read_bytes() == (folder / name).read_bytes()
        assert self.again(folder) == renamed_files(folder, "again")["README.md"] != first
        facts = read_facts(folder)
        assert read_facts(folder.parent / "again") == {**facts, "name": "again"}

    def test_some_facts_are_new(self, folder):
        first = (folder / "README.md").read_text()
        (folder / "README.md").write_text(first.replace("tags:\n", "tags:\n- birds\n") + "\n## Thanks\n\nTo all.\n")
        card = self.again(folder, {"license": "apache-2.0", "intended_use": "Birds."})
        data, path = ModelCard(card).data, folder.parent / "again" / "README.md"
        assert data.license == "apache-2.0" and data.model_name == "again" and len(data.eval_results) == 2
        assert data.tags == ["mmgpt", "custom_code", "birds"]
        assert section_of(path, "Intended use") == "Birds." and section_of(path, "Thanks") == "To all."
        for heading in ("Training", "Results", "Bias", "Licences"):
            assert section_of(path, heading) == section_of(folder / "README.md", heading) != ""
        assert "# again\n" in card and 'name = "again"' in card

    def test_an_empty_list_of_results_takes_the_old_ones_away(self, folder):
        data = ModelCard(self.again(folder, {"results": [], "bias": []})).data
        path = folder.parent / "again" / "README.md"
        assert section_of(path, "Results") == NOTHING["Results"] and section_of(path, "Bias") == NOTHING["Bias"]
        assert not data.eval_results and section_of(path, "Training").startswith("10 steps.")

    def test_what_stands_outside_the_markers_is_the_owners(self, folder):
        path = folder / "README.md"
        text = path.read_text().replace("# nano\n", "# edited and lost\n")
        text = text.replace("license: mit", "license: cc0-1.0\nbase_model: me/base\nwidget:\n- text: Hi")
        theirs = "model-index:\n- name: nano\n  results:\n"
        other = "  - task:\n      type: x\n    dataset:\n      name: theirs\n      type: theirs\n    metrics:\n    - type: wer\n      value: 1\n"
        assert theirs in text
        text = text.replace(START, f"Mine above.\n\n{START}").replace(END, f"{END}\n\nMine below.")
        path.write_text(text.replace(theirs, theirs + other))
        for card in (self.again(folder, {"hardware": "1 GPU"}), renamed_files(folder, "again")["README.md"]):
            data = ModelCard(card).data
            places = [card.index(words) for words in ("Mine above.", START, "# again", END, "Mine below.")]
            assert places == sorted(places) and "edited and lost" not in card
            assert (data.license, data.base_model, data.widget) == ("cc0-1.0", "me/base", [{"text": "Hi"}])
            assert [one.dataset_name for one in data.eval_results] == ["theirs", "speech", "speech"]


class TestOldCard:
    """The card of a checkpoint of version 0.1.0, which had no card_facts.json, with what its owner added."""

    @pytest.fixture
    def folder(self, tmp_path):
        shutil.copyfile(Path(__file__).parent / "card_of_0.1.0.md", tmp_path / "README.md")
        return tmp_path

    def test_all_of_its_facts_are_read(self, folder):
        facts = read_facts(folder)
        model = facts.pop("model")
        assert model["architecture"] == "MMGPTForConditionalGeneration" and model["modalities"] == ["vision", "audio"]
        assert sum(model["parts"].values()) == 35952 and (model["layers"], model["vocabulary"]) == (2, 320)
        by = {"by": "recipe `toy`, split `test`", "date": "2026-11-28"}
        training = section_of(folder / "README.md", "Training").removeprefix("Trained from me/base.\n\n")
        assert training.startswith("10 steps.\n\nHardware: 2 CPU cores.") and training.endswith("5 steps.")
        assert facts == {
            "name": "nano",
            "license": "mit",
            "language": ["en"],
            "datasets": ["me/questions"],
            "base_model": "me/base",
            "intended_use": "Birds.",
            "data": training,  # as it stood there
            "licences": {"decoder": "mit", "me/questions": "cc-by-4.0", "birds": "not stated"},
            "limits": "Knows | nothing.",
            "results": [
                {"task": "captions", "measure": "exact match", "value": "0.970", "n": 300},
                {**RESULTS[0], "dataset": "me/speech", **by},
                {**COLOURS, **by},
            ],
            "bias": [{**BIAS[0], "measure": "stereotype | preferred", "by": "CrowS-Pairs", "date": "2026-11-28"}],
        }

    def test_nothing_of_it_is_lost_when_it_is_rendered(self, folder, model):
        before = ModelCard.load(folder / "README.md").data.to_dict()
        training = section_of(folder / "README.md", "Training")
        write_card(folder, model, {"name": "nano"}, earlier=folder)
        card = ModelCard.load(folder / "README.md")
        after = card.data.to_dict()
        assert sorted(before.pop("tags")) == sorted(after.pop("tags")) and after == before
        assert card.text.endswith(f"{END}\n\n## Thanks\n\nTo all.\n")
        assert section_of(folder / "README.md", "Training") == training
        facts = read_facts(folder)
        record_results(folder, RESULTS, by="recipe `b`")
        assert {**read_facts(folder), "results": facts["results"]} == facts

    def test_of_an_adapter_and_of_a_text_model(self, folder):
        text = (folder / "README.md").read_text()
        lead = next(line for line in text.splitlines() if line.startswith("An MMGPT"))
        adapter = "An adapter (PEFT) of [me/base](https://huggingface.co/me/base), an MMGPT model (`MMGPTForCausalLM`): a GPT decoder. It reads and writes text."
        (folder / "README.md").write_text(text.replace(lead, adapter))
        model = read_facts(folder)["model"]
        assert (model["adapter_of"], model["is_local"], model["modalities"]) == ("me/base", False, [])
        assert "base_model" not in read_facts(folder)


def test_calibration_has_a_section_of_its_own_with_the_diagram_in_numbers(tmp_path, model, processor):
    save_checkpoint(tmp_path / "nano", model, processor)
    path = tmp_path / "nano" / "README.md"
    assert "## Calibration" not in path.read_text()
    bins = [[0.4, 0.5, 7, 0.45, 0.5714], [0.9, 1.0, 3, 0.97, 1.0]]
    result = {"task": "colours", "measure": "expected calibration error", "value": 0.09, "n": 10, "bins": bins}
    record_results(tmp_path / "nano", [result], by="recipe `a`", section="Calibration")
    section = section_of(path, "Calibration")
    assert "| colours | expected calibration error | 0.09 |  | 10 |" in section
    assert "| colours | 0.4 to 0.5 | 7 | 0.45 | 0.5714 |\n| colours | 0.9 to 1.0 | 3 | 0.97 | 1.0 |" in section
    assert section_of(path, "Results") == NOTHING["Results"] and not ModelCard.load(path).data.eval_results
