"""The gallery of an evaluation: one HTML file with the worst answers of each task, their questions, images, audio and video frames."""

from pathlib import Path

from training.evaluation.metrics import METRICS
from training.evaluation.pages import embed_media, write_page


TEMPLATE = Path(__file__).with_name("gallery.html.jinja")
WORST = 12  # answers of each task that are shown; never one that equals a reference or scores as well


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
        wrong = []
        for sample, record in zip(samples, evaluation["records"], strict=True):
            if (record["task"] or "all") != name or record.get("score") in (None, metric.best):
                continue
            if record["prediction"] not in [reference.strip() for reference in record["references"]]:
                wrong.append((sample, record))
        wrong.sort(key=lambda pair: -abs(pair[1]["score"] - metric.best))
        cards = [
            {**record, **embed_media(sample), "score": f"{record['score']:.3g}"} for sample, record in wrong[:WORST]
        ]
        value = f"{score[metric.measure]:.4f}"
        about = {"name": name, "measure": metric.measure, "value": value, "n": score["n"]}
        tasks.append({**about, "wrong": len(wrong), "cards": cards})
    write_page(path, TEMPLATE, title=title, tasks=tasks)
