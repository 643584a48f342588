r"""Evaluate a saved model on the test split of a recipe, by the metric of each source, beside baselines.

    python -m training.evaluation.evaluate outputs/fsdd/model configuration/recipes/fsdd.yaml

prints the table, writes it into the model card of the folder (unless eval.card=false), and writes results.json, predictions.jsonl
and errors.html (the worst answers, with their media) to the recipe's output_dir. The baselines are the most common answer of the
task (majority class), and the same model with its media shuffled between samples or blank: what it answers from the question
alone. eval.baselines=false leaves the two controls out. eval.quality=true adds how sure the model was of each answer to
predictions.jsonl, and the reliability diagram (calibration.png).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import LogitsProcessorList

from modeling_mmgpt import MMGPTCollator
from modeling_mmgpt.answer_quality_mmgpt import Quality, QualityRecorder
from modeling_mmgpt.tools.model_card import record_results
from training.data.samples import references_of, text_of, whole_text
from training.data.training_set import load_mixture
from training.evaluation.calibration import calibrate, calibration_results, draw_reliability, format_calibration
from training.evaluation.controls import BASELINES, MEDIA, blank_media, majority_answer, shuffle_media
from training.evaluation.gallery import write_gallery
from training.evaluation.likelihood import WindowLoss, batches, text_losses
from training.evaluation.metrics import DEFAULT_METRIC, METRICS, find_metric
from training.evaluation.metrics.answers import Estimate, read_estimates
from training.model_building import load_checkpoint
from training.recipe import EvaluationArguments, Recipe, RecipeError, load_recipe


# Of each sample by its place in the list of samples: generated answers, and the losses of plain texts.
Answers = dict[int, str]
Losses = dict[int, list[WindowLoss]]


def evaluate_samples(model, processor, samples: Iterable[dict], arguments: EvaluationArguments) -> dict:
    r"""{"tasks": {name: scores}, "predictions": [the answer to each sample, None for a plain text], "records": [a line of
    predictions.jsonl for each sample]}; the scores are those of `score_tasks`. The model goes back to training if it was.

    samples (iterable of `dict`): the sample format, each ending with the assistant turn to be predicted.
    """
    samples = list(samples)
    metrics = metrics_of(samples)
    asked, texts = [], []
    for index, sample in enumerate(samples):
        (asked if metrics[task_of(sample)].needs_generation else texts).append(index)
    limits = arguments.batch_size, arguments.max_new_tokens

    def answer(indices: list[int], changed: list[dict], label: str) -> Answers:
        return dict(zip(indices, answer_samples(model, processor, changed, *limits, label), strict=True))

    predictions, qualities = {}, {}
    known = [samples[index] for index in asked]
    for place, text, quality in generate_answers(model, processor, known, *limits, quality=arguments.quality):
        predictions[asked[place]], qualities[asked[place]] = text, quality
    controls = {}
    if arguments.baselines:
        indices = [index for index in asked if any(samples[index].get(key) for key in MEDIA)]
        with_media = [samples[index] for index in indices]
        controls["shuffled"] = answer(indices, shuffle_media(with_media), BASELINES["shuffled"])
        controls["blank"] = answer(indices, blank_media(with_media, processor), BASELINES["blank"])
    losses: Losses = {}
    if texts:
        documents = [whole_text(samples[index]) for index in texts]
        found = text_losses(model, processor.tokenizer, documents, arguments.batch_size)
        losses = dict(zip(texts, found, strict=True))
    return {
        "tasks": score_tasks(samples, predictions, controls, losses),
        "predictions": [predictions.get(index) for index in range(len(samples))],
        "records": make_records(samples, predictions, losses, qualities),
    }


def answer_samples(
    model, processor, samples: list[dict], batch_size: int = 64, max_new_tokens: int = 16, label: str = "answers"
) -> list[str]:
    r"""The model's greedy answers to the last question of each sample, in the order of the samples.

    batch_size (`int`, *optional*, defaults to 64): samples generated at once, left-padded.
    max_new_tokens (`int`, *optional*, defaults to 16): longest answer.
    label (`str`, *optional*, defaults to `"answers"`): what the progress bar says.
    """
    answers = [""] * len(samples)
    for index, text, _ in generate_answers(model, processor, samples, batch_size, max_new_tokens, label):
        answers[index] = text
    return answers


@torch.inference_mode()
def generate_answers(
    model, processor, samples: list[dict], batch_size: int, max_new_tokens: int, label: str = "answers", quality=False
) -> Iterator[tuple[int, str, Quality | None]]:
    """As `answer_samples`: the place of each sample and its answer, as they come, and with `quality` how sure the model was of it."""
    collator = MMGPTCollator(processor, add_generation_prompt=True)
    lengths = [sum(len(text_of(turn)) for turn in sample["messages"]) for sample in samples]
    for indices in batches(model, lengths, batch_size, label):
        batch = {key: value.to(model.device) for key, value in collator([samples[index] for index in indices]).items()}
        recorder = QualityRecorder()
        watching = {"logits_processor": LogitsProcessorList([recorder])} if quality else {}
        output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, **watching)  # (B, L + new)
        new_tokens = output[:, batch["input_ids"].shape[1] :]
        ends = model.generation_config.eos_token_id
        measured = recorder.measure(new_tokens, ends) if quality else [None] * len(indices)
        texts = processor.batch_decode(new_tokens, skip_special_tokens=True)
        yield from zip(indices, map(str.strip, texts), measured, strict=True)


def task_of(sample: dict) -> str:
    return sample.get("task") or "all"


def metric_name(sample: dict) -> str:
    return sample.get("metric") or DEFAULT_METRIC


def metrics_of(samples: list[dict]) -> dict[str, object]:
    """The metric of each task. Unknown ones, two under one task name, and references that they cannot judge are refused here, before anything is
    generated."""
    names: dict[str, set[str]] = {}
    for sample in samples:
        names.setdefault(task_of(sample), set()).add(metric_name(sample))
    metrics = {}
    for task, used in sorted(names.items()):
        metrics[task], *others = map(find_metric, sorted(used))
        if others:
            several = ", ".join(sorted(used))
            raise ValueError(f"The samples of {task!r} have several metrics ({several}): set `name` in their sources.")
        if metrics[task].needs_generation:
            metrics[task].check_references([references_of(samples[index]) for index in places_of(task, samples)])
    return metrics


def places_of(task: str, samples: list[dict]) -> list[int]:
    return [index for index, sample in enumerate(samples) if task_of(sample) == task]


def score_tasks(
    samples: list[dict], predictions: Answers, controls: dict[str, Answers], losses: Losses
) -> dict[str, dict]:
    r"""For each task "metric", what the metric computes (measures, their 95% intervals, "n"), and the main measure of each of
    `BASELINES`; None where there is none, as for texts and without media.

    controls (`dict`): "shuffled" and "blank": the answers to the samples with such media.
    """
    tasks = {}
    for task, metric in metrics_of(samples).items():
        indices = places_of(task, samples)
        baselines = dict.fromkeys(BASELINES)
        if metric.needs_generation:
            references = {index: references_of(samples[index]) for index in indices}
            given = [predictions[index] for index in indices]
            score = metric.compute(predictions=given, references=list(references.values()))
            majority = dict.fromkeys(indices, majority_answer([samples[index] for index in indices]))
            for name, answers in {"majority": majority, **controls}.items():
                answered = [index for index in indices if index in answers]
                if answered:
                    pair = [answers[index] for index in answered], [references[index] for index in answered]
                    baselines[name] = metric.estimate(*pair)[metric.measure].value
        else:
            windows = [window for index in indices for window in losses[index]]
            columns = {key: [getattr(window, key) for window in windows] for key in ("nats", "tokens", "bytes")}
            score = metric.compute(losses=columns.pop("nats"), **columns)
        name, _, language = metric_name(samples[indices[0]]).partition(":")
        tasks[task] = {"metric": name, **({"language": language} if language else {}), **score, **baselines}
    return tasks


def make_records(
    samples: list[dict], predictions: Answers, losses: Losses, qualities: dict[int, Quality | None] | None = None
) -> list[dict]:
    """For each sample id, task, metric, and question, references, prediction and score, or the loss of its text in nats per token."""
    scores: dict[int, float] = {}
    for task, metric in metrics_of(samples).items():
        if metric.needs_generation:
            indices = places_of(task, samples)
            references = [references_of(samples[index]) for index in indices]
            of_task = metric.score_samples([predictions[index] for index in indices], references)
            scores |= zip(indices, of_task, strict=True)
    records = []
    for index, sample in enumerate(samples):
        record = {"id": sample.get("id"), "task": sample.get("task"), "metric": metric_name(sample)}
        if index in scores:
            record["question"] = text_of(sample["messages"][-2]) if len(sample["messages"]) > 1 else ""
            record["references"] = references_of(sample)
            record |= {"prediction": predictions[index], "score": scores[index]}
            quality = (qualities or {}).get(index)
            record |= {} if quality is None else quality.as_dict()
        else:
            tokens = sum(window.tokens for window in losses[index])
            record |= {"tokens": tokens, "loss": sum(window.nats for window in losses[index]) / max(tokens, 1)}
        records.append(record)
    return records


def estimates_of(score: dict) -> dict[str, Estimate]:
    """The measures of a task's score, the main one first."""
    return read_estimates(score, METRICS[score["metric"]].measure)


