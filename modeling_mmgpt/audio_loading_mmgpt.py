"""Audio in every form to mono waveforms in [-1, 1].

soundfile reads files, PyAV those that it cannot (M4A, AAC, WMA, films), soxr resamples; each is imported when it is first needed."""

import importlib
import io
import numbers

import numpy as np
import torch

from .media_sources_mmgpt import (
    LIMITS,
    NO_LINKS,
    TRUSTED,
    Limits,
    MediaError,
    MediaPolicy,
    as_array,
    import_optional,
    is_file_like,
    naming,
    read_bytes,
    unwrap,
)
from .requests_mmgpt import shown


FORMS = "give a waveform, a path, a URL, base64 or bytes"
BLOCK = 2**16  # samples of each channel that are decoded at a time
LOUDEST = 100  # more than audio in [-1, 1] has after any effect, and less than that of integers has


def load_audio(
    source, sampling_rate: int, name: str = "audio", policy: MediaPolicy = TRUSTED, limits: Limits = LIMITS
) -> np.ndarray:
    """`source` as a mono float32 waveform of shape `(num_samples,)` in [-1, 1] at `sampling_rate` samples a second.

    Takes files, arrays and tensors, `{"array" or "raw": waveform, "sampling_rate"}`, pairs of a waveform and its rate in any order, and
    what torchcodec returns. Channels are mixed; of an array's two axes the shorter one holds them. Integers are scaled by their range.
    Audio of another rate is resampled; an array without a rate is taken to have the right one. Raises `ValueError` or
    `FileNotFoundError` with `name` in it when the audio is missing, damaged, empty, not finite, beyond a limit, or of another
    rate and soxr is not installed."""
    waveform, rate = read_audio(source, sampling_rate, name, policy, limits)
    if rate == sampling_rate:
        return waveform
    try:
        soxr = importlib.import_module("soxr")
    except ImportError as error:
        raise ValueError(
            f"{name} has {rate} samples a second but the model takes {sampling_rate}: install soxr (`pip install soxr`), and it is "
            "resampled here, or resample it yourself."
        ) from error
    resampled = soxr.resample(waveform, float(rate), sampling_rate)
    return resampled if len(resampled) else np.zeros(1, dtype=np.float32)  # less than half a sample is left of it


def read_audio(
    source,
    default_rate: int | None = None,
    name: str = "audio",
    policy: MediaPolicy = TRUSTED,
    limits: Limits = LIMITS,
) -> tuple[np.ndarray, float]:
    """A waveform as of `load_audio`, and the rate that it came with, or else `default_rate`."""
    with naming(name):
        key = "raw" if isinstance(source, dict) and "raw" in source else "array"
        source, rate = unwrap(source, key), None
        if isinstance(source, dict):
            rate, source = source.get("sampling_rate"), source[key]
        elif is_pair(source):
            source, rate = source if isinstance(source[1], numbers.Real) else source[::-1]
        if source is None:
            raise MediaError(f"is None: {FORMS}.")
        if callable(getattr(source, "get_all_samples", None)):  # torchcodec's AudioDecoder
            source = decode_all(source, limits)
        if hasattr(source, "sample_rate") and hasattr(source, "data"):  # torchcodec's AudioSamples
            rate, source = source.sample_rate, source.data
        if is_file_like(source):
            waveform, rate = decode_audio(read_bytes(source, policy, limits), limits)
        else:
            rate = check_format(default_rate if rate is None else rate, limits)
            waveform = waveform_of(source, rate, limits)
        if not len(waveform):
            raise MediaError("is empty: it has no samples.")
        if not np.isfinite(waveform).all():
            raise MediaError(f"has {int((~np.isfinite(waveform)).sum())} samples that are NaN or infinite.")
        if (peak := float(np.abs(waveform).max())) > LOUDEST:
            raise MediaError(
                f"reaches {peak:.4g}: scale floats to [-1, 1], or give integers of 16 or 32 bits as such."
            )
        return waveform, rate


def is_pair(source) -> bool:
    """Whether `source` is a waveform and its rate, in one order or the other."""
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        return False
    return sum(isinstance(one, numbers.Real) for one in source) == 1 and any(
        isinstance(one, (np.ndarray, torch.Tensor, list)) for one in source
    )


def flatten_audio(audio) -> list:
    """One audio clip, a list of them, or a list of lists, as one list."""
    if not isinstance(audio, (list, tuple)) or is_pair(audio) or (audio and isinstance(audio[0], numbers.Real)):
        return [audio]
    return [clip for entry in audio for clip in flatten_audio(entry)]


