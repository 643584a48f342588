"""Publishing over real HTTP, to a small Hub on this machine, from processes that know it as their Hub."""

import json
import os
import re
import shutil
from functools import partial

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load
from typer.testing import CliRunner

from modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTProcessor, push_checkpoint, save_checkpoint
from modeling_mmgpt.saving_mmgpt import MANIFEST
from modeling_mmgpt.tools import cli
from modeling_mmgpt.tools.checkpoints import push_folder
from modeling_mmgpt.tools.model_card import record_results
from tests.hub_server import problems_of_card, publishing_to, run_with_hub, running_hub
from tests.test_saving import CODE, COMPLETE


CARD = {
    "license": "apache-2.0",
    "results": [
        {"task": "colours", "measure": "exact match", "value": 0.97, "low": 0.95, "high": 0.98, "n": 300},
    ],
}
FULL_CARD = {
    **CARD,
    "language": ["en", "fr"],
    "datasets": ["me/questions"],
    "licences": {"decoder": "apache-2.0", "me/questions": "cc-by-4.0"},
    "base_model": "me/base",
    "data": "Questions.",
    "training": "10 steps.",
    "hardware": "2 CPU cores",
    "mixture": [{"source": "me/questions", "samples": 300, "weight": 1.0, "licence": "cc-by-4.0"}],
    "history": "Before that, nothing.",
    "bias": [{"task": "crows-pairs, gender", "measure": "stereotype preferred", "value": 0.52, "n": 262}],
    "intended_use": "Tests.",
    "limits": "Knows nothing.",
}


@pytest.fixture(scope="module")
def hub():
    """The local Hub, which this process publishes to as well."""
    with running_hub() as hub, publishing_to(hub):
        yield hub


@pytest.fixture(scope="module")
def published(hub, assistant):
    """The commit that made me/assistant."""
    return push_checkpoint("me/assistant", *loaded(assistant), CARD)


def loaded(folder):
    return MMGPTForConditionalGeneration.from_pretrained(folder), MMGPTProcessor.from_pretrained(folder)


@pytest.fixture
def on_hub(hub, tmp_path):
    """Runs a script in a fresh process whose Hub is the local one; returns what it printed."""
    return partial(run_with_hub, hub, tmp_path)


ASK = """
import sys
from transformers import pipeline
name, image = sys.argv[1:]
ask = pipeline("image-to-text", name, trust_remote_code=True, device="cpu")
print(type(ask.model).__module__)
print(ask(image)[0]["generated_text"])
"""

TUNE = """
import sys
import torch
from transformers import AutoModelForMultimodalLM
model = AutoModelForMultimodalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
torch.nn.init.zeros_(model.model.vision_connector.linear_1.weight)
model.push_to_hub("me/tuned", commit_message="Tuned", max_shard_size="100KB")
"""

READ = """
import sys
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
model = AutoModelForMultimodalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(processor.prompts["translation"])
print(model(input_ids=torch.arange(10, 30)[None]).logits.sum().item())
"""


def test_one_commit_holds_everything_and_loads_by_name(hub, published, on_hub, assistant):
    _, commit = hub.repositories["me/assistant"]  # the empty first commit, and ours
    assert commit["oid"] == published.oid
    assert set(commit["files"]) >= COMPLETE | CODE
    assert commit["files"]["model.safetensors"] == (assistant / "model.safetensors").read_bytes()
    card = commit["files"]["README.md"].decode()
    assert "\n# me/assistant\n" in card and 'name = "me/assistant"' in card
    assert "| colours | exact match | 0.97 | 0.95 to 0.98 | 300 |" in card

    module, answer = on_hub(ASK, "me/assistant", assistant.parent / "blue.png").splitlines()
    assert answer == "a blue one"
    assert module.startswith("transformers_modules.") and published.oid in module


