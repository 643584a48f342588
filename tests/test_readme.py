"""README and the pages beside what they describe are true: links lead somewhere, commands are understood by what they start, snippets run,
and what a table says of the code is what the code says."""

import base64
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from torch.distributed.run import get_args_parser
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, save_checkpoint
from modeling_mmgpt.tools import cli
from modeling_mmgpt.tower_families_mmgpt import AUDIO_FAMILIES, VISION_FAMILIES, family_names
from tests.conftest import byte_tokenizer, make_image, make_sample, make_video
from tests.hub_server import publishing_to, running_hub
from tests.test_packaging import PROJECT
from tests.test_presets import PUBLISHED
from tests.test_saving import in_a_fresh_process
from training.data.cleaning.personal_data import KINDS
from training.data.samples import text_of
from training.data.synthetic.course import load_demo
from training.model_building import build_model
from training.recipe import ModelArguments, build_recipe, load_recipe
from training.recipe_files import CONFIGURATION
from training.train_tokenizer import train_tokenizer


CHECKOUT = CONFIGURATION.parent
# Templates and what tests read are no pages; CHANGELOG.md is written entry by entry.
NO_PAGES = {"hub_card.md", "CHANGELOG.md", "tests/card_of_0.1.0.md"}
WRITTEN_BY_RUNS = ("outputs", "prepared", "data", "dist", "build")
TEXTS = {
    str(path.relative_to(CHECKOUT)): path.read_text(encoding="utf-8")
    for path in sorted(CHECKOUT.rglob("*.md"))
    if not (parts := path.relative_to(CHECKOUT).parts)[0].startswith((".", *WRITTEN_BY_RUNS))
    and "/".join(parts) not in NO_PAGES
}
EVERY_PAGE = pytest.mark.parametrize("page", TEXTS)
PROGRAMS = ("make", "mmgpt", ".venv/bin/python", "accelerate", "torchrun", "transformers", "pip", "python3")


