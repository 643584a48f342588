"""The README is true: its commands name what is there, its code compiles, and the modules it draws are the modules there are."""

import importlib
import re
from pathlib import Path

import pytest


README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == ""
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith((".venv/bin/python", "make "))
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


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_code_compiles(code):
    compile(code, "README.md", "exec")


def test_every_module_of_the_package_stands_in_the_tree():
    modules = {path.name for path in Path("modeling_mmgpt").glob("*_mmgpt*.py")}
    assert modules == {name for name in modules if name in README}