def test_the_cards_own_snippet_runs(hub, published, on_hub, assistant, tmp_path):
    card = hub.repositories["me/assistant"][-1]["files"]["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    (tmp_path / "image.png").write_bytes((assistant.parent / "red.png").read_bytes())
    (tmp_path / "audio.wav").write_bytes((assistant.parent / "low.wav").read_bytes())
    assert "a red one" in on_hub(snippet).splitlines()


def test_a_tuned_model_goes_back_under_its_name(hub, published, on_hub, assistant):
    """From a machine without the package: the code, the processor and the card that came with the model go back with it."""
    push_checkpoint("me/tuned", *loaded(assistant), CARD)
    first = hub.repositories["me/tuned"][-1]
    on_hub(TUNE, "me/tuned")
    assert [commit["title"] for commit in hub.repositories["me/tuned"]] == ["", "Upload model", "Tuned"]
    second = hub.repositories["me/tuned"][-1]
    assert set(second["files"]) >= (COMPLETE - {"model.safetensors"}) | CODE
    assert second["deleted"] == ["model.safetensors"], "one file of weights became several, and the one must go"
    assert "model.safetensors.index.json" in second["files"]
    assert second["files"]["README.md"] == first["files"]["README.md"]
    index = json.loads(second["files"]["model.safetensors.index.json"])
    name = "model.vision_connector.linear_1.weight"
    weight = load(second["files"][index["weight_map"][name]])[name]
    assert not weight.any() and set(index["weight_map"]) == set(load(first["files"]["model.safetensors"]))


def test_a_model_keeps_its_card_wherever_it_goes(hub, assistant, tmp_path):
    """What was measured in a folder is on the Hub however the model gets there."""
    folder = shutil.copytree(assistant, tmp_path / "model")
    record_results(folder, CARD["results"], by="recipe `toy`, split `test`")
    model, processor = loaded(folder)
    model.push_to_hub("me/by-method")
    push_checkpoint("me/by-function", model, processor, {"license": "apache-2.0"})
    push_folder(folder, "me/by-folder")
    cards = {name: hub.repositories[f"me/{name}"][-1]["files"] for name in ("by-method", "by-function", "by-folder")}
    # A travelling save copies the card as it is; the package renders it under the name that the model has on the Hub.
    for name in ("README.md", "card_facts.json"):
        assert cards["by-method"][name] == (folder / name).read_bytes()
    for name in ("by-function", "by-folder"):
        card = cards[name]["README.md"].decode()
        assert "| colours | exact match | 0.97 | 0.95 to 0.98 | 300 |" in card
        assert f"\n# me/{name}\n" in card and f'name = "me/{name}"' in card and f"- name: me/{name}\n" in card
        assert json.loads(cards[name]["card_facts.json"])["name"] == f"me/{name}"
        assert ModelCard(card).data.license == ("apache-2.0" if name == "by-function" else None)


def adapted(folder):
    model, processor = loaded(folder)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted.eval(), processor


def test_an_adapter_names_its_base(hub, published, on_hub, assistant):
    model, processor = adapted(assistant)
    push_checkpoint("me/adapter", model, processor, {"base_model": "me/assistant"})
    assert model.peft_config["default"].base_model_name_or_path == str(assistant)
    commit = hub.repositories["me/adapter"][-1]
    assert "model.safetensors" not in commit["files"] and "adapter_model.safetensors" in commit["files"]
    assert json.loads(commit["files"]["adapter_config.json"])["base_model_name_or_path"] == "me/assistant"
    card = commit["files"]["README.md"].decode()
    assert "base_model: me/assistant" in card and "library_name: peft" in card
    assert "An adapter (PEFT) of [me/assistant]" in card

    prompt, total = on_hub(READ, "me/adapter").splitlines()
    assert prompt == processor.prompts["translation"]
    with torch.no_grad():
        logits = model(input_ids=torch.arange(10, 30)[None]).logits
    assert float(total) == pytest.approx(logits.sum().item(), abs=1e-2)


def test_an_adapter_of_a_folder_is_refused(hub, assistant):
    with pytest.raises(ValueError, match="push the base first"):
        push_checkpoint("me/orphan", *adapted(assistant))
    assert "me/orphan" not in hub.repositories


def test_the_command_line_pushes_a_folder(hub, assistant):
    done = CliRunner().invoke(cli.app, ["push", str(assistant), "me/by-command", "--private", "-m", "First"])
    assert done.exit_code == 0, done.output
    commit = hub.repositories["me/by-command"][-1]
    assert done.stdout.strip().endswith(commit["oid"]) and commit["title"] == "First"
    assert set(commit["files"]) >= COMPLETE | CODE and hub.private["me/by-command"]
    assert "\n# me/by-command\n" in commit["files"]["README.md"].decode()


def test_the_runs_own_files_stay_at_home(hub, assistant, tmp_path):
    folder = shutil.copytree(assistant, tmp_path / "run")
    for name in ("optimizer.pt", "rng_state_0.pth", "training_args.bin", ".secret"):
        (folder / name).write_text("x")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_text("x")
    (folder / "second").mkdir()
    (folder / "second" / "adapter_model.safetensors").write_bytes(b"x")
    push_folder(folder, "me/run")
    kept = {path.name for path in assistant.iterdir()} - {MANIFEST} | {"second/adapter_model.safetensors"}
    assert set(hub.repositories["me/run"][-1]["files"]) == kept


FOREIGN = {
    "model_ema.safetensors": "x",
    "second/adapter_model.safetensors": "x",
    "ema/model.safetensors": "x",
    "model.safetensors.index.fp16.json": "{}",
    "handler.py": "# mine",
}


def test_a_push_deletes_only_the_weights_that_it_supersedes(hub, assistant):
    model, _ = loaded(assistant)
    api = huggingface_hub.HfApi()
    model.push_to_hub("me/shared", max_shard_size="100KB")
    for name, text in FOREIGN.items():
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id="me/shared")
    model.push_to_hub("me/shared", variant="bf16")
    model.push_to_hub("me/shared")
    commits = hub.repositories["me/shared"]
    assert not commits[-2]["deleted"] and "model.bf16.safetensors" in commits[-1]["files"]
    assert {name for name in commits[-1]["deleted"] if not name.startswith("model-0")} == {
        "model.safetensors.index.json"
    }
    assert {name: commits[-1]["files"][name].decode() for name in FOREIGN} == FOREIGN
    model.push_to_hub("me/shared", variant="fp16")  # supersedes its own index
    assert hub.repositories["me/shared"][-1]["deleted"] == ["model.safetensors.index.fp16.json"]


