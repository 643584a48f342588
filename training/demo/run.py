r"""Train one nano model on images, audio and text, evaluate it on held-out data, and show the results.

    python -m training.demo.run [key=value ...]

The recipe is configuration/recipes/demo.yaml; nothing is downloaded. Writes to outputs/demo: model/ (the folder to load
with AutoModel), report.html (open it in a browser), results.json, predictions.jsonl, training.json and loss.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import transformers

from training.checks import answer_anywhere
from training.data.samples import answer_of, text_of
from training.data.training_set import load_mixture
from training.demo.report import write_report
from training.evaluation.evaluate import evaluate_samples, format_table, record_evaluation, write_predictions
from training.model_building import load_checkpoint
from training.recipe import CONFIGURATION, Recipe, RecipeError, load_recipe
from training.train import train


EXAMPLES_PER_TASK = 3


def run_demo(recipe: Recipe) -> dict:
    """Train, save, evaluate, answer in a fresh process, report; returns what results.json holds."""
    started = time.monotonic()
    folder = Path(recipe.training.output_dir)
    training = train(recipe)

    model, processor = load_checkpoint(str(folder / "model"))
    samples = list(load_mixture(recipe.data.test, recipe.data.root))
    evaluation = evaluate_samples(model, processor, samples, recipe.eval)
    predictions, tasks = evaluation["predictions"], evaluation["tasks"]
    print(format_table(tasks))
    write_predictions(folder / "predictions.jsonl", evaluation["records"])
    record_evaluation(folder / "model", recipe, tasks)

    examples = choose_examples(samples, predictions)
    fresh = answer_in_fresh_process(folder / "model", [sample for sample, _ in examples], recipe.eval.max_new_tokens)
    shown = [
        {
            "id": sample["id"],
            "task": sample["task"],
            "question": text_of(sample["messages"][-2]),
            "reference": answer_of(sample),
            "prediction": prediction,
            "generate": answer["generate"],
            "pipeline": answer.get("pipeline"),
            "sample": sample,
        }
        for (sample, prediction), answer in zip(examples, fresh["answers"], strict=True)
    ]
    measured = ("exact_match", "majority", "shuffled", "n", "low", "high")
    results = {
        "tasks": {name: {key: score[key] for key in measured} for name, score in tasks.items()},
        "train_seconds": training["train_seconds"],
        "total_seconds": round(time.monotonic() - started, 1),
        **{key: training[key] for key in ("parameters", "steps", "samples", "loss")},
        "model_dir": str(folder / "model"),
        "hardware": training["hardware"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "fresh_process": {
            **fresh["origin"],
            "answers": len(shown),
            "generate_agrees": sum(example["generate"] == example["prediction"] for example in shown),
            "pipeline_answers": sum(example["pipeline"] is not None for example in shown),
            "pipeline_agrees": sum(example["pipeline"] == example["prediction"] for example in shown),
        },
        "examples": [{key: value for key, value in example.items() if key != "sample"} for example in shown],
    }
    write_report(folder / "report.html", results, shown, training["log"])
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def choose_examples(samples: list[dict], predictions: list[str]) -> list[tuple[dict, str]]:
    """The first samples of each task, and its first wrong answer if it has one, with predictions."""
    by_task = defaultdict(list)
    for sample, prediction in zip(samples, predictions, strict=True):
        by_task[sample["task"]].append((sample, prediction))
    chosen = []
    for pairs in by_task.values():
        first = pairs[:EXAMPLES_PER_TASK]
        wrong = [pair for pair in pairs[EXAMPLES_PER_TASK:] if pair[1] != answer_of(pair[0])]
        chosen += first + wrong[:1]
    return chosen


def answer_in_fresh_process(model_folder: Path, samples: list[dict], max_new_tokens: int) -> dict:
    """What training/checks/answer_anywhere.py answers to the samples' questions, from an empty folder, with an empty code cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = shutil.copy(answer_anywhere.__file__, folder)
        conversations = [request_of(sample, folder / f"media-{index}") for index, sample in enumerate(samples)]
        request = {"conversations": conversations, "max_new_tokens": max_new_tokens}
        (folder / "requests.json").write_text(json.dumps(request), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", script, str(model_folder.resolve()), "requests.json", "answers.json"]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


def request_of(sample: dict, media_folder: Path) -> list[dict]:
    """The sample's question with its media as files in `media_folder`, named in the messages by their paths."""
    media_folder.mkdir()
    media = {"image": iter(sample["images"]), "audio": iter(sample["audios"])}
    messages = []
    for message in sample["messages"][:-1]:
        parts = [dict(part) for part in message["content"]]
        for place, part in enumerate(parts):
            if part["type"] != "text":
                path = media_folder / f"{place}{'.png' if part['type'] == 'image' else '.wav'}"
                path.write_bytes(next(media[part["type"]])["bytes"])
                parts[place] = {"type": part["type"], "path": str(path)}
        messages.append({"role": message["role"], "content": parts})
    return messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example training.max_steps=100")
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(CONFIGURATION / "recipes" / "demo.yaml", arguments.overrides)
    except RecipeError as error:
        parser.error(str(error))
    results = run_demo(recipe)
    folder = Path(recipe.training.output_dir)
    print(
        f"{results['parameters']:,} parameters trained in {results['train_seconds']:.0f} s on {results['hardware']}.\n"
        f"Open {folder}/report.html; the numbers are in {folder}/results.json."
    )


if __name__ == "__main__":
    main()
