"""Audio of every kind becomes the same mono waveform; what is none, or too much, is refused by name and at once."""

import io
import re
import sys
import tracemalloc
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch

from modeling_mmgpt.audio_loading_mmgpt import flatten_audio, load_audio, read_audio
from modeling_mmgpt.media_sources_mmgpt import Limits
from tests.conftest import make_audio


# Of values that 16 bits hold, so that every form below is exact.
WAVE = np.clip(make_audio(0)["array"] * 16384, -32768, 32767).round() / 32768


def saved(waveform: np.ndarray = WAVE, rate: int = 16000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def encoded(container: str, codec: str, seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> bytes:
    """A tone of 440 Hz and amplitude 0.5."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        layout = "mono" if channels == 1 else "stereo"
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(np.repeat(tone[None].astype(np.float32), channels, axis=0), "fltp", layout)
        frame.rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def flac_of_samples(count: int) -> bytes:
    """42 bytes of FLAC that claim to hold `count` samples at 44.1 kHz."""
    described = (44100 << 44) | (0 << 41) | (15 << 36) | count
    return b"fLaC\x80\x00\x00\x22" + b"\x10\x00" * 2 + b"\0" * 6 + described.to_bytes(8, "big") + b"\0" * 16


@pytest.mark.parametrize(
    "source",
    [
        WAVE,
        WAVE.astype(np.float32),
        WAVE.astype(np.float16),
        WAVE.tolist(),
        (WAVE * 32768).astype(np.int16),
        (WAVE * 2**31).astype(np.int32),
        (WAVE * 32768 + 32768).astype(np.uint16),
        {"array": (WAVE * 32768).astype(np.int16), "sampling_rate": 16000},
        {"array": WAVE.tolist(), "sampling_rate": 16000, "path": None},
        {"raw": WAVE, "sampling_rate": 16000},
        {"raw": (WAVE * 2**31).astype(np.int32), "sampling_rate": 16000},
        (WAVE, 16000),
        (16000, WAVE),
        (16000, (WAVE * 32768).astype(np.int16)),
        [WAVE.astype(np.float32), np.int64(16000)],
        (torch.tensor(WAVE), 16000.0),
        torch.tensor(WAVE, requires_grad=True),
        torch.tensor(WAVE).half(),
        torch.tensor(WAVE * 32768).to(torch.int16)[None],
        np.stack([WAVE] * 2),
        np.stack([(WAVE * 32768).astype(np.int16)] * 6, axis=1),
        torch.tensor(np.stack([WAVE] * 2))[None],
        saved(),
        bytearray(saved()),
        memoryview(saved()),
        io.BytesIO(saved()),
        saved(kind="FLAC"),
        saved(kind="AIFF"),
        saved(kind="AU"),
        saved(kind="WAV", subtype="PCM_24"),
        SimpleNamespace(data=torch.tensor(np.stack([WAVE] * 2)), sample_rate=16000),
    ],
)
def test_audio_of_every_type_and_order_is_the_same_waveform(source):
    waveform = load_audio(source, 16000)
    assert waveform.dtype == np.float32 and waveform.shape == WAVE.shape
    np.testing.assert_allclose(waveform, WAVE, atol=4e-4 if "16" in str(getattr(source, "dtype", "")) else 1e-6)


def test_silence_of_unsigned_integers_is_in_the_middle():
    assert load_audio(np.array([0, 128, 255], dtype=np.uint8), 16000).tolist() == [-1, 0, 127 / 128]
    assert load_audio(np.array([-128, 0, 127], dtype=np.int8), 16000).tolist() == [-1, 0, 127 / 128]


def test_bfloat16_is_taken():
    np.testing.assert_allclose(load_audio(torch.tensor(WAVE).bfloat16(), 16000), WAVE, atol=4e-3)


def test_open_files_are_read_from_their_start(tmp_path):
    (tmp_path / "a.wav").write_bytes(saved())
    with (tmp_path / "a.wav").open("rb") as file:
        file.seek(100)
        np.testing.assert_array_equal(load_audio(file, 16000), load_audio(saved(), 16000))
    with pytest.raises(ValueError, match="clip 7 is a file that cannot be read"):
        load_audio(file, 16000, "clip 7")
    with (tmp_path / "a.wav").open(encoding="latin-1") as file, pytest.raises(ValueError, match="open as text"):
        load_audio(file, 16000, "clip 7")


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp4", "aac", 16000),
        ("ipod", "aac", 16000),
        ("adts", "aac", 16000),
        ("3gp", "aac", 16000),
        ("matroska", "aac", 16000),
        ("webm", "libopus", 48000),
        ("asf", "wmav2", 44100),
        ("mov", "alac", 16000),
    ],
)
def test_what_soundfile_does_not_read_is_read_by_pyav(container, codec, rate):
    for channels in (1, 2):
        waveform, found = read_audio(encoded(container, codec, rate=rate, channels=channels))
        assert found == rate and abs(len(waveform) - rate) < 0.2 * rate
        middle = waveform[rate // 4 : rate // 4 * 3]
        spectrum = np.abs(np.fft.rfft(middle))
        assert abs(spectrum.argmax() * rate / len(middle) - 440) < 4
        assert abs(np.abs(middle).max() - 0.5) < 0.05


def test_without_pyav_it_is_said_what_to_install(monkeypatch):
    data = encoded("mp4", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"clip 7 is not audio that soundfile reads .*`pip install av`"):
        load_audio(data, 16000, "clip 7")


class Decoder:
    """What torchcodec's AudioDecoder shows of itself."""

    def __init__(self, seconds: float = 0.375, rate=16000, channels: int = 2):
        self.metadata = SimpleNamespace(sample_rate=rate, num_channels=channels, duration_seconds=seconds)

    def get_all_samples(self):
        if self.metadata.duration_seconds == 0:
            raise RuntimeError("Could not decode")
        return SimpleNamespace(data=torch.tensor(np.stack([WAVE, 0 * WAVE])), sample_rate=16000)


def test_decoders_of_datasets_are_taken():
    np.testing.assert_allclose(load_audio(Decoder(), 16000), WAVE / 2, atol=1e-6)
    with pytest.raises(ValueError, match=r"clip 7 is not audio .*damaged.*Could not decode"):
        load_audio(Decoder(0), 16000, "clip 7")
    for wrong in (Decoder(2000), Decoder(rate=2_000_000), Decoder(channels=33)):
        with pytest.raises(ValueError, match=r"clip 7 (is longer|has the sampling rate|has 33 channels)"):
            load_audio(wrong, 16000, "clip 7")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            {"array": WAVE, "sampling_rate": float("nan")},
            "clip 7 has the sampling rate nan: give one of 1,000 to 768,000",
        ),
        ({"array": WAVE, "sampling_rate": 0}, "clip 7 has the sampling rate 0"),
        ({"array": WAVE, "sampling_rate": -16000}, "clip 7 has the sampling rate -16000"),
        ({"array": WAVE, "sampling_rate": "16 kHz" * 99}, "clip 7 has the sampling rate 16 kHz16"),
        ({"array": WAVE, "sampling_rate": True}, "clip 7 has the sampling rate True"),
        ((WAVE, float("inf")), "clip 7 has the sampling rate inf"),
        ((10**30, WAVE), "clip 7 has the sampling rate 1"),
        (saved(rate=999), "clip 7 has the sampling rate 999"),
        (np.zeros((33, 400)), "clip 7 has 33 channels, more than 32"),
        (saved(np.zeros((400, 33))), "clip 7 has 33 channels, more than 32"),
        (np.full(9, 1e30), "clip 7 reaches 1e+30"),
        (WAVE * 32768, "clip 7 reaches"),
        (np.full(9, 1e300), "clip 7 has 9 samples that are NaN or infinite"),
        (np.array([0, 5000]), "clip 7 has int64 samples, of a range that is not known"),
        (np.array([True]), "clip 7 has bool samples"),
        (np.zeros((4, 0)), "clip 7 is empty"),
        ({"array": None, "sampling_rate": 16000}, "clip 7 is None"),
        ({"sampling_rate": 16000}, "clip 7 is None"),
        ([[0.0, 0.1], [0.1]], "clip 7 is a list that is no array"),
        (object(), "clip 7 is a object of no real numbers"),
        (0.5, "clip 7 has shape ()"),
        (np.zeros(4, dtype=complex), "clip 7 is a ndarray of no real numbers"),
        (b"", "clip 7 is not audio"),
        (flac_of_samples(2**36 - 1), "clip 7 is longer than 1800 s"),
    ],
)
def test_what_is_no_audio_is_refused_by_name(source, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        load_audio(source, 16000, "clip 7")
    assert len(str(refusal.value)) < 300


def test_what_is_too_long_is_not_decoded_to_its_end():
    hour = saved(np.zeros(3600 * 1000, dtype=np.int16), 1000, "FLAC")
    for source in (hour, flac_of_samples(2**36 - 1), encoded("mp4", "aac", 4)):
        tracemalloc.start()
        with pytest.raises(ValueError, match="is longer than 3 s"):
            load_audio(source, 16000, limits=Limits(audio_seconds=3))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        tracemalloc.stop()
    with pytest.raises(ValueError, match="takes more than 4,000 bytes decoded"):
        load_audio(hour, 16000, limits=Limits(audio_seconds=4000, audio_bytes=4000))


def test_of_a_file_that_was_cut_the_rest_is_read_and_nothing_else():
    cut = saved()[:-8000]
    waveform = load_audio(cut, 16000)
    np.testing.assert_array_equal(waveform, load_audio(saved(), 16000)[: len(waveform)])
    assert len(waveform) == 2000


def test_clips_are_told_from_lists_of_clips():
    pair, wave, numbers = (16000, WAVE), WAVE, [0.1, 0.2]
    assert flatten_audio(pair) == [pair] and flatten_audio(wave)[0] is wave and flatten_audio(numbers) == [numbers]
    assert [len(flatten_audio(many)) for many in ([pair, wave], [[pair], [wave, wave]], [numbers, numbers], [])] == [
        2,
        3,
        2,
        0,
    ]


def test_limits_can_be_lowered_and_not_raised():
    limits = Limits().lowered(audio_seconds=9000, image_side=50, lowest_rate=10)
    assert limits == Limits(image_side=50) and Limits().lowered(lowest_rate=2000).lowest_rate == 2000
    with pytest.raises(ValueError, match="'colour' is not one of the limits"):
        Limits().lowered(colour=1)