def test_pushing_takes_the_librarys_arguments(hub, assistant, tmp_path, monkeypatch):
    model, processor = loaded(assistant)
    model.push_to_hub("me/options", commit_message="First", private=True, tags="colours")
    model.push_to_hub(
        "me/options",
        commit_message="Second",
        commit_description="With a branch.",
        revision="next",
        tags=["colours", "shapes"],
        token="hf_test",
        create_pr=False,
        use_temp_dir=True,
    )
    push_checkpoint("me/options", model, processor, revision="next", tags=["sounds"], commit_description="Once more.")
    main, branch = hub.repositories["me/options"], hub.branches["me/options", "next"]
    assert [commit["title"] for commit in main] == ["", "First"]
    assert [commit["title"] for commit in branch] == ["", "First", "Second", "Upload model"]
    assert [commit["description"] for commit in branch[2:]] == ["With a branch.", "Once more."]
    cards = [ModelCard(commit["files"]["README.md"].decode()) for commit in branch[1:]]
    assert [set(card.data.tags) & {"colours", "shapes", "sounds"} for card in cards] == [
        {"colours"},
        {"colours", "shapes"},
        {"sounds"},
    ]
    assert all(card.data.tags.count("colours") <= 1 for card in cards)
    monkeypatch.chdir(tmp_path)
    model.add_model_tags("tagged")
    model.push_to_hub("me/options", use_temp_dir=False)
    assert (tmp_path / "options" / "model.safetensors").exists()
    assert "tagged" in ModelCard(hub.repositories["me/options"][-1]["files"]["README.md"].decode()).data.tags
    model.save_pretrained(
        tmp_path / "saved",
        push_to_hub=True,
        repo_id="me/options",
        revision="saved",
        commit_message="Saved",
        tags="now",
    )
    commit = hub.branches["me/options", "saved"][-1]
    assert commit["title"] == "Saved" and set(commit["files"]) >= COMPLETE | CODE
    assert {"now", "tagged"} <= set(ModelCard(commit["files"]["README.md"].decode()).data.tags)
    for push in (model.push_to_hub, partial(push_folder, tmp_path / "saved")):
        with pytest.raises(TypeError, match="commit_mesage"):
            push("me/options", commit_mesage="A typing error")


