"""Images and audio from every source, and the sentence each bad one is refused with."""

import base64
import http.server
import io
import re
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
import torch

from modeling_mmgpt.audio_loading_mmgpt import load_audio
from modeling_mmgpt.image_loading_mmgpt import load_image
from modeling_mmgpt.media_loading_mmgpt import flatten_videos, load_video, open_media
from modeling_mmgpt.media_sources_mmgpt import Limits, MediaPolicy
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
            if self.path == "/slow":
                time.sleep(1)
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
        (np.zeros(1800 * 16000 + 1, dtype=np.float32), "clip 7 is longer than 1800 s"),
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
    with pytest.raises(ImportError, match=r"Reading audio files needs soundfile.*: `pip install soundfile`"):
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


def test_lists_of_videos_are_told_from_lists_of_frames():
    one = make_video(0)
    array = np.zeros((2, 4, 4, 3))
    assert flatten_videos(one) == [one]
    assert flatten_videos([one, one]) == [one, one] == flatten_videos([[one], [one]])
    assert flatten_videos(["a.mp4", b"x"]) == ["a.mp4", b"x"] and flatten_videos(array)[0] is array


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_all_kinds_come_in_one_way_in_every_form(kind, tmp_path, served):
    data = {"image": png, "audio": wav, "video": clip}[kind]()
    path = tmp_path / "a b.bin"
    path.write_bytes(data)
    letters = base64.b64encode(data).decode()
    expected = open_media(data, kind, sampling_rate=16000)
    sources = [
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        path,
        str(path),
        path.as_uri(),
        f"file://localhost{path.as_uri().removeprefix('file://')}",
        letters,
        letters.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.encodebytes(data).decode(),
        f"data:application/octet-stream;base64,{letters}",
        "data:," + "".join(f"%{byte:02x}" for byte in data),
        f"{served}/a%20b.bin",
        {"bytes": data, "path": "elsewhere"},
    ]
    for source in sources:
        opened = open_media(source, kind, sampling_rate=16000)
        for one, other in [(opened, expected)] if kind != "video" else [(opened["frames"], expected["frames"])]:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    with path.open("rb") as file:
        open_media(file, kind, sampling_rate=16000)


def test_short_base64_is_known_by_its_content_and_words_are_paths():
    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 1), 9).save(buffer, format="GIF")
    assert len(base64.b64encode(buffer.getvalue())) < 100
    assert load_image(base64.b64encode(buffer.getvalue()).decode()).size == (1, 1)
    for word in ("photos/cat", "cat", "catss", "BM", "a" * 300, "x\0y", "\ud800", "é" * 2000):
        with pytest.raises(FileNotFoundError, match="image 7: there is no file "):
            load_image(word, "image 7")


def test_messages_do_not_dump_content():
    for source in ("?" * 100_000, "ftp://" + "a" * 5000, "data:image/png;base64," + "!" * 5000, Path("a" * 5000)):
        with pytest.raises((ValueError, FileNotFoundError)) as refusal:
            load_image(source, "image 7")
        assert len(str(refusal.value)) < 200


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'smell' is no kind of media"):
        open_media(png(), "smell")


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_policy_says_where_media_may_come_from(kind, tmp_path, served):
    data = {"image": png, "audio": wav, "video": clip}[kind]()
    (tmp_path / "a").write_bytes(data)
    policy = MediaPolicy(paths=False, downloads=False)
    for source in (
        str(tmp_path / "a"),
        tmp_path / "a",
        (tmp_path / "a").as_uri(),
        {"bytes": None, "path": str(tmp_path / "a")},
    ):
        with pytest.raises(ValueError, match="it 7: files are not opened by path here"):
            open_media(source, kind, "it 7", policy, sampling_rate=16000)
    with pytest.raises(ValueError, match=r"it 7: http.* is not downloaded here"):
        open_media(f"{served}/a", kind, "it 7", policy, sampling_rate=16000)
    open_media(base64.b64encode(data).decode(), kind, "it 7", policy, sampling_rate=16000)


def test_downloads_are_bounded_in_bytes_and_time(tmp_path, served):
    data = wav()
    (tmp_path / "a").write_bytes(data)
    assert len(load_audio(f"{served}/a", 16000, limits=Limits(download_bytes=len(data)))) == 6000
    with pytest.raises(ValueError, match=r"it 7: cannot download .* more than 4,999 bytes"):
        load_audio(f"{served}/a", 16000, "it 7", limits=Limits(download_bytes=4999))
    with pytest.raises(ValueError, match=r"it 7: cannot download .*(longer than 0\.3 s|timed out)"):
        load_audio(f"{served}/slow", 16000, "it 7", limits=Limits(download_seconds=0.3))


