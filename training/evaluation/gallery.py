"""The gallery of an evaluation: one HTML file with the worst answers of each task, their questions, pictures, sounds and frames of videos."""

import io
import re
from pathlib import Path

import jinja2
import numpy as np
import soundfile
from PIL import Image

from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from training.data.augmentation import read_audio
from training.demo.report import TEMPLATE as REPORT_TEMPLATE
from training.demo.report import data_uri, spectrogram_png
from training.evaluation.metrics import METRICS


TEMPLATE = Path(__file__).with_name("gallery.html.jinja")
WORST = 12  # answers of each task that are shown
SECONDS = 30  # of a sound that are kept
FRAMES = 4  # of a video that are shown, evenly spread


def write_gallery(path: Path, title: str, rows: list[dict], evaluation: dict, worst: int = WORST) -> None:
    r"""
    path (`Path`): the file to write.
    title (`str`): what was evaluated.
    rows (`list[dict]`): the samples with their media.
    evaluation (`dict`): what `evaluate_samples` returns for them.
    worst (`int`, *optional*, defaults to 12): most answers of a task to show; right ones are never shown.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    tasks = []
    for name, score in evaluation["tasks"].items():
        metric = METRICS[score["metric"]]
        pairs = [
            pair
            for pair in zip(rows, evaluation["records"], strict=True)
            if (pair[1]["task"] or "all") == name and pair[1].get("score") is not None and is_wrong(pair[1], metric)
        ]
        pairs.sort(key=lambda pair: -abs(pair[1]["score"] - metric.best))
        tasks.append(
            {
                "name": name,
                "measure": metric.measure,
                "value": f"{score[metric.measure]:.4f}",
                "n": score["n"],
                "wrong": len(pairs),
                "cards": [card(*pair) for pair in pairs[:worst]],
            }
        )
    # The report's look, so that both pages are one family.
    style = re.search(r"<style>(.*?)</style>", REPORT_TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)[1]
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(title=title, style=style, tasks=tasks)
    path.write_text(page, encoding="utf-8")


def is_wrong(record: dict, metric: type) -> bool:
    """An answer that is not one of the right ones to the letter, nor as good."""
    exact = record["prediction"] in [reference.strip() for reference in record["references"]]
    return not exact and record["score"] != metric.best


def card(row: dict, record: dict) -> dict:
    """An answer with its media as data URIs; texts are escaped by the template engine."""
    sounds = [mono_wav(audio) for audio in row.get("audios") or []]
    videos = [load_video(video, 1.0, FRAMES) for video in row.get("videos") or []]
    frames = [Image.fromarray(np.asarray(frame)) for video in videos for frame in video["frames"]]
    return {
        **{key: record[key] for key in ("id", "question", "references", "prediction")},
        "score": f"{record['score']:.3g}",
        "images": [data_uri(png(image), "image/png") for image in [*(row.get("images") or []), *frames]],
        "sounds": [
            {"sound": data_uri(wav, "audio/wav"), "spectrogram": data_uri(spectrogram_png(wav), "image/png")}
            for wav in sounds
        ],
    }


def png(image) -> bytes:
    """What the model was given, in a format that every browser shows."""
    buffer = io.BytesIO()
    load_image(image).save(buffer, format="PNG")
    return buffer.getvalue()


def mono_wav(audio: dict) -> bytes:
    wave, rate = read_audio(audio)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave[: SECONDS * rate], rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
