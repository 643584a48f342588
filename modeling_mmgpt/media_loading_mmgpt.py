"""Images, audio and videos from wherever people have them: objects, paths, URLs, base64, bytes, samples of a data set.

What is too large is refused, or read smaller, before it is decoded: images by PIL.Image.MAX_IMAGE_PIXELS (89 million), audio by
LONGEST_AUDIO, videos by the number of frames that are asked for.

The packages that decode (Pillow, soundfile, soxr, PyAV) are imported when they are first needed: a model loads without those of the
modalities that it lacks.
"""

import importlib
import io
from pathlib import Path

import numpy as np
import torch

from .image_loading_mmgpt import is_image, load_image, most_pixels
from .media_sources_mmgpt import LIMITS, import_optional, read_bytes, unwrap
from .token_counts_mmgpt import video_frame_times


LONGEST_AUDIO = 3600  # seconds


def load_audio(source, sampling_rate: int, name: str = "audio") -> np.ndarray:
    """`source` as a mono float32 waveform of shape `(num_samples,)` in [-1, 1] at `sampling_rate` samples a second.

    Channels are mixed; of an array's two axes the shorter one holds them. Audio of another rate is resampled; an array
    without a rate is taken to have the right one. Raises `ValueError` or `FileNotFoundError` with `name` in it when the audio
    is missing, damaged, empty, not finite, longer than LONGEST_AUDIO, or of another rate and soxr is not installed."""
    source = unwrap(source, "array")
    rate = sampling_rate
    if isinstance(source, dict):
        rate, source = source.get("sampling_rate") or sampling_rate, source["array"]
    if source is None:
        raise ValueError(f"{name} is None: give a waveform, a path, a URL, base64 or bytes.")
    if isinstance(source, (str, bytes, Path)):
        source, rate = read_audio(read_bytes(source, name), name)
    waveform = np.asarray(source, dtype=np.float32)
    if waveform.ndim == 2:
        waveform = waveform.mean(axis=int(np.argmin(waveform.shape)), dtype=np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"{name} has shape {waveform.shape}: give one of (num_samples,) or (channels, num_samples).")
    if not len(waveform):
        raise ValueError(f"{name} is empty: it has no samples.")
    if len(waveform) > LONGEST_AUDIO * rate:
        raise ValueError(f"{name} is longer than {LONGEST_AUDIO} s, the most that is read: cut it into pieces.")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name} has {int((~np.isfinite(waveform)).sum())} samples that are NaN or infinite.")
    return waveform if rate == sampling_rate else resample(waveform, rate, sampling_rate, name)


def read_audio(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """The samples of an audio file, `(num_samples,)`, no more than show that it is too long, and its rate."""
    soundfile = import_optional("soundfile", "soundfile", f"Reading {name}")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames = file.read(int(LONGEST_AUDIO * file.samplerate) + 1, dtype="float32", always_2d=True)
            return frames.mean(axis=1), file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{name} is not audio that can be read (wrong format or damaged file): {error.error_string}"
        ) from error


def resample(waveform: np.ndarray, rate: int, sampling_rate: int, name: str) -> np.ndarray:
    try:
        soxr = import_optional("soxr", "soxr", "Resampling")
    except ImportError as error:
        raise ValueError(
            f"{name} has {rate} samples a second but the model takes {sampling_rate}: install soxr (`pip install soxr`), and it is "
            "resampled here, or resample it yourself."
        ) from error
    resampled = soxr.resample(waveform, rate, sampling_rate)
    return resampled if len(resampled) else np.zeros(1, dtype=np.float32)  # less than half a sample is left of it