def format_table(tasks: dict[str, dict]) -> str:
    """A line for each measure of each task; the baselines are of the main measure."""
    upper, lower = zip(*(map("{:>16}".format, name.split()) for name in BASELINES.values()), strict=True)
    head = f"{'task':<20}{'n':>7}  {'measure':<18}{'value':>9}{'95% interval':>21}"
    lines = [" " * len(head) + "".join(upper), head + "".join(lower)]
    for task, score in tasks.items():
        for place, (measure, (value, low, high)) in enumerate(estimates_of(score).items()):
            baselines = [score[name] if place == 0 else None for name in BASELINES]
            lines.append(
                f"{task if place == 0 else '':<20}{score['n'] if place == 0 else '':>7}  {measure:<18}"
                f"{value:>9.4f}{f'{low:.4f}-{high:.4f}':>21}"
                + "".join(f"{'-' if value is None else f'{value:.4f}':>16}" for value in baselines)
            )
    return "\n".join(lines)


def record_evaluation(folder: str | Path, recipe: Recipe, tasks: dict[str, dict]) -> Path | None:
    """The table in the card of the model's folder, in place of an earlier one of this recipe and split; a model of the Hub has no
    folder here, and its card stays as it is."""
    sources = getattr(recipe.data, recipe.eval.split)
    ids = {source.task: source.dataset for source in sources if source.dataset}
    results = []
    for task, score in tasks.items():
        about = {"task": task, "n": score["n"], "split": recipe.eval.split, "dataset": ids.get(task)}
        for place, (measure, estimate) in enumerate(estimates_of(score).items()):
            numbers = estimate._asdict() | ({name: score[name] for name in BASELINES} if place == 0 else {})
            rounded = {name: None if number is None else round(number, 4) for name, number in numbers.items()}
            results.append({**about, "measure": measure, **rounded})
    return write_into_card(folder, results, name_of(recipe))


