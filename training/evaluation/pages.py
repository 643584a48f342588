"""HTML pages that need nothing else: the look that the demo's report and the gallery share, and media as data URIs."""

import base64
import io
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from PIL import Image

from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from training.data.augmentation import read_audio
from training.data.synthetic.conversation import wav_bytes


SECONDS = 30  # of an audio clip that are kept
FRAMES = 4  # of a video that are shown, evenly spread


def write_page(path: Path, template: Path, **values) -> None:
    """Renders a template that extends page.html.jinja. Everything from the data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    path.write_text(environment.get_template(template.name).render(**values), encoding="utf-8")


def embed_media(sample: dict) -> dict:
    """The images of a sample, with a few frames of its videos, and its audio clips, as the macro `media` in media.html.jinja shows them."""
    videos = [load_video(video, 1.0, FRAMES) for video in sample.get("videos") or []]
    frames = [np.asarray(frame) for video in videos for frame in video["frames"]]
    images = [load_image(image) for image in sample.get("images") or []]
    audios = []
    for audio in sample.get("audios") or []:
        wave, rate = read_audio(audio)
        wave = wave[: SECONDS * rate]
        wav = data_uri(wav_bytes(wave, rate), "audio/wav")
        audios.append({"wav": wav, "spectrogram": png_uri(spectrogram(wave, rate))})
    return {"images": [png_uri(image) for image in [*images, *map(Image.fromarray, frames)]], "audios": audios}


def png_uri(image: Image.Image) -> str:
    """Whatever the file was, PNG is what every browser shows."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def spectrogram(wave: np.ndarray, rate: int, window: int = 512, hop: int = 80, highest: float = 4000.0) -> Image.Image:
    """Loudness over time (left to right) and frequency (0 to `highest` hertz upwards), 60 decibels from black to bright."""
    wave = np.pad(wave, (0, max(0, window - len(wave))))
    pieces = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(pieces)[:, : round(highest * window / rate) + 1]) ** 2  # (time, frequency)
    decibels = 10 * np.log10(power + 1e-10)
    brightness = np.clip((decibels - decibels.max() + 60) / 60, 0, 1)
    return Image.fromarray(matplotlib.colormaps["magma"](brightness.T[::-1], bytes=True)[..., :3])