def blocks(page: str, language: str) -> list[str]:
    """The contents of a page's fenced blocks; without a language: commands and drawings."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    return [block for written, block in found if written == language]


def is_drawing(block: str) -> bool:
    return block.startswith(" ") or "\n  " in block.replace("\\\n", " ")


def commands(program: str) -> list[list[str]]:
    """The words of every command line of the pages that starts with `program`, without its comment."""
    lines = [
        line
        for page in TEXTS
        for block in blocks(page, "")
        if not is_drawing(block)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[0] == program]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", TEXTS[page])
    return [target for target in targets if not re.match(r"\w+:", target)]


class TestEveryPage:
    def test_all_are_found(self):
        folders = {str(Path(page).parent) for page in TEXTS}
        assert folders == {".", "configuration/recipes", "configuration/models", "training", "modeling_mmgpt", "tests"}
        assert len(TEXTS) == 7

    @EVERY_PAGE
    def test_lines_are_short(self, page):
        """Outside tables, whose rows cannot be broken."""
        lines = TEXTS[page].splitlines()
        assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
        assert page != "README.md" or len(lines) <= 180

    @EVERY_PAGE
    def test_it_opens_with_what_it_is_for(self, page):
        title, opening = TEXTS[page].split("\n\n")[:2]
        assert title.startswith("# ")
        assert opening.startswith("A multimodal GPT" if page == "README.md" else "With this page you can ")

    @EVERY_PAGE
    def test_rows_have_as_many_cells_as_their_table_has_columns(self, page):
        for table in re.findall(r"(?:^\|.*\n)+", TEXTS[page], flags=re.MULTILINE):
            assert len({len(re.sub(r"`[^`]*`", "", line).split("|")) for line in table.splitlines()}) == 1, table

    @EVERY_PAGE
    def test_links_lead_somewhere(self, page):
        for link in links(page):
            path, _, anchor = link.partition("#")
            target = (CHECKOUT / page).parent / path if path else CHECKOUT / page
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link

    def test_every_page_is_reached_from_the_readme(self):
        assert {page for page in TEXTS if page != "README.md"} <= set(links("README.md"))

    @EVERY_PAGE
    def test_files_that_it_names_are_there(self, page):
        named = re.findall(
            r"\b(?:configuration|training|tests|modeling_mmgpt)/[\w/.-]*\.(?:py|yaml|json)\b", TEXTS[page]
        )
        assert not [name for name in named if "NAME" not in name and not (CHECKOUT / name).is_file()]

    @EVERY_PAGE
    def test_modules_that_it_names_are_there(self, page):
        """`training.max_steps`, where no module is called so, is a key of a recipe."""
        text = TEXTS[page].replace("\n", " ")
        modules = set(re.findall(r"python -m (training\.[\w.]+)", text))
        for name in re.findall(r"`(training(?:\.\w+)+)`", text):
            first = CHECKOUT / "training" / name.split(".")[1]
            modules |= {name} if first.is_dir() or first.with_suffix(".py").is_file() else set()
        for name in modules:
            module = importlib.import_module(name)
            if hasattr(module, "__path__"):  # a folder that is started as a module
                module = importlib.import_module(f"{name}.__main__")
            assert callable(module.main)

    def test_the_checks_can_fail(self):
        assert anchors("## vLLM\n## Media of any size\n## It's `so`\n") == {"vllm", "media-of-any-size", "its-so"}
        assert is_drawing(" image ──> encoder\n") and is_drawing("folder/\n  file\n")
        assert not is_drawing("make test\nmmgpt info \\\n    FOLDER\n")


class TestCommands:
    def test_every_one_is_of_a_program_that_is_checked_here(self):
        for page in TEXTS:
            for block in blocks(page, ""):
                for line in [] if is_drawing(block) else block.replace("\\\n", " ").splitlines():
                    assert line.split()[0] in PROGRAMS, f"{page}: {line}"
        assert all(map(commands, PROGRAMS))

    @pytest.mark.parametrize("words", commands("make"), ids=" ".join)
    def test_of_make(self, words):
        makefile = (CHECKOUT / "Makefile").read_text()
        assert re.search(rf"^{words[0]}:", makefile, flags=re.MULTILINE)
        for word in words[1:]:
            assert re.search(rf"^{word.partition('=')[0]} \?=", makefile, flags=re.MULTILINE)

    @EVERY_PAGE
    def test_of_make_within_sentences(self, page):
        makefile = (CHECKOUT / "Makefile").read_text()
        for target, variable in re.findall(r"`make ([a-z][\w-]*)(?: ([A-Z]+)=[^`]*)?`", TEXTS[page]):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
            assert not variable or re.search(rf"^{variable} \?=", makefile, flags=re.MULTILINE), variable

    @pytest.mark.parametrize("words", commands("mmgpt"), ids=" ".join)
    def test_of_mmgpt(self, words):
        verb, *rest = words
        shown = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert all(f"{word} " in shown.output for word in rest if word.startswith("--"))

    @pytest.mark.parametrize("words", commands(".venv/bin/python"), ids=" ".join)
    def test_of_python(self, words, monkeypatch, capsys):
        assert words[0] == "-m"
        if words[1] == "pytest":
            files = [word for word in words[2:] if word.startswith("tests/")]
            chosen = words[words.index("-k") + 1] if "-k" in words else "test_"
            assert all(
                re.search(rf"def test\w*{chosen.removeprefix('test')}", Path(file).read_text()) for file in files
            )
        else:
            check_script(words[1], words[2:], monkeypatch, capsys)

    @pytest.mark.parametrize("words", commands("accelerate"), ids=" ".join)
    def test_of_accelerate(self, words, monkeypatch, capsys):
        assert words[0] == "launch"
        arguments = launch_command_parser().parse_args(words[1:])
        assert (CHECKOUT / arguments.config_file).is_file() and arguments.module
        check_script(arguments.training_script, arguments.training_script_args, monkeypatch, capsys)

    @pytest.mark.parametrize("words", commands("torchrun"), ids=" ".join)
    def test_of_torchrun(self, words, monkeypatch, capsys):
        arguments = get_args_parser().parse_args(words)
        assert arguments.module
        check_script(arguments.training_script, arguments.training_script_args, monkeypatch, capsys)

    def test_of_transformers(self):
        """tests/test_transformers_server.py runs both, with a port of its own."""
        assert [" ".join(words) for words in commands("transformers")] == [
            "serve outputs/demo/model --trust-remote-code",
            "chat outputs/demo/model localhost:8000",
        ]
        assert (Path(sys.executable).parent / "transformers").exists()

    def test_what_cannot_be_checked_here_is_known(self):
        """pip's words are checked by tests/test_packaging.py; of SGLang its page says that nobody has run it."""
        assert [words[0] for words in commands("pip")] == ["install"]
        assert [words[1] for words in commands("python3")] == ["sglang.launch_server"]
        assert "SGLang needs a CUDA GPU, so we have not run it." in TEXTS["modeling_mmgpt/SERVING.md"]


