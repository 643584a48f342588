r"""Measure a saved model on the test split of a recipe, by the metric of each source, beside baselines.

    python -m training.evaluation.evaluate outputs/fsdd/model configuration/recipes/fsdd.yaml data.root=../shared/data

prints the table, writes it into the model card of the folder (unless eval.card=false), and writes results.json, predictions.jsonl
and errors.html (the worst answers, with their media) to the recipe's output_dir. The baselines: the commonest answer of the split, and the same model with the media exchanged between samples and
with blank media (what it answers from the question alone).
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from modeling_mmgpt import MMGPTCollator
from modeling_mmgpt.tools.model_card import BASELINES, record_results
from training.data.samples import answer_of, references_of, text_of
from training.data.training_set import load_mixture
from training.evaluation.controls import MEDIA, blank_media, exchange_media
from training.evaluation.gallery import write_gallery
from training.evaluation.likelihood import WindowLoss, text_losses
from training.evaluation.metrics import DEFAULT_METRIC, METRICS, find_metric
from training.evaluation.metrics.answers import Estimate
from training.model_building import load_checkpoint
from training.recipe import EvaluationArguments, Recipe, RecipeError, load_recipe


TEXT_METRIC = "perplexity"  # of rows that are text to be predicted, not a question to be answered
GROUNDING = ("shuffled_media", "blank_media")


def evaluate_samples(model, processor, rows: Iterable[dict], arguments: EvaluationArguments) -> dict:
    r"""{"tasks": {name: scores}, "predictions": [what was answered to each row, None to a plain text], "records": [a line of
    predictions.jsonl for each row]}; the scores are those of `score_tasks`. The model goes back to training if it was.

    rows (iterable of `dict`): the sample format, each ending with the assistant turn to be predicted.
    """
    rows = list(rows)
    check_metrics(rows)
    texts = [index for index, row in enumerate(rows) if row.get("metric") == TEXT_METRIC]
    asked = [index for index, row in enumerate(rows) if row.get("metric") != TEXT_METRIC]
    seeing = [index for index in asked if any(rows[index].get(key) for key in MEDIA)]

    def answer(indices: list[int], changed: list[dict], label: str) -> list[str | None]:
        given = answer_rows(model, processor, changed, arguments.batch_size, arguments.max_new_tokens, label)
        return spread(given, indices, len(rows))

    predictions = answer(asked, [rows[index] for index in asked], "answers")
    grounding = {name: [None] * len(rows) for name in GROUNDING}
    if arguments.baselines:
        shown = [rows[index] for index in seeing]
        changed = dict(zip(GROUNDING, (exchange_media(shown), blank_media(shown, processor)), strict=True))
        grounding = {name: answer(seeing, others, name.replace("_", " ")) for name, others in changed.items()}
    losses: list[list[WindowLoss] | None] = spread([[] for _ in texts], texts, len(rows))
    if texts:
        for loss in text_losses(
            model, processor.tokenizer, [document(rows[index]) for index in texts], arguments.batch_size
        ):
            losses[texts[loss.text]].append(loss)
    return {
        "tasks": score_tasks(rows, predictions, grounding, losses),
        "predictions": predictions,
        "records": make_records(rows, predictions, losses),
    }


def spread(values: list, indices: list[int], length: int) -> list:
    """The values at their indices in a list of `length`, None elsewhere."""
    places = dict(zip(indices, values, strict=True))
    return [places.get(index) for index in range(length)]


@torch.inference_mode()
def answer_rows(
    model, processor, rows: list[dict], batch_size: int = 64, max_new_tokens: int = 16, label: str = "answers"
) -> list[str]:
    r"""The model's greedy answers to the last question of each row, in the order of the rows.

    batch_size (`int`, *optional*, defaults to 64): rows generated at once, left-padded.
    max_new_tokens (`int`, *optional*, defaults to 16): longest answer.
    label (`str`, *optional*, defaults to `"answers"`): what the progress bar says.
    """
    rows = list(rows)
    collator = MMGPTCollator(processor, add_generation_prompt=True)
    by_length = sorted(range(len(rows)), key=lambda index: sum(len(text_of(turn)) for turn in rows[index]["messages"]))
    predictions = [""] * len(rows)
    was_training = model.training
    model.eval()
    for start in tqdm(range(0, len(rows), batch_size), desc=label, disable=not rows):
        indices = by_length[start : start + batch_size]
        batch = {key: value.to(model.device) for key, value in collator([rows[index] for index in indices]).items()}
        output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        answers = processor.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, answer in zip(indices, answers, strict=True):
            predictions[index] = answer.strip()
    model.train(was_training)
    return predictions


def task_of(row: dict) -> str:
    return row.get("task") or "all"


def document(row: dict) -> str:
    """The text of a row without questions: what its turns say, a line each, as pre-training reads it."""
    return "\n".join(text_of(message) for message in row["messages"])


def check_metrics(rows: list[dict]) -> None:
    """Refuses unknown metrics, and two of them under one name, before anything is generated."""
    metrics = defaultdict(set)
    for row in rows:
        metrics[task_of(row)].add(row.get("metric") or DEFAULT_METRIC)
    for task, names in metrics.items():
        for name in names:
            find_metric(name)
        if len(names) > 1:
            raise ValueError(
                f"The rows of {task!r} have several metrics ({', '.join(sorted(names))}): set `name` in their sources."
            )


def score_tasks(
    rows: list[dict],
    predictions: list[str | None],
    grounding: dict[str, list[str | None]],
    losses: list[list[WindowLoss] | None],
) -> dict[str, dict]:
    r"""For each task "metric", what the metric computes (measures, their 95% intervals, "n"), and the main measure of the baselines:
    "majority", and by the names of `grounding` (answers to the rows with other media) what these answers are worth. A baseline
    that does not exist is None."""
    tasks = {}
    for task in sorted({task_of(row) for row in rows}):
        indices = [index for index, row in enumerate(rows) if task_of(row) == task]
        name = rows[indices[0]].get("metric") or DEFAULT_METRIC
        metric = find_metric(name)
        baselines = dict.fromkeys(("majority", *grounding))
        if name == TEXT_METRIC:
            windows = [window for index in indices for window in losses[index] or []]
            columns = {key: [getattr(window, key) for window in windows] for key in ("nats", "tokens", "bytes")}
            score = metric.compute(losses=columns.pop("nats"), **columns)
        else:
            references = {index: references_of(rows[index]) for index in indices}
            score = metric.compute(
                predictions=[predictions[index] for index in indices], references=[*references.values()]
            )
            commonest = Counter(answer_of(rows[index]) for index in indices).most_common(1)[0][0]
            answers = {"majority": [commonest] * len(rows), **grounding}
            for baseline, given in answers.items():
                there = [index for index in indices if given[index] is not None]
                if there:
                    pair = [given[index] for index in there], [references[index] for index in there]
                    baselines[baseline] = metric.estimate(*pair)[metric.measure].value
        tasks[task] = {"metric": name, **score, **baselines}
    return tasks


def make_records(rows: list[dict], predictions: list[str | None], losses: list[list[WindowLoss] | None]) -> list[dict]:
    """For each row id, task, metric, and question, references, prediction and score, or the loss of its text in nats per token."""
    scores: list[float | None] = [None] * len(rows)
    by_task = defaultdict(list)
    for index, row in enumerate(rows):
        by_task[task_of(row)].append(index)
    for indices in by_task.values():
        metric = find_metric(rows[indices[0]].get("metric"))
        if predictions[indices[0]] is not None:
            pair = [predictions[index] for index in indices], [references_of(rows[index]) for index in indices]
            for index, score in zip(indices, metric.score_samples(*pair), strict=True):
                scores[index] = score
    records = []
    for row, prediction, score, windows in zip(rows, predictions, scores, losses, strict=True):
        record = {"id": row.get("id"), "task": row.get("task"), "metric": row.get("metric") or DEFAULT_METRIC}
        if windows is not None:
            tokens = sum(window.tokens for window in windows)
            record |= {"tokens": tokens, "loss": sum(window.nats for window in windows) / max(tokens, 1)}
        else:
            question = text_of(row["messages"][-2]) if len(row["messages"]) > 1 else ""
            record |= {
                "question": question,
                "references": references_of(row),
                "prediction": prediction,
                "score": score,
            }
        records.append(record)
    return records


def format_table(tasks: dict[str, dict]) -> str:
    """A line for each measure of each task; the baselines are of the main measure."""
    head = f"{'task':<20}{'n':>7}  {'measure':<18}{'value':>9}{'95% interval':>21}"
    lines = [head + "".join(f"{name.replace('_', ' '):>16}" for name in ("majority", *GROUNDING))]
    for task, score in tasks.items():
        for place, (measure, (value, low, high)) in enumerate(measured(score).items()):
            baselines = [score[name] if place == 0 else None for name in ("majority", *GROUNDING)]
            lines.append(
                f"{task if place == 0 else '':<20}{score['n'] if place == 0 else '':>7}  {measure:<18}"
                f"{value:>9.4f}{f'{low:.4f}-{high:.4f}':>21}"
                + "".join(f"{'-' if value is None else f'{value:.4f}':>16}" for value in baselines)
            )
    return "\n".join(lines)


def measured(score: dict) -> dict[str, Estimate]:
    """What a task's metric measured, the main measure first."""
    main = METRICS[score["metric"]].measure
    others = [key for key in score if f"{key}_low" in score]
    prefixes = {main: ""} | {measure: f"{measure}_" for measure in others}
    return {
        measure: Estimate(score[measure], score[f"{prefix}low"], score[f"{prefix}high"])
        for measure, prefix in prefixes.items()
    }