def name_of(recipe: Recipe) -> str:
    return f"recipe `{recipe.name}`, split `{recipe.eval.split}`"


def write_into_card(folder: str | Path, results: list[dict], by: str, section: str = "Results") -> Path | None:
    """As `record_results`, and says what was written, or ends the program with the reason why nothing was."""
    try:
        card = record_results(folder, results, by=by, section=section)
    except (ValueError, OSError) as error:
        sys.exit(f"The model card is as it was: {error}")
    if card is not None:
        print(f"written into the model card: {card}")
    return card


def write_predictions(path: Path, records: list[dict]) -> None:
    """One JSON object a line, see `make_records`."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def command_line(about: str) -> argparse.ArgumentParser:
    """What everything that measures a model by a recipe is started with."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder saved by training.train, or a model of the Hub")
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example eval.split=validation")
    return parser


def main() -> None:
    parser = command_line(__doc__)
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        model, processor = load_checkpoint(arguments.model)
        sources = getattr(recipe.data, recipe.eval.split)
        if not sources:
            raise RecipeError(f"{arguments.recipe} lists no source under data.{recipe.eval.split}.")
        samples = list(load_mixture(sources, recipe.data.root))
        metrics_of(samples)
    except (ValueError, ImportError, FileNotFoundError) as error:
        parser.error(str(error))

    if torch.accelerator.is_available() and not recipe.training.use_cpu:
        model.to(torch.accelerator.current_accelerator())
    started = time.monotonic()
    evaluation = evaluate_samples(model, processor, samples, recipe.eval)
    folder = Path(recipe.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.jsonl", evaluation["records"])
    write_gallery(folder / "errors.html", recipe.name, samples, evaluation)
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
    if recipe.eval.card:
        record_evaluation(arguments.model, recipe, evaluation["tasks"])
    if calibration := calibrate(evaluation["records"]):
        draw_reliability(calibration, folder / "calibration.png")
        print(f"{format_calibration(calibration)}\nwritten to {folder}: calibration.png")
        if recipe.eval.card:
            results = calibration_results(calibration, recipe.eval.split)
            write_into_card(arguments.model, results, name_of(recipe), section="Calibration")


if __name__ == "__main__":
    main()