def load_video(source, fps: float, num_frames: int | None, name: str = "video") -> dict:
    """Frames of `source` and the second that each of them stands at: `{"frames": (num_frames, height, width, 3), "times": [...]}`.

    `fps` frames a second are taken, evenly spread over the whole where that would be more than `num_frames`; every frame
    where `num_frames` is `None`.

    Args:
        source: a file, as path, URL, base64 or bytes; a list of images or an array `(num_frames, height, width, channels)`
            with one frame for each 1 / `fps` seconds, or `{"frames": such a list or array, "fps": its own rate}`; or what
            this function returned, which is returned as it is.
    """
    source = unwrap(source, "frames")
    if source is None:
        raise ValueError(f"{name} is None: give a file, a list of images or an array of frames.")
    if isinstance(source, dict) and "times" in source:
        return source
    if isinstance(source, (str, bytes, Path)):
        return decode_video(source, fps, num_frames, name)
    rate, frames = (source.get("fps") or fps, source["frames"]) if isinstance(source, dict) else (fps, source)
    if not len(frames):
        raise ValueError(f"{name} has no frames.")
    if num_frames is None:
        places = [*range(len(frames))]
    else:
        times = video_frame_times(len(frames) / rate, fps, num_frames)
        places = [min(len(frames) - 1, int(time * rate + 1e-6)) for time in times]
    if isinstance(frames, (list, tuple)):
        images = [np.asarray(load_image(frames[place], f"frame {place} of {name}")) for place in places]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"{name} has frames of different sizes: {sorted({image.shape for image in images})}.")
        frames = np.stack(images)
    else:
        frames = frames[places]
    return {"frames": frames, "times": [place / rate for place in places]}


def open_frames(video):
    """A video of a message: frames, of anything that is an image, become images; any other form stays as it is."""
    if not isinstance(video, (list, tuple)):
        return video
    return [load_image(frame, f"frame {index} of a video") for index, frame in enumerate(video)]


def decode_video(source: str | bytes | Path, fps: float, num_frames: int | None, name: str) -> dict:
    """Frames, chosen by the time they are shown at: rates vary within a file, and some formats do not say how many frames they hold."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ImportError(
            f"{name} is a video file, which PyAV decodes: `pip install av`, or give a list of its frames."
        ) from error
    is_path = isinstance(source, Path) or (isinstance(source, str) and len(source) < 1024 and Path(source).is_file())
    frames, times = [], []
    try:
        with av.open(str(source) if is_path else io.BytesIO(read_bytes(source, name))) as container:
            if not container.streams.video:
                raise ValueError(f"{name} has no frames: it holds audio alone.")
            stream = container.streams.video[0]
            limit = most_pixels(LIMITS)
            if stream.width * stream.height > limit:
                raise ValueError(f"{name} has frames of {stream.width} x {stream.height} pixels, more than {limit:,}.")
            stream.thread_type = "AUTO"
            wanted = None if num_frames is None else video_frame_times(duration_of(container, stream), fps, num_frames)
            first = None
            for frame in container.decode(stream):
                if frame.time is None:
                    raise ValueError(f"{name} does not say when its frames are shown: save it as MP4, MKV or WebM.")
                first = frame.time if first is None else first
                if wanted is None or frame.time - first >= wanted[len(times)] - 1e-3:
                    pixels = frame.to_ndarray(format="rgb24")  # (height, width, 3)
                    frames.append(np.rot90(pixels, frame.rotation // 90))  # as the camera was held
                    times.append(frame.time - first)
                    if wanted is not None and len(times) == len(wanted):
                        break
    except av.error.FFmpegError as error:
        raise ValueError(f"{name} is not a video that can be read (wrong format or damaged file): {error}") from error
    if not frames:
        raise ValueError(f"{name} has no frames.")
    return {"frames": np.stack(frames), "times": times}


def duration_of(container, stream) -> float:
    """Seconds that an opened video lasts; where its file does not say, by the time of its last packet."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / 1e6
    times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
    container.seek(0)
    return float((max(times, default=0) - min(times, default=0)) * stream.time_base)


def is_video(source) -> bool:
    """Whether `source` is one video, not a list of several."""
    if isinstance(source, (list, tuple)):
        return bool(source) and all(is_image(one) or is_array(one, 3) for one in source)
    return isinstance(source, (str, bytes, Path, dict)) or is_array(source, 4)


def is_array(source, num_dimensions: int) -> bool:
    return isinstance(source, (np.ndarray, torch.Tensor)) and source.ndim == num_dimensions


def flatten_videos(videos) -> list:
    """One video, a list of them, or a list of lists, as one list."""
    return [videos] if is_video(videos) else [video for entry in videos for video in flatten_videos(entry)]
