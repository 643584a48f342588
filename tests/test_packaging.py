"""What is shipped, under which name, and what starting it costs."""

import ast
import multiprocessing
import pickle
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import modeling_mmgpt
from modeling_mmgpt import MMGPTTextConfig
from modeling_mmgpt.tools import cli


PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHIPPED = [
    path
    for place in ("modeling_mmgpt", "training")
    for path in sorted(Path(place).rglob("*"))
    if path.suffix in (".py", ".md", ".jinja", ".yaml")
]
PAGES = [path for path in sorted(Path().rglob("*.md")) if not any(part.startswith(".") for part in path.parts)]


def name_of(requirement: str) -> str:
    if requirement.startswith("."):
        return requirement
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def installed_by(line: str) -> list[str]:
    """What the `pip install` commands of a line of code or prose name."""
    commands = re.findall(r"pip install((?: +(?:-U|'[^']+'|[A-Za-z0-9.][\w.\[\],<>=!~-]*))*)", line)
    return [word.strip("'").rstrip(".,:") or "." for command in commands for word in command.split() if word != "-U"]


def imports_of(path: Path) -> set[str]:
    """The packages that a file imports, at its top or anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module} if isinstance(node, ast.ImportFrom) and node.level == 0 else set()
    return {name.split(".")[0] for name in names}


def in_a_process(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestTheName:
    def test_the_distribution_has_the_name_that_is_imported(self):
        """`mmgpt` is another project on PyPI."""
        assert PROJECT["name"] == "modeling-mmgpt" == modeling_mmgpt.__name__.replace("_", "-")
        own = [name for names in EXTRAS.values() for name in names if "mmgpt" in name]
        assert own and all(name_of(name) == PROJECT["name"] for name in own)

    def test_pip_installs_a_checkout_or_packages_that_we_depend_on(self):
        known = {name_of(name) for names in (PROJECT["dependencies"], *EXTRAS.values()) for name in names}
        allowed = {".", *(f".[{extra}]" for extra in EXTRAS), *known} - {PROJECT["name"]}
        wrong = [
            f"{path}: {line.strip()}"
            for path in sorted({*SHIPPED, *PAGES})
            for line in path.read_text(encoding="utf-8").splitlines()
            for named in installed_by(line)
            if named not in allowed and name_of(named) not in allowed
        ]
        assert not wrong, "\n".join(wrong)

    def test_the_search_finds_what_it_must_not(self):
        assert installed_by("`pip install 'mmgpt[media]'`.") == ["mmgpt[media]"]
        assert installed_by("needs `pip install soxr av`, then run") == ["soxr", "av"]
        assert installed_by("from a checkout: pip install '.[serve]'") == [".[serve]"]


class TestWhatIsShipped:
    def test_the_entry_point(self):
        assert PROJECT["scripts"] == {"mmgpt": "modeling_mmgpt.tools.cli:main"} and callable(cli.main)

    def test_the_package_imports_nothing_of_the_checkout(self):
        """The wheel has modeling_mmgpt only."""
        for path in Path("modeling_mmgpt").rglob("*.py"):
            assert not imports_of(path) & {"training", "configuration", "tests"}, path

    @pytest.mark.parametrize("place", ["modeling_mmgpt", "training"])
    def test_every_package_that_is_imported_is_declared(self, place):
        """Not only required by something that we require: that may change. The wheel's own are no extras for training."""
        extras = EXTRAS.values() if place == "training" else [EXTRAS["serve"]]
        declared = {name_of(name) for names in (PROJECT["dependencies"], *extras) for name in names}
        distributions = packages_distributions()
        known = {*sys.stdlib_module_names, "modeling_mmgpt", "training", "vllm"}  # vLLM's environment is another one
        for path in Path(place).rglob("*.py"):
            for module in imports_of(path) - known:
                assert {name_of(one) for one in distributions[module]} & declared, f"{path} imports {module}"


class TestStart:
    """As the command's own script starts it: sys.argv[0] ends in its name."""

    COMMAND = "import sys; sys.argv[0] = '/somewhere/bin/mmgpt'\n"

    def test_help_lists_every_verb_and_does_not_wait_for_pytorch(self):
        code = (
            "from modeling_mmgpt.tools.cli import app\n"
            "app(['--help'], standalone_mode=False)\n"
            "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
        )
        *shown, imported = in_a_process(self.COMMAND + code).splitlines()
        verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
        assert verbs == {"assemble", "chat", "convert", "generate", "info", "push", "serve"}
        assert all(any(line.startswith(f"│ {verb} ") for line in shown) for verb in verbs)
        assert imported == "[]"

    @pytest.mark.parametrize("start", ["", COMMAND], ids=["program", "command"])
    def test_every_public_name_is_there(self, start):
        code = (
            "import modeling_mmgpt, sys\n"
            "assert set(modeling_mmgpt.__all__) <= set(dir(modeling_mmgpt))\n"
            "for name in modeling_mmgpt.__all__:\n"
            "    assert getattr(modeling_mmgpt, name).__name__ == name\n"
            "from transformers import MODEL_FOR_CAUSAL_LM_MAPPING\n"
            "assert MODEL_FOR_CAUSAL_LM_MAPPING[modeling_mmgpt.MMGPTTextConfig] is modeling_mmgpt.MMGPTForCausalLM"
        )
        in_a_process(start + code)
        with pytest.raises(AttributeError, match="has no attribute 'MMGPT'"):
            _ = modeling_mmgpt.MMGPT

    def test_the_auto_classes_know_ours_after_the_import(self, assistant):
        """And nothing else is imported: the tools come when they are used."""
        code = (
            "import sys, modeling_mmgpt\n"
            "assert not {'modeling_mmgpt.tools', 'typer', 'datasets', 'peft'} & set(sys.modules)\n"
            "from transformers import AutoModelForCausalLM, AutoProcessor\n"
            "print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__module__)\n"
            "print(type(AutoProcessor.from_pretrained(sys.argv[1])).__module__)"
        )
        found = in_a_process(code, str(assistant)).splitlines()
        assert found == ["modeling_mmgpt.modeling_mmgpt", "modeling_mmgpt.processing_mmgpt"]

    def test_objects_travel_to_spawned_processes(self):
        config = MMGPTTextConfig(num_hidden_layers=3)
        assert pickle.loads(pickle.dumps(config)).num_hidden_layers == 3
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(MMGPTTextConfig.to_dict, [config]) == config.to_dict()

    def test_importing_is_silent(self):
        done = subprocess.run([sys.executable, "-c", "import modeling_mmgpt"], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
