"""Images and audio from every source, and the sentence each bad one is refused with."""

import base64
import http.server
import io
import re
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
import torch

from modeling_mmgpt import media_loading_mmgpt
from modeling_mmgpt.media_loading_mmgpt import flatten_videos, load_audio, load_image, load_video
from tests.conftest import make_audio, make_image, make_video


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    make_image(seed).save(buffer, format="PNG")
    return buffer.getvalue()


def wav(rate: int = 16000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    waveform = np.repeat(make_audio(0)["array"][:, None], channels, axis=1)
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def clip(container: str = "mp4", codec: str = "mpeg4", num_frames: int = 50, rate: int = 10) -> bytes:
    """A video that grows brighter: frame i is of brightness 5 i."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, width=64, height=48, pix_fmt="yuv420p")
        for index in range(num_frames):
            pixels = np.full((48, 64, 3), 5 * index, dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture
def without(monkeypatch):
    """Hides a package: importing it fails."""

    def hide(name: str):
        monkeypatch.setitem(sys.modules, name, None)

    return hide


@contextmanager
def web_server(folder: Path):
    """A real HTTP server over `folder`; gives its address. Of /cut it sends less than it promises."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path != "/cut":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"less")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def served(tmp_path):
    with web_server(tmp_path) as address:
        yield address


def test_an_image_is_the_same_from_every_source(tmp_path, served):
    (tmp_path / "a.png").write_bytes(png())
    encoded = base64.b64encode(png()).decode()
    sources = [
        make_image(0),
        png(),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encoded,
        f"data:image/png;base64,{encoded}",
        f"{served}/a.png",
        {"bytes": png(), "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ]
    expected = np.asarray(make_image(0))
    for source in sources:
        assert (np.asarray(load_image(source)) == expected).all()


def test_audio_is_the_same_from_every_source(tmp_path, served):
    (tmp_path / "a.wav").write_bytes(wav())
    encoded = base64.b64encode(wav()).decode()
    sources = [
        make_audio(0),
        make_audio(0)["array"],
        wav(),
        wav(channels=2),
        str(tmp_path / "a.wav"),
        encoded,
        f"data:audio/wav;base64,{encoded}",
        f"{served}/a.wav",
        {"bytes": wav(), "path": None},
    ]
    for source in sources:
        np.testing.assert_array_equal(load_audio(source, 16000), make_audio(0)["array"])


@pytest.mark.parametrize("path", ["none.png", "cut", " no path"])
def test_what_cannot_be_downloaded_is_named(served, path):
    with pytest.raises(ValueError, match=f"image 7: cannot download {served}/{path}: ."):
        load_image(f"{served}/{path}", "image 7")


@pytest.mark.parametrize("address", ["http://", "http://[::1", "http://host:port/a.png", "http://no host/a.png"])
def test_what_is_no_address_is_named(address):
    with pytest.raises(ValueError, match=re.escape(f"image 7: cannot download {address}: ")):
        load_image(address, "image 7")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (png()[:200], "image 7 is damaged"),
        (b"this is a text file, whatever its name says", "image 7 is not an image"),
        (None, "image 7 is None"),
        ("ftp://example.org/a.png", "cannot open"),
        ("data:image/png;base64,!!!", "image 7"),
    ],
)
def test_a_bad_image_is_named(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_image(source, "image 7")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros(0, dtype=np.float32), "clip 7 is empty"),
        (np.array([0.0, np.nan, np.inf]), "clip 7 has 2 samples that are NaN or infinite"),
        (np.zeros(3600 * 16000 + 1, dtype=np.float32), "clip 7 is longer than 3600 s"),
        (wav()[:30], "clip 7 is not audio"),
        (b"no audio at all", "clip 7 is not audio"),
        (np.zeros((2, 3, 4)), r"clip 7 has shape \(2, 3, 4\)"),
        (None, "clip 7 is None"),
    ],
)
def test_bad_audio_is_named(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_audio(source, 16000, "clip 7")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"image 7: there is no file .*nowhere\.png"):
        load_image("nowhere.png", "image 7")


def test_a_failing_download_is_named(served):
    with pytest.raises(ValueError, match=r"clip 7: cannot download .*none\.wav: .*404"):
        load_audio(f"{served}/none.wav", 16000, "clip 7")


def test_a_jpeg_of_too_many_pixels_is_read_smaller_and_other_files_are_refused(monkeypatch):
    large = PIL.Image.new("RGB", (400, 300), (200, 30, 60))
    files = {}
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        large.save(buffer, format=kind)
        files[kind] = buffer.getvalue()
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 70_000)
    image = load_image(files["JPEG"])
    assert image.size == (200, 150) and abs(int(np.asarray(image)[9, 9, 0]) - 200) < 5
    with pytest.raises(ValueError, match="image 7 has 400 x 300 pixels, more than the 70,000 that are decoded"):
        load_image(files["PNG"], "image 7")
    assert load_image(large).size == (400, 300)  # it is in memory already
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(ValueError, match=r"image 7 is too large: .*120000 pixels"):
        load_image(files["PNG"], "image 7")


def test_a_bomb_of_100_megapixels_is_not_decoded():
    buffer = io.BytesIO()
    PIL.Image.new("1", (10_000, 10_000)).save(buffer, format="PNG")
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(ValueError, match="10000 x 10000 pixels, more than the 89,478,485"):
        load_image(buffer.getvalue())


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_audio_of_any_rate_is_resampled(rate):
    seconds = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 440 * seconds).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, rate, format="WAV", subtype="FLOAT")
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    for source in ({"array": tone, "sampling_rate": rate}, buffer.getvalue()):
        resampled = load_audio(source, 16000)
        assert resampled.dtype == np.float32 and abs(len(resampled) - 16000) <= 1
        np.testing.assert_allclose(resampled[200:-200], expected[200 : len(resampled) - 200], atol=2e-3)