def test_a_film_that_was_cut_is_damaged_and_not_audio():
    for container, codec in (("mp4", "mpeg4"), ("mp4", "libx264"), ("avi", "mpeg4"), ("flv", "flv")):
        film = clip(container, codec)
        for length in range(0, len(film), len(film) // 40):
            try:
                load_video(film[:length], 1.0, 8, "film 7")
            except ValueError as refusal:
                assert re.search("film 7 .*damaged", str(refusal)) and "audio" not in str(refusal)


@pytest.mark.parametrize(
    "begin",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"],
)
def test_files_that_name_other_files_lead_nowhere(begin, tmp_path):
    (tmp_path / "film.mp4").write_bytes(clip())
    (tmp_path / "list.mp4").write_text(begin.format(tmp_path / "film.mp4"))
    for source in (tmp_path / "list.mp4", (tmp_path / "list.mp4").read_bytes()):
        for kind in ("video", "audio"):
            with pytest.raises(ValueError, match="it 7 is not "):
                open_media(source, kind, "it 7", sampling_rate=16000)


@pytest.mark.parametrize(
    "scale", [lambda frames: frames, lambda frames: frames / 255, lambda frames: frames.astype(np.uint16) * 257]
)
@pytest.mark.parametrize(
    "order",
    [
        lambda frames: frames,
        lambda frames: np.moveaxis(frames, -1, 1),
        lambda frames: torch.tensor(np.moveaxis(frames, -1, 1)),
    ],
)
def test_arrays_of_frames_of_every_range_and_order_are_the_same(scale, order):
    frames = np.stack([np.asarray(frame) // (1 + 200 * (index == 0)) for index, frame in enumerate(make_video(0, 6))])
    video = load_video(order(scale(frames)), 1.0, 32)
    np.testing.assert_array_equal(video["frames"], frames)  # the first is dark, and stays so


def test_frames_of_grey_or_transparent_arrays_become_colours():
    assert load_video(np.zeros((2, 5, 6, 1)), 1.0, 8)["frames"].shape == (2, 5, 6, 3)
    assert (load_video(np.zeros((2, 5, 6, 4)), 1.0, 8)["frames"] == 255).all()


class Decoder:
    """What torchcodec's VideoDecoder shows of itself: 50 frames, frame i of brightness 5 i, from second 2 on."""

    metadata = SimpleNamespace(num_frames=50, duration_seconds=5.0, begin_stream_seconds=2.0, width=64, height=48)

    def get_frames_at(self, indices):
        data = torch.stack([torch.full((3, 48, 64), 5 * index, dtype=torch.uint8) for index in indices])
        return SimpleNamespace(data=data, pts_seconds=torch.tensor([2 + index / 10 for index in indices]))

    def get_frames_played_at(self, seconds):
        return self.get_frames_at([int((second - 2) * 10 + 1e-6) for second in seconds])


def test_decoders_of_datasets_are_taken():
    video = load_video(Decoder(), 1.0, 8)
    assert video["frames"].shape == (5, 48, 64, 3) and video["frames"][:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]
    assert video["times"] == pytest.approx([0, 1, 2, 3, 4])
    assert len(load_video(Decoder(), 1.0, None)["times"]) == 50
    assert flatten_videos([Decoder(), [Decoder()]]) and len(flatten_videos([Decoder(), [Decoder()]])) == 2
    with pytest.raises(ValueError, match="film 7 is longer than 4 s"):
        load_video(Decoder(), 1.0, 8, "film 7", limits=Limits(video_seconds=4))


@pytest.mark.parametrize(
    ("source", "fps", "sentence"),
    [
        ({"frames": make_video(0), "fps": 0}, 1.0, "film 7 has fps 0"),
        ({"frames": make_video(0), "fps": float("nan")}, 1.0, "film 7 has fps nan"),
        ({"frames": make_video(0), "fps": -1}, 1.0, "film 7 has fps -1"),
        ({"frames": make_video(0), "fps": "fast"}, 1.0, "film 7 has fps fast"),
        ({"frames": make_video(0), "fps": 1e-9}, 1.0, "film 7 is longer than 1800 s"),
        (clip(), float("inf"), "film 7 has fps inf"),
        (make_video(0), 1e9, "film 7 has fps 1000000000"),
        ({"frames": 5}, 1.0, "film 7 is a int"),
        (object(), 1.0, "film 7 is a object"),
        (np.zeros((4, 4, 3)), 1.0, r"film 7 is a ndarray of shape \(4, 4, 3\)"),
        (np.full((2, 4, 4, 3), np.nan), 1.0, "film 7 has 96 values that are NaN"),
        (np.zeros((2, 0, 4, 3)), 1.0, "film 7 has shape .*no pixels"),
        (np.zeros((2, 9, 9, 9)), 1.0, "frame 0 of film 7 has shape"),
    ],
)
def test_what_is_no_video_is_refused_by_name(source, fps, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_video(source, fps, 8, "film 7")


def test_videos_beyond_the_limits_are_not_decoded():
    for source in (clip(), [make_image(0, 64, 48)] * 50, np.zeros((50, 48, 64, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match="film 7 is longer than 4 s"):
            load_video(source, 10, 99, "film 7", limits=Limits(video_seconds=4))
        for num_frames in (5, None):
            with pytest.raises(ValueError, match="film 7 has frames of more than 36,864 bytes"):
                load_video(source, 10, num_frames, "film 7", limits=Limits(video_bytes=4 * 64 * 48 * 3))
        assert len(load_video(source, 10, 4, "film 7", limits=Limits(video_bytes=4 * 64 * 48 * 3))["times"]) == 4
