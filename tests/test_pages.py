"""What the report and the gallery share: media that every browser shows, inside the page."""

import base64
import io

import numpy as np
import soundfile
from PIL import Image

from training.evaluation.pages import SECONDS, embed_media, spectrogram


def test_a_spectrogram_shows_a_tone_at_its_height():
    """2 kHz is half way up to 4 kHz."""
    image = spectrogram(0.5 * np.sin(2 * np.pi * 2000 * np.arange(16000) / 16000), 16000)
    pixels = np.asarray(image).sum(-1)
    assert pixels.shape == (129, 194)
    assert set(pixels.argmax(0)) == {64}


def test_the_spectrogram_of_a_very_short_clip_has_one_column():
    assert spectrogram(np.ones(10), 16000).size == (1, 129)


def test_media_of_a_sample_become_png_and_wav():
    jpeg = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(jpeg, format="JPEG")
    wave = {"array": np.zeros(8000 * (SECONDS + 1), dtype=np.float32), "sampling_rate": 8000}
    embedded = embed_media({"images": [{"bytes": jpeg.getvalue(), "path": None}], "audios": [wave]})
    (image,), (audio,) = embedded["images"], embedded["audios"]
    png = Image.open(io.BytesIO(base64.b64decode(image.removeprefix("data:image/png;base64,"))))
    assert (png.format, png.size) == ("PNG", (5, 4))
    wav = io.BytesIO(base64.b64decode(audio["wav"].removeprefix("data:audio/wav;base64,")))
    assert soundfile.info(wav).duration == SECONDS
    assert embed_media({}) == {"images": [], "audios": []}