def test_channels_are_mixed_whichever_axis_holds_them():
    left, right = make_audio(0)["array"], make_audio(1)["array"]
    for both in (np.stack((left, right)), np.stack((left, right), axis=1), torch.tensor(np.stack((left, right)))):
        np.testing.assert_allclose(load_audio(both, 16000), (left + right) / 2, atol=1e-7)


def test_without_soxr_audio_of_another_rate_is_refused_and_says_what_to_install(without):
    without("soxr")
    assert len(load_audio(make_audio(0), 16000)) == 6000
    with pytest.raises(
        ValueError, match=r"clip 7 has 8000 samples a second but the model takes 16000: .*`pip install soxr`"
    ):
        load_audio(wav(rate=8000), 16000, "clip 7")


def test_without_soundfile_an_audio_file_is_refused_and_says_what_to_install(without):
    without("soundfile")
    assert len(load_audio(make_audio(0), 16000)) == 6000
    with pytest.raises(ImportError, match=r"Reading clip 7 needs soundfile.*: `pip install soundfile`"):
        load_audio(wav(), 16000, "clip 7")


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx"), ("matroska", "ffv1")]
)
def test_frames_of_a_file_are_those_of_their_times(container, codec, tmp_path):
    data = clip(container, codec)
    (tmp_path / "a.video").write_bytes(data)
    for source in (data, tmp_path / "a.video", str(tmp_path / "a.video"), {"bytes": data, "path": None}):
        video = load_video(source, 1.0, 8)
        assert video["times"] == [0, 1, 2, 3, 4]
        assert video["frames"].shape == (5, 48, 64, 3)
        np.testing.assert_allclose(video["frames"][:, 20, 30, 0], [0, 50, 100, 150, 200], atol=3)
    fewer = load_video(data, 10, 4)
    assert fewer["times"] == pytest.approx([0, 1.3, 2.5, 3.8], abs=0.06)


@pytest.mark.parametrize("make", [list, np.stack, lambda frames: torch.tensor(np.stack(frames))])
def test_frames_without_a_file_always_work(make, without):
    without("av")
    frames = [np.asarray(frame) for frame in make_video(0, 10)]
    video = load_video(make(frames), 2.0, 32)
    assert video["times"] == [index / 2 for index in range(10)]
    assert (np.asarray(video["frames"]) == np.stack(frames)).all()
    thinned = load_video(make(frames), 2.0, 5)
    assert thinned["times"] == [0, 1, 2, 3, 4] and (np.asarray(thinned["frames"]) == np.stack(frames)[::2]).all()
    known = load_video({"frames": make(frames), "fps": 5}, 1.0, 32)
    assert known["times"] == [0, 1] and (np.asarray(known["frames"]) == np.stack(frames)[[0, 5]]).all()
    assert load_video(video, 1.0, 1) is video
    whole = load_video({"frames": make(frames), "fps": 5}, 1.0, None)
    assert whole["times"] == [index / 5 for index in range(10)]
    assert (np.asarray(whole["frames"]) == np.stack(frames)).all()


def test_frames_may_be_files(tmp_path):
    for index, frame in enumerate(make_video(0)):
        frame.save(tmp_path / f"{index}.png")
    video = load_video([str(tmp_path / f"{index}.png") for index in range(3)], 1.0, 8)
    assert (video["frames"] == np.stack([np.asarray(frame) for frame in make_video(0)])).all()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"no video", "film 7 is not a video"),
        (clip()[:200], "film 7 is not a video"),
        (wav(), "film 7 has no frames: it holds audio"),
        ([], "film 7 has no frames"),
        (None, "film 7 is None"),
        ([make_image(0, 9, 9), make_image(0, 9, 8)], "film 7 has frames of different sizes"),
        ([make_image(0), b"broken"], "frame 1 of film 7 is not an image"),
    ],
)
def test_a_bad_video_is_named(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_video(source, 1.0, 8, "film 7")


def test_without_pyav_a_video_file_is_refused_and_says_what_to_install(without):
    data = clip()
    without("av")
    with pytest.raises(ImportError, match=r"film 7 is a video file, .*`pip install av`.*list of its frames"):
        load_video(data, 1.0, 8, "film 7")


def test_frames_of_too_many_pixels_are_not_decoded(monkeypatch):
    data = clip()
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="film 7 has frames of 64 x 48 pixels"):
        load_video(data, 1.0, 8, "film 7")


def test_the_longest_audio_is_not_decoded_to_its_end(monkeypatch):
    monkeypatch.setattr(media_loading_mmgpt, "LONGEST_AUDIO", 0.1)
    with pytest.raises(ValueError, match=r"clip 7 is longer than 0\.1 s"):
        load_audio(wav(), 16000, "clip 7")


def test_lists_of_videos_are_told_from_lists_of_frames():
    one = make_video(0)
    array = np.zeros((2, 4, 4, 3))
    assert flatten_videos(one) == [one]
    assert flatten_videos([one, one]) == [one, one] == flatten_videos([[one], [one]])
    assert flatten_videos(["a.mp4", b"x"]) == ["a.mp4", b"x"] and flatten_videos(array)[0] is array
