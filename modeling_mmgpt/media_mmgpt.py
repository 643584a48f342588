"""Images and sounds from wherever people have them: objects, paths, URLs, base64, bytes, rows of a data set."""

import base64
import binascii
import io
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import soundfile


def read_bytes(source: str | bytes | Path, name: str) -> bytes:
    """The bytes behind a path, an http(s) URL, a data URL or a base64 string; bytes are handed back as they are."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        return read_file(source, name)
    if source.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(source, timeout=30) as response:
                return response.read()
        except OSError as error:
            raise ValueError(f"{name}: cannot download {source}: {error}") from error
    if source.startswith("data:"):
        source = source.partition(",")[2]
    elif "://" in source:
        raise ValueError(f"{name}: cannot open {source!r}: give a path, an http(s) or data URL, or base64.")
    elif len(source) < 1024 or Path(source).suffix:
        return read_file(Path(source), name)
    try:
        return base64.b64decode(source, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}: {source[:40]!r}... is neither a file nor valid base64.") from error


def read_file(path: Path, name: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file {path}.")
    return path.read_bytes()


def unwrap(source, key: str):
    """Rows of `datasets` hold media as {"bytes", "path"} when they are not decoded; audio also as {"array", ...}."""
    if isinstance(source, dict) and key not in source:
        return source["bytes"] if source.get("bytes") is not None else source.get("path")
    return source


def load_image(source, name: str = "image") -> PIL.Image.Image:
    """`source` as an RGB image, turned upright. An image object or array that is already decoded is handed back.

    Raises `ValueError` or `FileNotFoundError` with `name` in it when there is no image to be had."""
    source = unwrap(source, "image")
    if not isinstance(source, (str, bytes, Path, PIL.Image.Image)):
        if source is None:
            raise ValueError(f"{name} is None: give an image object, a path, a URL, base64 or bytes.")
        return source
    try:
        image = source if isinstance(source, PIL.Image.Image) else PIL.Image.open(io.BytesIO(read_bytes(source, name)))
        return PIL.ImageOps.exif_transpose(image).convert("RGB")
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that can be read (wrong format or damaged file).") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{name} is damaged: {error}.") from error


def load_audio(source, sampling_rate: int, name: str = "audio") -> np.ndarray:
    """`source` as a mono float32 waveform of shape `(num_samples,)` in [-1, 1] at `sampling_rate` samples a second.

    An array without a rate is taken to have the right one. Raises `ValueError` or `FileNotFoundError` with `name` in it when
    the sound is missing, damaged, empty, not finite or of another rate."""
    source = unwrap(source, "array")
    rate = sampling_rate
    if isinstance(source, dict):
        rate, source = source.get("sampling_rate", sampling_rate), source["array"]
    if source is None:
        raise ValueError(f"{name} is None: give a waveform, a path, a URL, base64 or bytes.")
    if isinstance(source, (str, bytes, Path)):
        try:
            source, rate = soundfile.read(io.BytesIO(read_bytes(source, name)), dtype="float32")
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{name} is not a sound that can be read (wrong format or damaged file): {error}"
            ) from error
        source = source.mean(axis=-1) if source.ndim == 2 else source  # channels are the last axis of a file
    waveform = np.asarray(source, dtype=np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"{name} has shape {waveform.shape}: give one channel, of shape (num_samples,).")
    if rate != sampling_rate:
        raise ValueError(
            f"{name} has {rate} samples a second but the model hears {sampling_rate}: resample it, for example with "
            f"`soxr.resample(waveform, {rate}, {sampling_rate})`."
        )
    if not len(waveform):
        raise ValueError(f"{name} is empty: it has no samples.")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name} has {int((~np.isfinite(waveform)).sum())} samples that are NaN or infinite.")
    return waveform