def check_script(module: str, words: list[str], monkeypatch, capsys) -> None:
    """The script has these options, the recipe is there and takes these overrides."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module).main()
    shown = capsys.readouterr().out
    assert not stopped.value.code
    assert all(re.search(rf"{word}\b", shown) for word in words if word.startswith("--"))
    overrides = [word for word in words if re.match(r"[\w.]+=", word)]
    for recipe in (word for word in words if word.startswith("configuration/")):
        names = [path.stem for path in (CONFIGURATION / "recipes").glob("*.yaml")] if "NAME" in recipe else [""]
        for name in names:
            load_recipe(CHECKOUT / recipe.replace("NAME", name), overrides)


PYTHON = [(page, code) for page in TEXTS for code in blocks(page, "python")]


def snippet(words: str) -> str:
    """The one snippet of all pages with `words` in it."""
    (found,) = [code for _, code in PYTHON if words in code]
    return found


def run_snippet(words: str, **names) -> dict:
    exec(compile(snippet(words), words, "exec"), names)
    return names


@pytest.fixture
def place(assistant, tmp_path, monkeypatch):
    """A folder with what the snippets name: a trained model, an image and audio."""
    monkeypatch.chdir(tmp_path)
    Path("outputs/demo").mkdir(parents=True)
    Path("outputs/demo/model").symlink_to(assistant)
    Path("image.png").symlink_to(assistant.parent / "red.png")
    Path("audio.wav").symlink_to(assistant.parent / "high.wav")
    return tmp_path


class TestSnippets:
    """Every snippet is run; that of the server by tests/test_serve.py, the recipe with `stage` by tests/test_stages.py."""

    def test_none_is_left_out(self):
        words = (
            "AutoProcessor",
            'pipeline("summarization"',
            "guard=",
            "openai",
            "push_checkpoint",
            "media_cache",
            "limits =",
            "Trainer(",
            "cross_attention_every",
        )
        assert sorted(map(snippet, words)) == sorted(code for _, code in PYTHON)

    def test_without_the_package(self, place):
        hidden = "import sys\nsys.modules['modeling_mmgpt'] = None\n"
        code = snippet("AutoProcessor") + snippet("media_cache") + snippet('pipeline("summarization"')
        printed = in_a_fresh_process(hidden + code, cwd=place)
        described, summaries, translation, answer, seen, text, heard = printed.splitlines()
        assert described == "a red one" and text == "[{'generated_text': 'a red one'}]"
        assert summaries == "[{'summary_text': 'cat sat'}, {'summary_text': 'dog ran'}]"
        assert translation == "[{'translation_text': 'le chien'}]"
        assert "'answer': 'Ann'" in answer and "'start': 0, 'end': 3" in answer
        assert "'answer': 'red'" in seen and heard.startswith("{'text': 'high', 'chunks': [{")

    def test_guards_and_how_sure_a_model_is(self, place, capsys):
        run_snippet("guard=")
        withheld, measured, unsure = capsys.readouterr().out.splitlines()
        assert "The answer was withheld (no weather here)." in withheld and "'confidence': 0." in measured
        assert "I am not sure enough to answer." in unsure

    def test_the_command_line(self, place):
        """`mmgpt serve` is run by tests/test_serve.py."""
        lines = [words for words in commands("mmgpt") if "outputs/demo/model" in words and words[0] != "serve"]
        assert [words[0] for words in lines] == ["chat", "generate", "info", "push"]
        with running_hub() as hub, publishing_to(hub):
            for words in lines:
                done = CliRunner().invoke(cli.app, words, input="Describe the picture.\n")
                assert done.exit_code == 0, done.output
                assert "a red one" in done.output or words[0] in ("info", "push")
            assert "README.md" in hub.repositories["me/my-model"][-1]["files"]

    def test_limits_of_one_call(self):
        """A large image and a long video, through the processor of the size `small`."""
        with torch.device("meta"):
            _, processor = build_model(ModelArguments(preset="small"), train_tokenizer(["?"], 320))
        content = [
            {"type": "image", "image": Image.new("RGB", (400, 300))},
            {"type": "video", "video": make_video(0, 20)},
        ]
        inputs = run_snippet("limits =", processor=processor, messages=[{"role": "user", "content": content}])[
            "inputs"
        ]
        assert inputs["num_frames_per_video"].tolist() == [8]
        assert len(inputs["pixel_values"]) == 5, "as many tiles as cover it, and the overview"

    def test_publishing(self, place):
        with running_hub() as hub, publishing_to(hub):
            run_snippet("push_checkpoint")
            card = hub.repositories["me/my-model"][-1]["files"]["README.md"].decode()
            assert "Reading my meters." in card and "license: apache-2.0" in card and 'name = "me/my-model"' in card

    def test_training_in_a_script_of_ones_own(self, model, processor, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = model.lm_head.weight.detach().clone()
        samples = [make_sample("Colour?", "red", images=[make_image(0)]), make_sample("Colour?", "blue")]
        trainer = run_snippet("Trainer(", model=model, processor=processor, samples=samples)["trainer"]
        assert trainer.state.global_step > 0
        assert not torch.equal(trainer.model.lm_head.weight.cpu(), before)

    def test_gated_blocks_leave_the_logits_as_they_are(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        text = MMGPTTextConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4
        )
        model = MMGPTForCausalLM(text).eval()
        save_checkpoint("outputs/gpt2", model, byte_tokenizer())
        run_snippet("cross_attention_every")
        gated = AutoModelForCausalLM.from_pretrained("outputs/gpt2").eval()
        assert gated.config.cross_attention_every == 4 and gated.num_parameters() > model.num_parameters()
        ids = torch.arange(8)[None]
        assert torch.equal(gated(ids).logits, model(ids).logits)

    def test_recipes_of_own_data(self):
        (tree,) = [tree for block in blocks("training/README.md", "yaml") if "data" in (tree := yaml.safe_load(block))]
        recipe = build_recipe({"model": {"preset": "nano"}, **tree}, "page", "training/README.md")
        formats = [source.format for source in recipe.data.train]
        assert formats == ["labelled_media"] * 3 + ["asr", "cauldron"]
        (cleaning,) = [yaml.safe_load(block) for block in blocks("training/README.md", "yaml") if "prepare:" in block]
        recipe = build_recipe({"model": {"preset": "nano"}, **tree, **cleaning}, "page", "training/README.md")
        assert tuple(recipe.prepare.personal_data_kinds) == KINDS and recipe.prepare.classifiers
        yamls = [page for page in TEXTS for _ in blocks(page, "yaml")]
        assert yamls == ["training/README.md"] * 3


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]


class TestTables:
    def test_results_are_those_of_the_recipes_page(self):
        measured = {
            row[0]: row
            for row in rows(TEXTS["configuration/recipes/README.md"])
            if len(row) == 9 and (CONFIGURATION / "recipes" / f"{row[0].strip('`')}.yaml").is_file()
        }
        results = TEXTS["README.md"].split("## Results")[1].split("\n## ")[0]
        shown = [row for row in rows(results)[2:] if row[0] != "`demo`"]
        assert len(rows(results)) - 2 <= 8 and len(shown) == len(measured)
        for name, data, score, majority, count, seconds in shown:
            assert [data, score, majority, count] == [measured[name][place] for place in (1, 2, 3, 6)]
            assert measured[name][7].startswith(seconds)

    def test_the_ranges_of_the_demo_are_those_of_its_tasks(self):
        tasks = {row[0]: row for row in rows(TEXTS["configuration/recipes/README.md"].split("## The demo")[1])[2:]}
        media = [row for name, row in tasks.items() if not name.startswith("text ")]
        text = [row for name, row in tasks.items() if name.startswith("text ")]
        shown = [row for row in rows(TEXTS["README.md"]) if row[0] == "`demo`"]
        for found, (_, _, score, majority, count, _) in zip((media, text), shown, strict=True):
            scores, baselines = [row[1].split()[0] for row in found], [row[2] for row in found]
            assert score == f"{min(scores)} to {max(scores)}" and majority == f"{min(baselines)} to {max(baselines)}"
            assert {row[4] for row in found} == {count.removesuffix(" each")}
        assert (len(media), len(text)) == (14, 5)

    def test_every_recipe_has_a_place(self):
        text = TEXTS["configuration/recipes/README.md"]
        for path in (CONFIGURATION / "recipes").glob("*.yaml"):
            assert f"`{path.stem}`" in text or f"recipes/{path.stem}.yaml" in text, path.stem

    def test_every_size_has_a_line(self):
        sizes = {row[0].strip("`"): row for row in rows(TEXTS["configuration/models/README.md"])}
        assert set(sizes) - {"NAME", "---"} == {"nano", *PUBLISHED}
        units = {"": 1, "M": 1e6, "B": 1e9}
        for name, (published, _) in PUBLISHED.items():
            number, unit = re.search(r"([\d.,]+) ?([MB]?)", sizes[name][1]).groups()
            assert float(number.replace(",", "")) * units[unit] == pytest.approx(published, rel=0.005), name

    def test_contexts_are_those_of_the_files(self):
        for row in rows(TEXTS["configuration/models/README.md"].split("## Decoders")[0])[2:]:
            tree = yaml.safe_load((CONFIGURATION / "models" / f"{row[0].strip('`')}.yaml").read_text())
            assert int(row[2]) == tree["config"]["text_config"]["max_position_embeddings"]

    @pytest.mark.parametrize("families", [VISION_FAMILIES, AUDIO_FAMILIES], ids=["vision", "audio"])
    def test_encoders_are_those_of_the_table_of_families(self, families):
        assert f"| {', '.join(family_names(families).rsplit(' or ', 1))}, or " in TEXTS["README.md"]

    def test_extras_and_releases_are_those_of_the_project(self):
        shown = set(re.findall(r"^\| `pip install '\.\[(\w+)\]'`", TEXTS["README.md"], flags=re.MULTILINE))
        assert shown == set(PROJECT["optional-dependencies"]) - {"dev"}
        for name in ("transformers", "torch"):
            (needed,) = [line for line in PROJECT["dependencies"] if re.match(rf"{name}[<>=]", line)]
            assert needed.replace(",", ", ").replace(">=", " >= ").replace("<6", "< 6") in TEXTS["README.md"]

    def test_the_tree_shows_the_modules_that_there_are(self):
        (tree,) = [block for block in blocks("modeling_mmgpt/README.md", "") if "tools/" in block]
        package = CHECKOUT / "modeling_mmgpt"
        assert set(re.findall(r"\w+_mmgpt\w*\.py", tree)) == {path.name for path in package.glob("*.py")} - {
            "__init__.py"
        }
        tools = tree[tree.index("  tools/") : tree.index("configuration/")]
        assert {path.stem for path in package.glob("tools/*.py")} - {"__init__"} <= set(re.findall(r"\w+", tools))


def test_the_figure_shows_held_out_samples_and_answers_that_were_given():
    """Its images are those of the demo's test data, and its answers those that SERVING.md's table has from generate()."""
    figure = (CHECKOUT / "training" / "demo" / "answers.svg").read_text(encoding="utf-8")
    assert "(training/demo/answers.svg)" in TEXTS["README.md"]
    images = [base64.b64decode(data) for data in re.findall(r'href="data:image/png;base64,([^"]+)"', figure)]
    texts = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", figure))
    answers = {row[0]: row[2].rstrip("…") for row in rows(TEXTS["modeling_mmgpt/SERVING.md"])}
    held_out = {source: list(load_demo(Path(), "test", source, samples=3)) for source in ("digits", "scenes", "audio")}
    shown = [held_out["digits"][0], *held_out["scenes"][:2], held_out["audio"][0]]
    assert images == [sample["images"][0]["bytes"] for sample in shown if sample["images"]]
    for sample in shown:
        question, answer = map(text_of, sample["messages"])
        assert question in texts and answer in texts and answer.startswith(answers[sample["task"]])


def test_how_to_cite_it_agrees_with_the_project():
    cited = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors", "type"} <= set(cited)


def test_the_package_says_that_it_has_types():
    wheel = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"][
        "targets"
    ]
    assert (CHECKOUT / "modeling_mmgpt" / "py.typed").is_file() and wheel["wheel"]["packages"] == ["modeling_mmgpt"]