def test_a_save_that_is_pushed_takes_its_own_weights_along_and_no_others(hub, assistant, tmp_path):
    model, processor = loaded(assistant)
    folder = save_checkpoint(tmp_path / "several", model, processor)
    theirs = ["model_ema.safetensors", "model.gguf", "pytorch_model.bin", "model.safetensors.index.int8.json"]
    for name in theirs:
        (folder / name).write_text("x")
    (folder / "labels.json").write_text("{}")
    model.save_pretrained(folder, variant="fp16", push_to_hub=True, repo_id="me/several")
    files = set(hub.repositories["me/several"][-1]["files"])
    assert files >= (COMPLETE | CODE | {"model.fp16.safetensors", "labels.json"}) - {"model.safetensors"}
    assert not files & {"model.safetensors", MANIFEST, *theirs}
    assert set(os.listdir(folder)) >= {"model.safetensors", "model.fp16.safetensors", *theirs}


def test_a_push_that_fails_keeps_what_was_saved(hub, assistant, tmp_path):
    model, _ = loaded(assistant)
    hub.repositories["you/model"] = [{"oid": "1" * 40, "title": "", "files": {}}]
    hub.foreign.add("you/model")
    for revision in (None, "next"):
        with pytest.raises(HfHubHTTPError, match="403"):
            model.save_pretrained(tmp_path / "kept", push_to_hub=True, repo_id="you/model", revision=revision)
    MMGPTForConditionalGeneration.from_pretrained(tmp_path / "kept")
    assert len(hub.repositories["you/model"]) == 1


@pytest.mark.parametrize("revision", [None, "main"])
def test_changes_are_proposed_to_a_repository_of_somebody_else(hub, assistant, revision):
    name = f"you/{revision}"
    hub.repositories[name] = [{"oid": "1" * 40, "title": "", "files": {}}]
    hub.foreign.add(name)
    proposed = loaded(assistant)[0].push_to_hub(name, create_pr=True, revision=revision)
    assert proposed.pr_num == 1 and len(hub.repositories[name]) == 1
    assert set(hub.branches[name, "refs/pr/1"][-1]["files"]) >= COMPLETE | CODE


def test_what_is_no_model_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="is no saved model"):
        push_folder(tmp_path, "me/nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weights"):
        push_folder(tmp_path, "me/nothing")
    assert "me/nothing" not in hub.repositories


@pytest.mark.skipif(
    int(huggingface_hub.__version__.split(".")[0]) < 2,
    reason="its ModelCard.validate asks huggingface.co, wherever the Hub is",
)
@pytest.mark.parametrize("facts", [{}, FULL_CARD], ids=["nothing known", "everything known"])
def test_the_card_is_valid(hub, tmp_path, model, processor, facts):
    save_checkpoint(tmp_path / "model", model, processor, facts)
    ModelCard.load(tmp_path / "model" / "README.md").validate()
    measured = {
        "task": "captions",
        "measure": "cider",
        "value": 0.51,
        "low": 0.4,
        "high": 0.6,
        "n": 9,
        "split": "test",
    }
    record_results(tmp_path / "model", [measured], by="recipe `toy`, split `test`")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    card.validate()
    assert card.data.eval_results[-1].metric_value == 0.51
    card.data.tags = "no list"
    with pytest.raises(ValueError, match=r"tags.* must be a list"):
        card.validate()


def test_the_local_hub_refuses_what_the_real_one_does():
    assert problems_of_card("no metadata") and problems_of_card("---\nlicense: [1]\n---\n")
    assert problems_of_card("---\nbase_model: /tmp/folder\n---\n") and not problems_of_card("---\ntags: [a]\n---\n")