def record_evaluation(folder: str | Path, recipe: Recipe, tasks: dict[str, dict]) -> Path | None:
    """The table in the card of the model's folder, in place of an earlier one of this recipe and split; a model of the Hub has no
    folder here, and its card stays as it is."""
    sources = getattr(recipe.data, recipe.eval.split)
    ids = {source.task: source.dataset for source in sources if source.dataset}
    rows = []
    for task, score in tasks.items():
        about = {"task": task, "n": score["n"], "split": recipe.eval.split, "dataset": ids.get(task)}
        baselines = {name: score[key] for name, key in zip(BASELINES, ("majority", *GROUNDING), strict=True)}
        for place, (measure, estimate) in enumerate(measured(score).items()):
            numbers = estimate._asdict() | (baselines if place == 0 else {})
            rounded = {name: None if number is None else round(number, 4) for name, number in numbers.items()}
            rows.append({**about, "measure": measure, **rounded})
    return record_results(folder, rows, by=f"recipe `{recipe.name}`, split `{recipe.eval.split}`")


def write_predictions(path: Path, records: list[dict]) -> None:
    """One JSON object a line, see `make_records`."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


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
        check_metrics(rows)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))

    if torch.accelerator.is_available() and not recipe.training.use_cpu:
        model.to(torch.accelerator.current_accelerator())
    started = time.monotonic()
    evaluation = evaluate_samples(model, processor, rows, recipe.eval)
    folder = Path(recipe.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.jsonl", evaluation["records"])
    write_gallery(folder / "errors.html", recipe.name, rows, evaluation)
    results = {
        "model": arguments.model,
        "recipe": recipe.name,
        "split": recipe.eval.split,
        "seconds": round(time.monotonic() - started, 1),
        "tasks": evaluation["tasks"],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(format_table(evaluation["tasks"]))
    print(f"written to {folder}: results.json, predictions.jsonl, errors.html")
    try:
        card = record_evaluation(arguments.model, recipe, evaluation["tasks"]) if recipe.eval.card else None
    except (ValueError, OSError) as error:
        sys.exit(f"The model card is as it was: {error}")
    if card is not None:
        print(f"written into the model card: {card}")


if __name__ == "__main__":
    main()
