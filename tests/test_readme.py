"""The README is true: its commands name what is there, its code compiles, and its tree shows the modules that there are."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from modeling_mmgpt.tools import cli
from tests.conftest import make_video
from tests.hub_server import publishing_to, running_hub
from tests.test_saving import in_a_fresh_process
from training.model_building import build_model
from training.recipe import ModelArguments
from training.train_tokenizer import train_tokenizer


README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == ""
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith((".venv/bin/python", "make "))
]

MMGPT_COMMANDS = [
    line.split(" #")[0].strip()
    for language, block in BLOCKS
    if language == ""
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("mmgpt ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_what_is_there(command):
    words = command.split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", Path("Makefile").read_text(), flags=re.MULTILINE)
        return
    module = words[2] if words[1] == "-m" else words[1].removesuffix(".py").replace("/", ".")
    script = importlib.import_module(module)
    assert callable(script.main)
    source = Path(script.__file__).read_text()
    for word in words[2:]:
        if word.startswith("--"):
            assert f'"{word}"' in source or word.removeprefix("--").replace("-", "_") in source
        elif word.startswith("configuration/"):
            assert Path(word).is_file()


@pytest.mark.parametrize("command", MMGPT_COMMANDS)
def test_verbs_and_options_of_the_command_are_there(command):
    _, verb, *words = shlex.split(command)
    shown = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(f"{word} " in shown.output for word in words if word.startswith("--"))


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_code_compiles(code):
    compile(code, "README.md", "exec")


USE = README[README.index("## Use it") : README.index("## Train your own")]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", USE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(assistant, tmp_path, monkeypatch):
    """A folder with what the README's snippets name: a trained model, an image and audio."""
    monkeypatch.chdir(tmp_path)
    Path("outputs/demo").mkdir(parents=True)
    Path("outputs/demo/model").symlink_to(assistant)
    Path("image.png").symlink_to(assistant.parent / "red.png")
    Path("audio.wav").symlink_to(assistant.parent / "high.wav")
    return tmp_path


def snippet(words: str) -> str:
    """The one snippet of "Use it" with `words` in it."""
    (found,) = [code for code in SNIPPETS if words in code]
    return found


class TestUseIt:
    """Every snippet is run; that of the server by tests/test_serve.py."""

    def test_no_snippet_is_left_out(self):
        words = ("AutoProcessor", "pipeline(", "openai", "push_checkpoint", "media_cache", "limits =")
        assert len(SNIPPETS) == 6 and all(map(snippet, words))

    def test_without_the_package(self, place):
        hidden = "import sys\nsys.modules['modeling_mmgpt'] = None\n"
        code = snippet("AutoProcessor") + snippet("media_cache") + snippet("pipeline(")
        printed = in_a_fresh_process(hidden + code, cwd=place)
        described, summaries, translation, answer, seen, text, heard = printed.splitlines()
        assert described == "a red one" and text == "[{'generated_text': 'a red one'}]"
        assert summaries == "[{'summary_text': 'cat sat'}, {'summary_text': 'dog ran'}]"
        assert translation == "[{'translation_text': 'le chien'}]"
        assert "'answer': 'Ann'" in answer and "'start': 0, 'end': 3" in answer
        assert "'answer': 'red'" in seen and heard.startswith("{'text': 'high', 'chunks': [{")

    def test_the_command_line(self, place):
        commands = re.findall(r"^mmgpt (.*?)(?: #.*)?$", USE, flags=re.MULTILINE)
        assert [command.split()[0] for command in commands] == ["chat", "generate", "info", "push"]
        with running_hub() as hub, publishing_to(hub):
            for command in commands:
                done = CliRunner().invoke(cli.app, shlex.split(command), input="Describe the picture.\n")
                assert done.exit_code == 0, done.output
                assert "a red one" in done.output or command.startswith(("info", "push"))
            assert "README.md" in hub.repositories["me/my-model"][-1]["files"]

    def test_limits_of_one_call(self):
        """A large image and a long video, through the processor of the size `small`."""
        with torch.device("meta"):
            _, processor = build_model(ModelArguments(preset="small"), train_tokenizer(["?"], 320))
        content = [
            {"type": "image", "image": Image.new("RGB", (400, 300))},
            {"type": "video", "video": make_video(0, 20)},
        ]
        names = {"processor": processor, "messages": [{"role": "user", "content": content}]}
        exec(compile(snippet("limits ="), "README.md", "exec"), names)
        assert names["inputs"]["num_frames_per_video"].tolist() == [8]
        assert len(names["inputs"]["pixel_values"]) == 5, "as many tiles as cover it, and the overview"

    def test_publishing(self, place):
        with running_hub() as hub, publishing_to(hub):
            exec(compile(snippet("push_checkpoint"), "README.md", "exec"), {})
            card = hub.repositories["me/my-model"][-1]["files"]["README.md"].decode()
            assert "Reading my meters." in card and "license: apache-2.0" in card and 'name = "me/my-model"' in card

    def test_the_servers_commands_are_transformers_own(self):
        """tests/test_serve.py runs both, with a port of its own."""
        commands = re.findall(r"^transformers (.*)$", USE, flags=re.MULTILINE)
        assert commands == [
            "serve outputs/demo/model --trust-remote-code",
            "chat outputs/demo/model localhost:8000",
        ]
        assert (Path(sys.executable).parent / "transformers").exists()


def test_the_tree_shows_the_modules_that_there_are():
    tree = README[README.index("## Where things are") : README.index("## Limits")]
    shown = set(re.findall(r"\w+_mmgpt\w*\.py", tree))
    assert shown == {path.name for path in Path("modeling_mmgpt").glob("*.py")} - {"__init__.py"}
    tools = tree[tree.index("  tools/") : tree.index("configuration/")]
    assert {path.stem for path in Path("modeling_mmgpt/tools").glob("*.py")} - {"__init__"} <= set(
        re.findall(r"\w+", tools)
    )
