"""The mmgpt command: its verbs, in real processes where what a process prints matters."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from typer.testing import CliRunner

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, save_checkpoint
from modeling_mmgpt.tools import cli
from modeling_mmgpt.tools.assemble import CONNECTOR_FIELDS
from modeling_mmgpt.tower_families_mmgpt import AUDIO_FAMILIES, VISION_FAMILIES, family_names
from tests.conftest import TEXT, byte_tokenizer
from tests.test_assemble import save_parts
from training.checks.parity import MODELS, random_model, same_weights


def mmgpt(*arguments, said: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "modeling_mmgpt.tools.cli", *map(str, arguments)]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=300)


def run(*arguments, said: str = ""):
    """The same within this process, which saves the seconds of a start."""
    return CliRunner().invoke(cli.app, list(map(str, arguments)), input=said, env={"COLUMNS": "200"})


class TestGenerate:
    def test_only_the_answer_is_printed(self, assistant):
        media = assistant.parent
        done = mmgpt("generate", assistant, "Heard?", "--audio", media / "low.wav")
        assert (done.returncode, done.stdout) == (0, "low\n")

    def test_standard_input(self, assistant):
        assert run("generate", assistant, "-", said="Summarise: A cat sat there.\n").stdout == "cat sat\n"

    def test_sampling_repeats_with_a_seed(self, assistant):
        options = ("--temperature", "5", "--seed", "1", "--max-new-tokens", "12")
        first, second = (run("generate", assistant, "Once", *options).stdout for _ in range(2))
        assert first == second != "upon\n"

    def test_a_model_that_only_continues_text(self, tmp_path):
        torch.manual_seed(0)
        save_checkpoint(tmp_path / "text", MMGPTForCausalLM(MMGPTTextConfig(**TEXT)), byte_tokenizer())
        done = run("generate", tmp_path / "text", "Once", "--max-new-tokens", "4")
        assert done.exit_code == 0 and done.stdout
        assert "use mmgpt generate" in run("chat", tmp_path / "text").stderr
        assert "takes no images" in run("generate", tmp_path / "text", "Once", "--image", "a.png").stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["no-such-folder", "hi"], "There is no folder no-such-folder"),
            (["./no/folder", "hi"], "There is no folder ./no/folder"),
            (["{assistant}", "hi", "--image", "nowhere.png"], "there is no file nowhere.png"),
            (["{assistant}", "hi", "--image", "{assistant}"], "there is no file"),
            (["{assistant}", "not text: \udcff"], "not valid UTF-8"),
            (["{assistant}", "hi", "--device", "abacus"], "device string: abacus"),
            (["{assistant}", "hi", "--dtype", "float99"], "give one of auto, float32"),
            (["damaged", "hi"], "The weights of damaged are damaged"),
            (["empty", "hi"], "config.json"),
        ],
    )
    def test_what_is_wrong_is_said_in_a_line(self, assistant, tmp_path, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        shutil.copytree(assistant, "damaged")
        (tmp_path / "damaged" / "model.safetensors").write_bytes(b"not weights")
        done = run("generate", *(argument.format(assistant=assistant) for argument in arguments))
        assert done.exit_code == 1 and done.stdout == ""
        assert message in done.stderr and "Traceback" not in done.stderr


class TestAssemble:
    def test_it_leaves_a_folder_that_loads(self, tmp_path):
        parts = save_parts(tmp_path, "qwen3", "siglip", "hubert")
        options = [word for part, folder in parts.items() for word in (f"--{part}", folder)]
        options += ["--vision-connector", "pixel_shuffle", "--vision-merge-size", "4", "--dtype", "bfloat16"]
        done = run("assemble", *options, "--output", tmp_path / "model")
        assert done.exit_code == 0, done.output
        assert done.stdout.endswith("(text: text, vision: vision, audio: audio)\n")
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
        assert model.dtype == torch.bfloat16 and model.config.vision_merge_size == 4
        assert "Assembled from text: text" in (tmp_path / "model" / "README.md").read_text()

    def test_an_error_is_one_line(self, tmp_path):
        done = run("assemble", "--text", tmp_path / "no", "--output", tmp_path / "model")
        assert done.exit_code == 1 and done.stdout == "" and done.stderr.count("\n") == 1
        assert f"Error: text='{tmp_path}/no' cannot be read as a model" in done.stderr
        assert not (tmp_path / "model").exists()

    def test_every_connector_field_has_an_option(self):
        shown = run("assemble", "--help").stdout
        assert all(f"--{name.replace('_', '-')}" in shown for name in CONNECTOR_FIELDS)

    def test_the_help_names_the_families_of_the_table(self):
        words = re.findall(r"[\w-]+", run("assemble", "--help").stdout)
        for families in (VISION_FAMILIES, AUDIO_FAMILIES):
            assert set(re.findall(r"[\w-]+", family_names(families))) <= set(words)


class TestConvert:
    def test_there_and_back(self, tmp_path, tokenizer):
        theirs = random_model("llama", MODELS["llama"][1] | {"vocab_size": len(tokenizer)})
        theirs.save_pretrained(tmp_path / "theirs")
        tokenizer.save_pretrained(tmp_path / "theirs")
        for source, target, options in (("theirs", "ours", ()), ("ours", "back", ("--to", "llama"))):
            done = run("convert", tmp_path / source, tmp_path / target, *options)
            assert done.exit_code == 0 and done.stdout == f"{tmp_path / target}\n", done.output
        assert same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "back"), theirs)

    def test_an_error_is_one_line(self, tmp_path):
        random_model("llama", MODELS["llama"][1]).save_pretrained(tmp_path / "theirs")
        for options, message in (
            ((), "has no tokenizer"),
            (("--to", "gpt5"), "the families are openai-gpt"),
            (("--dtype", "float99"), "give one of auto, float32"),
        ):
            done = run("convert", tmp_path / "theirs", tmp_path / "ours", *options)
            assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