def waveform_of(source, rate: float, limits: Limits) -> np.ndarray:
    """An array or tensor as mono float32 in [-1, 1], `(num_samples,)`."""
    array = as_array(source)
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if not array.size:
        raise MediaError("is empty: it has no samples.")
    if array.ndim not in (1, 2):
        raise MediaError(f"has shape {shape}: give one of (num_samples,) or (channels, num_samples).")
    check_length(max(array.shape), rate, limits)
    check_format(rate, limits, min(array.shape) if array.ndim == 2 else 1)
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "b" or (kind in "iu" and bits == 64 and np.abs(array).max() > 1):
        raise MediaError(
            f"has {array.dtype} samples, of a range that is not known: give int16, int32, uint8 or floats."
        )
    if kind == "u":
        array = (array.astype(np.float64) - 2.0 ** (bits - 1)) / 2.0 ** (bits - 1)  # silence is in the middle
    elif kind == "i" and bits < 64:
        array = array / 2.0 ** (bits - 1)
    with np.errstate(over="ignore"):  # what float32 does not hold is refused as infinite
        waveform = array.astype(np.float32)
    return waveform if waveform.ndim == 1 else waveform.mean(axis=int(np.argmin(waveform.shape)), dtype=np.float32)


def check_format(rate, limits: Limits, num_channels: int = 1) -> float:
    is_number = isinstance(rate, (numbers.Real, torch.Tensor)) and not isinstance(rate, bool)
    if not is_number or not limits.lowest_rate <= float(rate) <= limits.highest_rate:
        raise MediaError(
            f"has the sampling rate {shown(rate, 20)}: give one of {limits.lowest_rate:,} to {limits.highest_rate:,} samples a second."
        )
    if num_channels > limits.audio_channels:
        raise MediaError(f"has {num_channels} channels, more than {limits.audio_channels}: mix it down.")
    return rate


def check_length(num_samples: float, rate: float, limits: Limits) -> None:
    if num_samples > limits.audio_seconds * rate:
        raise MediaError(f"is longer than {limits.audio_seconds} s, the most that is read: cut it into pieces.")
    if 4 * num_samples > limits.audio_bytes:
        raise MediaError(f"takes more than {limits.audio_bytes:,} bytes decoded: cut it into pieces.")


def decode_audio(data: bytes, limits: Limits) -> tuple[np.ndarray, int]:
    """The samples of an audio file, mixed to mono, `(num_samples,)`, and its rate."""
    soundfile = import_optional("soundfile", "soundfile", "Reading audio files")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            check_format(file.samplerate, limits, file.channels)
            if file.frames < 2**62:  # otherwise the file does not say
                check_length(file.frames, file.samplerate, limits)
            return join_blocks(mono_blocks(file), file.samplerate, limits), file.samplerate
    except soundfile.LibsndfileError as error:
        reason = error.error_string
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise MediaError(
            f"is not audio that soundfile reads (another format, such as M4A, or a damaged file): {reason} `pip install av` reads more "
            "formats."
        ) from error
    try:
        with av.open(io.BytesIO(data), options=NO_LINKS) as container:
            return decode_with_pyav(av, container, limits)
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(f"is not audio that can be read (wrong format or damaged file): {reason}") from error


def mono_blocks(file):
    """(SoundFile.blocks repeats samples where a file holds fewer than it says.)"""
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):  # (samples, channels)
        yield block.mean(axis=1)


def decode_with_pyav(av, container, limits: Limits) -> tuple[np.ndarray, int]:
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        raise MediaError("is not audio that can be read: the file holds no audio stream.")
    stream = container.streams.audio[0]
    check_format(stream.rate, limits, stream.channels)
    if container.duration is not None:
        check_length(container.duration / 1e6 * stream.rate, stream.rate, limits)
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    decoded = (piece for frame in container.decode(stream) for piece in resampler.resample(frame))
    blocks = (piece.to_ndarray().mean(axis=0) for piece in decoded)  # (channels, samples)
    return join_blocks(blocks, stream.rate, limits), stream.rate


def join_blocks(blocks, rate: int, limits: Limits) -> np.ndarray:
    """Blocks of mono samples in one, as long as they keep to the limits."""
    kept, length = [np.zeros(0, dtype=np.float32)], 0
    for block in blocks:
        length += len(block)
        check_length(length, rate, limits)
        kept.append(block)
    return np.concatenate(kept)


def decode_all(decoder, limits: Limits):
    """The samples of a decoder of torchcodec, once what it says of the file is within the limits."""
    about = decoder.metadata
    if (rate := about.sample_rate) is not None:
        check_format(rate, limits, about.num_channels or 1)
        seconds = about.duration_seconds or getattr(about, "duration_seconds_from_header", None) or 0
        check_length(seconds * rate, rate, limits)
    try:
        return decoder.get_all_samples()
    except RuntimeError as error:
        raise MediaError(f"is not audio that can be read (damaged file): {shown(error)}") from error
