"""The mmgpt command: what a person in a terminal sees, in real processes."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, save_checkpoint
from modeling_mmgpt.tools import cli
from tests.conftest import TEXT, byte_tokenizer, make_model, make_processor
from tests.tiny_assistant import RATE


def mmgpt(*arguments, said: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "modeling_mmgpt.tools.cli", *map(str, arguments)]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=300)


def run(*arguments, said: str = ""):
    """The same within this process, which saves the seconds of a start."""
    return CliRunner().invoke(cli.app, list(map(str, arguments)), input=said, env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def talk(assistant):
    """One conversation with everything in it, good and bad, and what came out."""
    media = assistant.parent
    (media / "text.png").write_text("not a picture")
    (media / "broken.png").write_bytes((media / "red.png").read_bytes()[:60])
    soundfile.write(media / "empty.wav", np.zeros(0, dtype=np.float32), RATE)
    lines = [
        "Colour?",
        "/clear",
        "Once",
        f"/image {media / 'text.png'}",
        f"/image {media / 'broken.png'}",
        "/image ftp://example.org/a.png",
        f"/image {media / 'nowhere.png'}",
        f"/image {media / 'bomb.png'}",
        f"/audio {media / 'empty.wav'}",
        f"/image {media}",
        "/image",
        "/what",
        "word " * 200,
        "/clear",
        f"/image '{media / 'blue.png'}'",
        "Describe the picture.",
        "/clear",
        f"/audio {media / 'high.wav'}",
        "Heard?",
        "/exit",
        "In French: cat",
    ]
    return mmgpt("chat", assistant, "--image", media / "red.png", "--device", "cpu", said="\n".join(lines))


class TestChat:
    def test_answers_with_media_of_the_command_line_and_of_later_turns(self, talk):
        assert talk.returncode == 0, talk.stderr
        assert all(f"> {answer}\n" in talk.stdout for answer in ("red", "upon", "a blue one", "high"))

    def test_bad_input_is_named_and_the_conversation_goes_on(self, talk):
        errors = [line for line in talk.stderr.splitlines() if line.startswith("Error:")]
        expected = [
            "is not an image that can be read",
            "broken.png is damaged",
            "cannot open 'ftp://example.org/a.png'",
            "there is no file",
            "10000 x 10000 pixels, more than the 89,478,485",
            "is empty: it has no samples",
            "there is no file",
            "Name a file or a URL: /image FILE",
            "reads at most 256",
        ]
        assert len(errors) == len(expected)
        assert all(words in error for words, error in zip(expected, errors, strict=True))
        assert "Traceback" not in talk.stderr

    def test_help_and_the_end(self, talk):
        assert "/audio FILE" in talk.stdout
        assert "chat" not in talk.stdout.replace("/what", ""), "what comes behind /exit is not answered"

    def test_the_end_of_input_ends_it(self, assistant):
        done = run("chat", assistant, said="Once")
        assert done.exit_code == 0 and "upon" in done.stdout


class TestSession:
    @pytest.fixture
    def session(self, assistant):
        return cli.Session(str(assistant), "cpu", "auto")

    def test_turns_build_on_one_another(self, session):
        session.say("Once", {"max_new_tokens": 8})
        session.say("In French: cat", {"max_new_tokens": 8})
        assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
        assert session.messages[1]["content"] == "upon"

    def test_a_picture_is_encoded_once_in_a_conversation(self, session, assistant):
        rows = []
        session.model.model.vision_tower.register_forward_hook(lambda *call: rows.append(len(call[-1][0])))
        session.attach("image", str(assistant.parent / "red.png"))
        session.say("Colour?", {"max_new_tokens": 8})
        session.say("Once", {"max_new_tokens": 8})
        session.attach("image", str(assistant.parent / "blue.png"))
        session.say("Once", {"max_new_tokens": 8})
        assert rows == [1, 1]

    def test_what_could_not_be_answered_is_forgotten(self, session, assistant):
        session.attach("image", str(assistant.parent / "red.png"))
        with pytest.raises(ValueError, match="reads at most"):
            session.say("word " * 200, {})
        assert session.messages == [] and len(session.waiting) == 1
        assert session.say("Colour?", {"max_new_tokens": 8}) == "red"
        assert session.waiting == []

    def test_an_interrupted_answer_is_forgotten(self, session, monkeypatch):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(session.model, "generate", interrupt)
        cli.respond(session, "Once", {})
        assert session.messages == []

    def test_a_system_message_stays(self, assistant):
        session = cli.Session(str(assistant), "cpu", "auto", system="Be brief.")
        session.say("Once", {"max_new_tokens": 2})
        session.clear()
        assert session.messages == [{"role": "system", "content": "Be brief."}]

    def test_a_person_sees_markdown(self, session, monkeypatch):
        from rich.console import Console

        monkeypatch.setattr(cli, "console", Console(force_terminal=True, width=60, record=True))
        speaker = cli.Speaker(session.tokenizer)
        speaker.on_finalized_text("**bold** and ")
        speaker.on_finalized_text("plain", stream_end=True)
        text = cli.console.export_text()
        assert "bold and plain" in text and "**" not in text


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
        assert "takes no pictures" in run("generate", tmp_path / "text", "Once", "--image", "a.png").stderr

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


class TestInfo:
    def test_parts_memory_and_tokens(self, assistant):
        shown = run("info", assistant)
        assert shown.exit_code == 0, shown.output
        from modeling_mmgpt import MMGPTForConditionalGeneration

        model = MMGPTForConditionalGeneration.from_pretrained(assistant)
        assert f"{model.num_parameters():,}" in shown.output
        assert f"{4 * model.num_parameters() / 1e6:.1f} MB" in shown.output
        assert "vision_tower" in shown.output and "MMGPTPatchTower" in shown.output
        assert "up to 256 tokens" in shown.output
        lines = {line.split("│")[1].strip(): line for line in shown.output.splitlines() if line.count("│") == 3}
        assert "16" in lines["picture, 640 x 480"]  # (16 / 4) ** 2 patches, whatever its size
        assert "25" in lines["sound, 1 s"]  # 100 frames, 4 to a token

    def test_no_weights_are_read(self, tmp_path, model, processor):
        save_checkpoint(tmp_path / "model", model, processor)
        (tmp_path / "model" / "model.safetensors").write_bytes(b"not weights")
        assert run("info", tmp_path / "model").exit_code == 0

    def test_a_deaf_model_has_no_sounds(self, tmp_path, tokenizer):
        model = make_model(audio=None)
        save_checkpoint(tmp_path / "model", model, make_processor(model.config, tokenizer))
        shown = run("info", tmp_path / "model")
        assert "picture" in shown.output and "sound" not in shown.output

    def test_a_folder_that_is_no_model(self, tmp_path):
        shown = run("info", tmp_path)
        assert shown.exit_code == 1


def test_the_entry_point_is_in_the_wheel():
    scripts = tomllib.loads(Path("pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"mmgpt": "modeling_mmgpt.tools.cli:main"}
    assert callable(cli.main)


def test_the_package_imports_nothing_of_the_checkout():
    """The wheel has modeling_mmgpt only."""
    for path in Path("modeling_mmgpt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert not {name.split(".")[0] for name in names} & {"training", "configuration", "tests"}, path


def test_the_command_line_does_not_travel_with_a_checkpoint(assistant):
    assert not (assistant / "cli.py").exists()
