"""The gallery of an evaluation: one HTML file with the worst answers of each task, their questions, images, audio and video frames."""

from pathlib import Path

from training.evaluation.metrics import METRICS
from training.evaluation.pages import embed_media, write_page


TEMPLATE = Path(__file__).with_name("gallery.html.jinja")
WORST = 12  # answers of each task that are shown; right ones never are


def write_gallery(path: Path, title: str, samples: list[dict], evaluation: dict) -> None:
    r"""
    path (`Path`): the file to write.
    title (`str`): what was evaluated.
    samples (`list[dict]`): the samples with their media.
    evaluation (`dict`): what `evaluate_samples` returns for them.
    """
    tasks = []
    for name, score in evaluation["tasks"].items():
        metric = METRICS[score["metric"]]
        of_task = [
            pair for pair in zip(samples, evaluation["records"], strict=True) if (pair[1]["task"] or "all") == name
        ]
        wrong = [(sample, record) for sample, record in of_task if is_wrong(record, metric)]
        wrong.sort(key=lambda pair: -abs(pair[1]["score"] - metric.best))
        cards = [
            {**record, **embed_media(sample), "score": f"{record['score']:.3g}"} for sample, record in wrong[:WORST]
        ]
        value = f"{score[metric.measure]:.4f}"
        about = {"name": name, "measure": metric.measure, "value": value, "n": score["n"]}
        tasks.append({**about, "wrong": len(wrong), "cards": cards})
    write_page(path, TEMPLATE, title=title, tasks=tasks)


def is_wrong(record: dict, metric: type) -> bool:
    """An answer that neither equals a reference nor scores as well."""
    if record.get("score") in (None, metric.best):
        return False
    return record["prediction"] not in [reference.strip() for reference in record["references"]]
