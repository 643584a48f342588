"""The demo from end to end at a tiny size: trained, saved, evaluated, answered in a fresh process, reported."""

import importlib
import json
import sys

import pytest

from modeling_mmgpt.tools.model_card import licences_of, read_facts
from tests.conftest import section_of
from training.checks import answer_anywhere
from training.data.samples import answer_of
from training.data.synthetic.course import TASKS, load_demo
from training.demo.run import EXAMPLES_PER_TASK, choose_examples, request_of, run_demo
from training.recipe import CONFIGURATION, load_recipe


RECIPE = CONFIGURATION / "recipes" / "demo.yaml"
SHOWN = ("digits", "scenes", "audio", "text")  # the sources of the recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, results) of a demo of two steps."""
    folder = tmp_path_factory.mktemp("demo")
    train, test = (
        json.dumps([{"format": "demo", "options": {"source": source, "samples": count}} for source in SHOWN])
        for count in (8, 6)
    )
    overrides = [
        f"data.train={train}",
        f"data.test={test}",
        f"training.output_dir={folder}",
        "training.max_steps=2",
        "training.logging_steps=1",
        "training.per_device_train_batch_size=4",
        "model.config.text_config.num_hidden_layers=1",
        "eval.max_new_tokens=3",
    ]
    return folder, run_demo(load_recipe(RECIPE, overrides))


class TestRun:
    def test_results_file(self, run):
        folder, results = run
        assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
        assert {name for name in results["tasks"]} <= {task for tasks in TASKS.values() for task in tasks}
        for name, score in results["tasks"].items():
            assert 0 <= score["exact_match"] <= 1 and 0 < score["majority"] <= 1 and score["n"] > 0
            assert (score["shuffled"] is None) == name.startswith("text_")
        assert sum(score["n"] for score in results["tasks"].values()) == len(SHOWN) * 6
        assert results["train_seconds"] > 0 and results["parameters"] > 100_000
        assert results["model_dir"] == str(folder / "model")

    def test_everything_is_written(self, run):
        folder, _ = run
        names = {path.name for path in folder.iterdir()}
        assert {"model", "report.html", "results.json", "predictions.jsonl", "training.json", "loss.png"} <= names
        assert {"config.json", "model.safetensors", "modeling_mmgpt.py", "README.md"} <= {
            path.name for path in (folder / "model").iterdir()
        }

    def test_fresh_process_used_the_folders_own_code(self, run):
        _, results = run
        fresh = results["fresh_process"]
        assert fresh["class"] == "MMGPTForConditionalGeneration"
        assert fresh["module"].startswith("transformers_modules.")
        assert fresh["answers"] == len(results["examples"]) == fresh["generate_agrees"]
        with_image = sum(example["pipeline"] is not None for example in results["examples"])
        assert fresh["pipeline_answers"] == with_image == fresh["pipeline_agrees"]
        assert with_image > 0

    def test_the_card_tells_how_it_was_trained_and_what_was_measured(self, run):
        folder, results = run
        path = folder / "model" / "README.md"
        measured = section_of(path, "Results")
        for name, score in results["tasks"].items():
            assert f"| {name} | exact_match | {round(score['exact_match'], 4)} | " in measured
        training = section_of(path, "Training")
        assert "Recipe `demo`, stage `finetune`: 2 steps" in training and "| demo | 8 | 1.0 |" in training
        assert "scikit-learn" in licences_of(read_facts(folder / "model"))["demo"]

    def test_report_shows_the_examples(self, run):
        folder, results = run
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.count('<article class="card">') == len(results["examples"])


class TestHidePackage:
    def test_package_is_hidden_and_a_models_copy_is_not(self, monkeypatch, tmp_path):
        (tmp_path / "downloaded").mkdir()
        (tmp_path / "downloaded" / "modeling_mmgpt.py").write_text("here = True\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == "modeling_mmgpt"]:
            monkeypatch.delitem(sys.modules, name)
        answer_anywhere.hide_package()
        for name in ("modeling_mmgpt", "modeling_mmgpt.configuration_mmgpt"):
            with pytest.raises(ModuleNotFoundError, match="modeling_mmgpt"):
                importlib.import_module(name)
        assert importlib.import_module("downloaded.modeling_mmgpt").here

    def test_too_late_once_it_is_imported(self):
        importlib.import_module("modeling_mmgpt")
        with pytest.raises(RuntimeError, match="already imported"):
            answer_anywhere.hide_package()


def test_choose_examples_adds_one_mistake_of_each_task():
    samples = load_demo(None, "test", "digits", samples=30).to_list()
    predictions = ["wrong" if index >= 20 else answer_of(sample) for index, sample in enumerate(samples)]
    chosen = choose_examples(samples, predictions)
    for task in TASKS["digits"]:
        of_task = [prediction for sample, prediction in chosen if sample["task"] == task]
        assert len(of_task) == EXAMPLES_PER_TASK + 1
        assert [prediction == "wrong" for prediction in of_task] == [False] * EXAMPLES_PER_TASK + [True]


def test_request_leaves_the_answer_out_and_names_files(tmp_path):
    sample = load_demo(None, "test", "audio", samples=1).to_list()[0]
    (message,) = request_of(sample, tmp_path / "media")
    audio, question = message["content"]
    assert audio == {"type": "audio", "path": str(tmp_path / "media" / "0.wav")}
    assert (tmp_path / "media" / "0.wav").read_bytes() == sample["audios"][0]["bytes"]
    assert question["type"] == "text" and message["role"] == "user"
