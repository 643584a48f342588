r"""Measure a saved model on the test split of a recipe: each task's exact match beside two baselines.

    python -m training.evaluate outputs/fsdd/model configuration/recipes/fsdd.yaml data.root=../shared/data

prints the table and writes results.json and predictions.jsonl to the recipe's output_dir. The baselines: the commonest
answer of the split, and the same model with the media exchanged between samples (what it answers from the question alone).
"""

import argparse
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path


if __package__ in (None, ""):  # run as a file: imports start at the checkout, not in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from tqdm import tqdm

from modeling_mmgpt import MMGPTCollator
from training.data.mixture import load_mixture
from training.data.rows import answer_of, text_of
from training.metrics.exact_match import ExactMatch, exact_matches
from training.model_building import load_checkpoint
from training.recipe import RecipeError, load_recipe


@torch.inference_mode()
def evaluate_model(
    model, processor, rows: Iterable[dict], batch_size: int = 64, max_new_tokens: int = 16, shuffle_media: bool = False
) -> list[str]:
    r"""The model's greedy answers to the last question of each row, in the order of the rows.

    rows (iterable of `dict`): the sample format, each ending with the assistant turn to be predicted.
    batch_size (`int`, *optional*, defaults to 64): rows generated at once, left-padded.
    max_new_tokens (`int`, *optional*, defaults to 16): longest answer.
    shuffle_media (`bool`, *optional*, defaults to False): give each row the images and sounds of another one.
    """
    rows = list(rows)
    if shuffle_media:
        rows = exchange_media(rows)
    collator = MMGPTCollator(processor, add_generation_prompt=True)
    by_length = sorted(range(len(rows)), key=lambda index: sum(len(text_of(turn)) for turn in rows[index]["messages"]))
    predictions = [""] * len(rows)
    was_training = model.training
    model.eval()
    for start in tqdm(range(0, len(rows), batch_size), desc="shuffled media" if shuffle_media else "answers"):
        indices = by_length[start : start + batch_size]
        batch = {key: value.to(model.device) for key, value in collator([rows[index] for index in indices]).items()}
        output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        answers = processor.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, answer in zip(indices, answers, strict=True):
            predictions[index] = answer.strip()
    model.train(was_training)
    return predictions


def exchange_media(rows: list[dict], seed: int = 0) -> list[dict]:
    """The rows with their media passed on at random to another row of the same task and the same number of media."""
    alike = defaultdict(list)
    for index, row in enumerate(rows):
        alike[row.get("task"), len(row.get("images") or []), len(row.get("audios") or [])].append(index)
    exchanged = list(rows)
    shuffler = random.Random(seed)
    for indices in alike.values():
        shuffler.shuffle(indices)
        for receiver, giver in zip(indices, indices[1:] + indices[:1], strict=True):
            media = {key: rows[giver][key] for key in ("images", "audios") if key in rows[giver]}
            exchanged[receiver] = {**rows[receiver], **media}
    return exchanged


def score_tasks(rows: list[dict], predictions: list[str], shuffled: list[str | None]) -> dict[str, dict]:
    """For each task its exact match with a 95% interval, n, and the two baselines (`shuffled_media` None without media)."""
    tasks = {}
    for task in sorted({row.get("task") or "all" for row in rows}):
        indices = [index for index, row in enumerate(rows) if (row.get("task") or "all") == task]
        references = [answer_of(rows[index]) for index in indices]
        score = ExactMatch().compute(predictions=[predictions[index] for index in indices], references=references)
        score["majority"] = Counter(references).most_common(1)[0][1] / len(references)
        pairs = [(shuffled[index], answer_of(rows[index])) for index in indices if shuffled[index] is not None]
        score["shuffled_media"] = sum(exact_matches(*zip(*pairs, strict=True))) / len(pairs) if pairs else None
        tasks[task] = score
    return tasks


def evaluate_with_baselines(
    model, processor, rows: Iterable[dict], batch_size: int, max_new_tokens: int
) -> tuple[list[str], dict[str, dict]]:
    """Predictions, and the score of each task (see `score_tasks`)."""
    rows = list(rows)
    predictions = evaluate_model(model, processor, rows, batch_size, max_new_tokens)
    with_media = [index for index, row in enumerate(rows) if row.get("images") or row.get("audios")]
    answers = evaluate_model(
        model, processor, [rows[index] for index in with_media], batch_size, max_new_tokens, shuffle_media=True
    )
    shuffled: list[str | None] = [None] * len(rows)
    for index, answer in zip(with_media, answers, strict=True):
        shuffled[index] = answer
    return predictions, score_tasks(rows, predictions, shuffled)


def format_table(tasks: dict[str, dict]) -> str:
    lines = [f"{'task':<20}{'n':>7}{'exact match':>14}{'95% interval':>18}{'majority':>11}{'shuffled media':>17}"]
    for task, score in tasks.items():
        interval = f"{score['low']:.4f}-{score['high']:.4f}"
        shuffled = "-" if score["shuffled_media"] is None else f"{score['shuffled_media']:.4f}"
        lines.append(
            f"{task:<20}{score['n']:>7}{score['exact_match']:>14.4f}{interval:>18}{score['majority']:>11.4f}{shuffled:>17}"
        )
    return "\n".join(lines)


def write_predictions(path: Path, rows: list[dict], predictions: list[str]) -> None:
    """One JSON object a line: id, task, question, reference, prediction, right."""
    with path.open("w", encoding="utf-8") as file:
        for row, prediction in zip(rows, predictions, strict=True):
            reference = answer_of(row)
            record = {
                "id": row.get("id"),
                "task": row.get("task"),
                "question": text_of(row["messages"][-2]),
                "reference": reference,
                "prediction": prediction,
                "right": exact_matches([prediction], [reference])[0],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder saved by training/train.py, or a model of the Hub")
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example eval.split=validation")
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        model, processor = load_checkpoint(arguments.model)
        sources = getattr(recipe.data, recipe.eval.split)
        if not sources:
            raise RecipeError(f"{arguments.recipe} lists no source under data.{recipe.eval.split}.")
        rows = list(load_mixture(sources, recipe.data.root))
    except (RecipeError, FileNotFoundError) as error:
        parser.error(str(error))

    started = time.monotonic()
    predictions, tasks = evaluate_with_baselines(
        model, processor, rows, recipe.eval.batch_size, recipe.eval.max_new_tokens
    )
    folder = Path(recipe.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.jsonl", rows, predictions)
    results = {
        "model": arguments.model,
        "recipe": recipe.name,
        "split": recipe.eval.split,
        "seconds": round(time.monotonic() - started, 1),
        "tasks": tasks,
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(format_table(tasks))
    print(f"written to {folder}/results.json and {folder}/predictions.jsonl")


if __name__ == "__main__":
    main()
