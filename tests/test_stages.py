"""Stages and adapters: what is trained moves, what is not stays bit for bit, and the result is a model like any other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from modeling_mmgpt import MMGPTCollator, MMGPTForConditionalGeneration, MMGPTProcessor
from tests.conftest import make_model
from tests.toy_training import TOY_DATA, toy_samples, toy_tree
from training import train
from training.data.formats import OWN_DATA
from training.model_building import load_checkpoint
from training.recipe import RecipeError, build_recipe
from training.stages import add_adapter, part_of, prepare_model


pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")

FRESH_PROCESS = """
import sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForImageTextToText
batch = torch.load(sys.argv[3])
merged = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
auto = AutoPeftModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True).eval()
with torch.no_grad():
    torch.save([merged(**batch).logits, auto(**batch).logits], sys.argv[4])
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained toy model to start from."""
    folder = tmp_path_factory.mktemp("base")
    OWN_DATA.update(TOY_DATA)
    train.train(build_recipe(toy_tree(folder), "toy", "toy.yaml"))
    yield folder / "model"
    for name in TOY_DATA:
        del OWN_DATA[name]


@pytest.fixture
def tree(base, tmp_path) -> dict:
    return {**toy_tree(tmp_path / "run"), "model": {"checkpoint": str(base)}}


def run(tree: dict) -> dict:
    return train.train(build_recipe(tree, "toy", "toy.yaml"))


def moved_parts(before, after) -> set[str]:
    """The parts in which any parameter changed."""
    old, new = (dict(load_checkpoint(str(folder))[0].named_parameters()) for folder in (before, after))
    return {part_of(name) for name in old if not torch.equal(old[name], new[name])}


class TestStages:
    def test_align_moves_connectors_alone(self, tree, base, tmp_path):
        tree["stage"] = "align"
        report = run(tree)
        assert moved_parts(base, tmp_path / "run" / "model") == {"connectors"}
        assert report["trained_parameters"] < report["parameters"] / 4

    def test_finetune_moves_everything(self, tree, base, tmp_path):
        run(tree)
        assert moved_parts(base, tmp_path / "run" / "model") == {
            "decoder",
            "connectors",
            "vision_tower",
            "audio_tower",
        }

    def test_pretrain_reads_text_in_full_blocks(self, tree, base, tmp_path):
        tree |= {"stage": "pretrain", "data": {"train": [{"format": "toy_texts"}]}, "sequence": {"pack_to": 48}}
        tree["training"] |= {"max_steps": 8, "per_device_train_batch_size": 2}
        report = run(tree)
        assert moved_parts(base, tmp_path / "run" / "model") == {"decoder"}
        losses = [entry["loss"] for entry in report["log"] if "loss" in entry]
        assert losses[-1] < losses[0]

    def test_pretrain_refuses_media(self, tree):
        tree["stage"] = "pretrain"
        with pytest.raises(ValueError, match="sample '0' has images, audio or videos"):
            run(tree)

    def test_align_without_connectors(self):
        with pytest.raises(RecipeError, match="has no connectors"):
            prepare_model(make_model(vision=None, audio=None), "align")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stage": "finetun"}, "unknown stage 'finetun'; the nearest valid name is 'finetune'"),
        ({"stage": "align", "peft": {"peft_type": "lora"}}, "stage 'align' trains only connectors: leave peft out"),
        ({"stage": "align", "model": {"preset": "nano"}}, "model.preset starts from random weights"),
        ({"peft": {"peft_type": "lora"}, "model": {"preset": "nano"}}, "model.preset starts from random weights"),
        ({"stage": "align", "learning_rates": {"decoder": 1e-4}}, "trains only the connectors"),
        ({"stage": "pretrain", "learning_rates": {"vision_tower": 1e-4}}, "trains only the decoder"),
        ({"stage": "pretrain", "augment": {"image_flip": True}}, "leave augment out"),
        ({"stage": "pretrain", "sequence": {"max_length": 9}}, "set sequence.pack_to in place of max_length"),
        ({"sequence": {"max_length": 9, "pack_to": 8}}, "does not fit"),
        ({"peft": {"peft_type": "lore"}}, "the nearest valid name is 'LORA'"),
        ({"peft": {"peft_type": "prompt_tuning"}}, "These can be merged"),
        ({"peft": {"peft_type": "lora", "rank": 8}}, "unknown key `peft.rank`; the nearest valid name is"),
        ({"learning_rates": {"vision": 1e-4}}, "the nearest valid name is `vision_tower`"),
    ],
)
def test_what_makes_no_sense_is_refused(change, sentence):
    tree = {"model": {"checkpoint": "x"}, "data": {"train": [{"format": "fsdd"}]}, **change}
    with pytest.raises(RecipeError, match=sentence):
        build_recipe(tree, "toy", "toy.yaml")


def test_the_recipe_of_the_page_is_one():
    blocks = re.findall(r"^```yaml\n(.*?)^```", Path("training/README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    trees = [tree for tree in map(yaml.safe_load, blocks) if "stage" in tree]
    assert trees
    for tree in trees:
        recipe = build_recipe({**tree, "data": {"train": [{"format": "fsdd"}]}}, "page", "training/README.md")
        assert recipe.peft and recipe.learning_rates.given()


class TestAdapters:
    @pytest.mark.parametrize("extra", [{}, {"use_dora": True}], ids=["lora", "dora"])
    def test_merged_is_unmerged_here_and_in_a_fresh_process(self, extra, tree, base, tmp_path):
        tree["peft"] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **extra}
        tree["training"] |= {"max_steps": 4, "learning_rate": 1e-2}
        report = run(tree)
        folder = tmp_path / "run"
        assert report["trained_parameters"] < report["parameters"] / 2
        note = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        card = (folder / "adapter" / "README.md").read_text()
        assert (
            f"An adapter (PEFT) of `{Path(note['base_model_name_or_path']).name}`" in card and "base_model" not in card
        )
        assert "Recipe `" in card and "| adapter | " in card
        assert note["base_model_name_or_path"] == str(base)
        assert sorted(note["modules_to_save"]) == ["audio_connector", "vision_connector"]

        processor = MMGPTProcessor.from_pretrained(folder / "model")
        batch = MMGPTCollator(processor)(list(toy_samples(tmp_path, "train"))[:6])
        torch.save(batch, tmp_path / "batch.pt")
        arguments = [folder / "model", folder / "adapter", tmp_path / "batch.pt", tmp_path / "logits.pt"]
        subprocess.run([sys.executable, "-I", "-c", FRESH_PROCESS, *map(str, arguments)], cwd=tmp_path, check=True)
        merged, unmerged = torch.load(tmp_path / "logits.pt")
        torch.testing.assert_close(merged, unmerged, atol=2e-5, rtol=1e-4)
        with torch.no_grad():
            before = MMGPTForConditionalGeneration.from_pretrained(base)(**batch).logits
        assert (merged - before).abs().max() > 1e-2, "the adapter did learn something"

    def test_only_connectors_and_decoder_move(self, tree, base, tmp_path):
        tree["peft"] = {"peft_type": "LORA", "r": 4}
        run(tree)
        assert moved_parts(base, tmp_path / "run" / "model") == {"decoder", "connectors"}


def test_gated_blocks_are_connectors():
    """They are as new as what stands between the towers and the decoder: aligned, and trained whole beside adapters."""
    model = make_model(fusion="cross_attention")
    gate = next(name for name, _ in model.named_parameters() if name.endswith("attn_gate"))
    assert part_of(gate) == "connectors"
    model = add_adapter(model, {"peft_type": "LORA", "r": 2})
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert adapters and not any("cross_block" in name or "tower" in name for name in adapters)
    assert any(p.requires_grad for name, p in model.named_parameters() if name.endswith("attn_gate"))


def test_parts_are_those_of_the_model():
    parts = {part_of(name) for name, _ in make_model().named_parameters()}
    assert parts == {"decoder", "connectors", "vision_tower", "audio_tower"}
