"""Images and sounds from every source, and the sentence each bad one is refused with."""

import base64
import http.server
import io
import threading

import numpy as np
import pytest
import soundfile

from modeling_mmgpt.media_mmgpt import load_audio, load_image
from tests.conftest import picture, sound


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, format="PNG")
    return buffer.getvalue()


def wav(rate: int = 16000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    waveform = np.repeat(sound(0)["array"][:, None], channels, axis=1)
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path):
    """A real HTTP server over `tmp_path`; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_an_image_is_the_same_from_every_source(tmp_path, served):
    (tmp_path / "a.png").write_bytes(png())
    encoded = base64.b64encode(png()).decode()
    sources = [
        picture(0),
        png(),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encoded,
        f"data:image/png;base64,{encoded}",
        f"{served}/a.png",
        {"bytes": png(), "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ]
    expected = np.asarray(picture(0))
    for source in sources:
        assert (np.asarray(load_image(source)) == expected).all()


def test_a_sound_is_the_same_from_every_source(tmp_path, served):
    (tmp_path / "a.wav").write_bytes(wav())
    encoded = base64.b64encode(wav()).decode()
    sources = [
        sound(0),
        sound(0)["array"],
        wav(),
        wav(channels=2),
        str(tmp_path / "a.wav"),
        encoded,
        f"data:audio/wav;base64,{encoded}",
        f"{served}/a.wav",
        {"bytes": wav(), "path": None},
    ]
    for source in sources:
        np.testing.assert_array_equal(load_audio(source, 16000), sound(0)["array"])


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (png()[:200], "picture 7 is damaged"),
        (b"this is a text file, whatever its name says", "picture 7 is not an image"),
        (None, "picture 7 is None"),
        ("ftp://example.org/a.png", "cannot open"),
        ("data:image/png;base64,!!!", "picture 7"),
    ],
)
def test_a_bad_image_is_named(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_image(source, "picture 7")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros(0, dtype=np.float32), "clip 7 is empty"),
        (np.array([0.0, np.nan, np.inf]), "clip 7 has 2 samples that are NaN or infinite"),
        (np.zeros(3600 * 16000 + 1, dtype=np.float32), "clip 7 is longer than 3600 s"),
        (wav()[:30], "clip 7 is not a sound"),
        (b"no sound at all", "clip 7 is not a sound"),
        (np.zeros((2, 3, 4)), r"clip 7 has shape \(2, 3, 4\)"),
        (None, "clip 7 is None"),
    ],
)
def test_a_bad_sound_is_named(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_audio(source, 16000, "clip 7")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"picture 7: there is no file .*nowhere\.png"):
        load_image("nowhere.png", "picture 7")


def test_a_failing_download_is_named(served):
    with pytest.raises(ValueError, match=r"clip 7: cannot download .*none\.wav: .*404"):
        load_audio(f"{served}/none.wav", 16000, "clip 7")
