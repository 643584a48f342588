"""The demo's report: one HTML file that needs nothing else, with images, audio, answers, loss curve and table.

`write_report` turns results and examples into plain values; training/demo/report.html.jinja lays them out.
"""

import math
from pathlib import Path

from training.data.synthetic.course import TASKS
from training.evaluation.pages import embed_media, write_page


TEMPLATE = Path(__file__).with_name("report.html.jinja")
GROUPS = {  # source: title, what it is and what was held out
    "digits": (
        "Handwritten digits",
        "Real handwriting, from scikit-learn. None of these images was in the training data.",
    ),
    "scenes": (
        "Drawn scenes",
        "No scene like these was ever described in training: each combines colour, shape, count and place anew.",
    ),
    "audio": (
        "Audio",
        "No instrument played these notes at this pitch in training. Press play to hear the model's input.",
    ),
    "text": ("Text", "Every word list, sentence and story here is new to the model."),
}


def write_report(path: Path, results: dict, examples: list[dict], log: list[dict]) -> None:
    r"""
    path (`Path`): the file to write.
    results (`dict`): what results.json holds; training/demo/run.py makes it.
    examples (`list[dict]`): "task", "question", "reference", "generate" and "sample", the sample with its media.
    log (`list[dict]`): the trainer's log, with "step" and "loss".
    """
    write_page(
        path,
        TEMPLATE,
        results=results,
        minutes=duration(results["train_seconds"]),
        groups=[group(source, results, examples) for source in GROUPS],
        curve=loss_curve(log),
        questions=sum(score["n"] for score in results["tasks"].values()),
        percent=percent,
    )


def group(source: str, results: dict, examples: list[dict]) -> dict:
    """One section of the report: the scores and examples of one source of data."""
    title, text = GROUPS[source]
    # Labels leave out the source, which stands above them: "caption" of "scene_caption".
    tasks = [
        {"label": task.partition("_")[2].replace("_", " "), **results["tasks"][task]}
        for task in TASKS[source]
        if task in results["tasks"]
    ]
    cards = [card(example) for example in examples if example["task"] in TASKS[source]]
    n = sum(task["n"] for task in tasks)
    return {
        "source": source,
        "title": title,
        "text": text,
        "tasks": tasks,
        "mean": sum(task["exact_match"] * task["n"] for task in tasks) / n if n else None,
        "cards": cards,
        "has_mistakes": not all(card["right"] for card in cards),
    }


def card(example: dict) -> dict:
    """An example with its media as data URIs."""
    return {
        "question": example["question"],
        "reference": example["reference"],
        "answer": example["generate"],
        "right": example["generate"] == example["reference"],
        **embed_media(example["sample"]),
    }


def percent(share: float) -> str:
    """A share in percent with one decimal, without a decimal at 0 and 100."""
    return f"{100 * share:.1f}".removesuffix(".0") + "\u202f%"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def loss_curve(log: list[dict], width: int = 640, height: int = 220) -> dict | None:
    """An SVG path through (step, loss) on a logarithmic scale, with the places of the grid lines; None without losses."""
    points = [(entry["step"], entry["loss"]) for entry in log if entry.get("loss", 0) > 0]
    if len(points) < 2:
        return None
    left, right, top, bottom = 44, width - 8, 10, height - 24
    last_step = points[-1][0]
    low = math.floor(math.log2(min(loss for _, loss in points)))
    high = math.ceil(math.log2(max(loss for _, loss in points)))
    high = max(high, low + 1)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + (right - left) * step / last_step
        y = bottom - (bottom - top) * (math.log2(loss) - low) / (high - low)
        return round(x, 1), round(y, 1)

    every = 10 ** math.floor(math.log10(last_step))
    every = every if last_step / every >= 3 else every // 2 or 1
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "bottom": bottom,
        "path": "M" + " L".join(f"{x} {y}" for x, y in (place(*point) for point in points)),
        "losses": [{"y": place(0, 2.0**power)[1], "text": f"{2.0**power:g}"} for power in range(low, high + 1)],
        "steps": [{"x": place(step, 1.0)[0], "text": step} for step in range(0, last_step + 1, every)],
        "first": points[0][1],
        "final": points[-1][1],
    }
