"""The one way in for media: images, audio and videos from wherever people have them, under one policy and within limits.

Objects, arrays, paths, URLs, base64, bytes, open files, samples of a data set and what torchcodec decodes. Images are in
image_loading_mmgpt, audio in audio_loading_mmgpt, where they come from and `Limits` in media_sources_mmgpt, videos here. The packages
that decode (Pillow, soundfile, soxr, PyAV) are imported when they are first needed: a model loads without those of the
modalities that it lacks.
"""

import importlib
import io
import numbers
import os
from pathlib import Path

import numpy as np
import torch

from .audio_loading_mmgpt import load_audio
from .image_loading_mmgpt import check_size, is_image, load_image, most_pixels, to_bytes
from .media_sources_mmgpt import (
    LIMITS,
    NO_LINKS,
    TRUSTED,
    Limits,
    MediaError,
    MediaPolicy,
    as_array,
    is_file,
    is_file_like,
    naming,
    read_bytes,
    unwrap,
)
from .requests_mmgpt import shown
from .token_counts_mmgpt import video_frame_times


FASTEST = 10_000  # frames a second


def open_media(
    source,
    kind: str,
    name: str | None = None,
    policy: MediaPolicy = TRUSTED,
    limits: Limits = LIMITS,
    *,
    sampling_rate: int | None = None,
    fps: float = 1.0,
    num_frames: int | None = None,
):
    """`source`, an "image", "audio" or a "video", as `load_image`, `load_audio` or `load_video` return it.

    Args:
        name: what the medium is called in errors.
        policy: where media may come from.
        limits: how much of them is read.
        sampling_rate: of audio.
        fps, num_frames: the frames that are taken of a video.
    """
    if kind == "image":
        return load_image(source, name or kind, policy, limits)
    if kind == "audio":
        return load_audio(source, sampling_rate, name or kind, policy, limits)
    if kind == "video":
        return load_video(source, fps, num_frames, name or kind, policy, limits)
    raise ValueError(f"{shown(kind)!r} is no kind of media: there are image, audio and video.")


def load_video(
    source,
    fps: float,
    num_frames: int | None,
    name: str = "video",
    policy: MediaPolicy = TRUSTED,
    limits: Limits = LIMITS,
) -> dict:
    """Frames of `source` and the second that each of them stands at: `{"frames": (num_frames, height, width, 3), "times": [...]}`.

    `fps` frames a second are taken, evenly spread over the whole where that would be more than `num_frames`; every frame
    where `num_frames` is `None`.

    Args:
        source: a file, as path, URL, base64, bytes or open file; torchcodec's VideoDecoder; a list of images or an array
            `(num_frames, height, width, channels)` or `(num_frames, channels, height, width)`, of any type that images have, with
            one frame for each 1 / `fps` seconds, or `{"frames": such a list or array, "fps": its own rate}`; or what
            this function returned, which is returned as it is.
    """
    with naming(name):
        source = unwrap(source, "frames")
        if source is None:
            raise MediaError("is None: give a file, a list of images or an array of frames.")
        if isinstance(source, dict) and "times" in source:
            return source
        check_fps(fps)
        if is_file_like(source):
            video = decode_video(source, fps, num_frames, policy, limits)
        elif is_decoder(source):
            video = frames_of_decoder(source, fps, num_frames, limits)
        else:
            video = choose_frames(source, fps, num_frames, name, policy, limits)
        if not len(video["frames"]):
            raise MediaError("has no frames that can be read: the file is damaged.")
        if len({frame.shape for frame in video["frames"]}) > 1:
            sizes = sorted({frame.shape[:2] for frame in video["frames"]})
            raise MediaError(f"has frames of different sizes: {shown(sizes)}.")
        return {**video, "frames": np.stack(video["frames"])}


def choose_frames(source, fps: float, num_frames: int | None, name: str, policy: MediaPolicy, limits: Limits) -> dict:
    """Of a list or an array of frames, or a dictionary with it and its rate, those that are wanted."""
    rate, frames = (source.get("fps"), source["frames"]) if isinstance(source, dict) else (fps, source)
    rate = fps if rate is None else check_fps(rate)
    if not isinstance(frames, (list, tuple)) and not is_array(frames, 4):
        shape = f" of shape {tuple(frames.shape)}" if hasattr(frames, "shape") else ""
        raise MediaError(
            f"is a {type(frames).__name__}{shape}: give a file, a list of images or an array (num_frames, height, width, channels)."
        )
    if not len(frames):
        raise MediaError("has no frames.")
    check_duration(len(frames) / rate, limits)
    if num_frames is None:
        places = [*range(len(frames))]
    else:
        times = video_frame_times(len(frames) / rate, fps, num_frames)
        places = [min(len(frames) - 1, int(time * rate + 1e-6)) for time in times]
    if isinstance(frames, (list, tuple)):
        images = (load_image(frames[place], f"frame {place} of {name}", policy, limits) for place in places)
        chosen = within_bytes((np.asarray(image) for image in images), limits)
    else:
        chosen = frames_of_array(frames[places], name, limits)
    return {"frames": chosen, "times": [place / rate for place in places]}


def check_fps(rate) -> float:
    if not isinstance(rate, numbers.Real) or isinstance(rate, bool) or not 0 < rate <= FASTEST:
        raise MediaError(f"has fps {shown(rate, 20)}: give frames a second, more than 0 and at most {FASTEST:,}.")
    return rate


def check_duration(seconds: float, limits: Limits) -> None:
    if seconds > limits.video_seconds:
        raise MediaError(f"is longer than {limits.video_seconds} s, the most that is read: cut it into pieces.")


def check_bytes(num_bytes: int, limits: Limits) -> None:
    if num_bytes > limits.video_bytes:
        raise MediaError(
            f"has frames of more than {limits.video_bytes:,} bytes decoded: take fewer of them (num_frames), make them smaller, or raise "
            "Limits.video_bytes."
        )


def within_bytes(frames, limits: Limits) -> list:
    """The frames that an iterator yields, as long as they keep to the limit."""
    kept, num_bytes = [], 0
    for frame in frames:
        num_bytes += frame.nbytes
        check_bytes(num_bytes, limits)
        kept.append(frame)
    return kept


def frames_of_array(frames, name: str, limits: Limits) -> list:
    """Frames in RGB of 8 bits; of floats the range of all frames counts, not that of each."""
    array = as_array(frames)
    if not array.size:
        raise MediaError(f"has shape {array.shape}: it has no pixels.")
    check_bytes(array.size, limits)
    array = to_bytes(array)
    array = torch.from_numpy(array) if isinstance(frames, torch.Tensor) else array
    images = (load_image(frame, f"frame {index} of {name}", limits=limits) for index, frame in enumerate(array))
    return within_bytes((np.asarray(image) for image in images), limits)


def decode_video(source, fps: float, num_frames: int | None, policy: MediaPolicy, limits: Limits) -> dict:
    """Frames, chosen by the time they are shown at: rates vary within a file, and some formats do not say how many frames they hold."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        words = "is a video file, which PyAV decodes: `pip install av`, or give a list of its frames."
        raise MediaError(words, ImportError) from error
    is_path = isinstance(source, (str, os.PathLike)) and policy.allows_path(source) and is_file(source)
    frames, times, first = [], [], None
    try:
        with (
            Path(source).open("rb") if is_path else io.BytesIO(read_bytes(source, policy, limits)) as file,
            av.open(file, options=NO_LINKS) as container,
        ):
            stream = video_stream(container, limits)
            seconds = duration_of(container, stream)
            check_duration(seconds, limits)
            wanted = None if num_frames is None else video_frame_times(seconds, fps, num_frames)
            check_bytes(len(wanted or [0]) * stream.width * stream.height * 3, limits)
            for frame in container.decode(stream):
                if frame.time is None:
                    raise MediaError("does not say when its frames are shown: save it as MP4, MKV or WebM.")
                first = frame.time if first is None else first
                check_duration(frame.time - first, limits)
                if wanted is None or frame.time - first >= wanted[len(times)] - 1e-3:
                    check_bytes((len(frames) + 1) * frame.width * frame.height * 3, limits)
                    pixels = frame.to_ndarray(format="rgb24")  # (height, width, 3)
                    frames.append(np.rot90(pixels, frame.rotation // 90))  # as the camera was held
                    times.append(frame.time - first)
                    if wanted is not None and len(times) == len(wanted):
                        break
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(f"is not a video that can be read (wrong format or damaged file): {shown(error)}") from error
    return {"frames": frames, "times": times}


def video_stream(container, limits: Limits):
    """The stream of frames in an opened file, of a size within the limits."""
    if container.streams.audio and not container.streams.video:
        raise MediaError("has no frames: it holds audio alone.")
    # A film that was cut has no streams, or one of no known codec.
    if not container.streams.video or container.streams.video[0].codec_context is None:
        raise MediaError("is not a video that can be read (wrong format or damaged file).")
    stream = container.streams.video[0]
    check_size(stream.width, stream.height, limits)
    if stream.width * stream.height > (limit := most_pixels(limits)):
        raise MediaError(f"has frames of {stream.width} x {stream.height} pixels, more than {limit:,}.")
    stream.thread_type = "AUTO"
    return stream


def is_decoder(source) -> bool:
    """Whether `source` is torchcodec's VideoDecoder, which `datasets` returns."""
    return callable(getattr(source, "get_frames_played_at", None))


def frames_of_decoder(decoder, fps: float, num_frames: int | None, limits: Limits) -> dict:
    about = decoder.metadata
    begin = getattr(about, "begin_stream_seconds", None) or 0.0
    seconds = about.duration_seconds
    if not seconds or not about.num_frames:
        raise MediaError("has no frames.")
    check_duration(seconds, limits)
    times = None if num_frames is None else video_frame_times(seconds, fps, num_frames)
    count = about.num_frames if times is None else len(times)
    check_bytes(count * (about.width or 0) * (about.height or 0) * 3, limits)
    try:
        if times is None:
            batch = decoder.get_frames_at([*range(count)])
        else:
            batch = decoder.get_frames_played_at([begin + time for time in times])
    except RuntimeError as error:
        raise MediaError(f"is not a video that can be read (damaged file): {shown(error)}") from error
    return {
        "frames": frames_of_array(batch.data, "it", limits),
        "times": (as_array(batch.pts_seconds) - begin).tolist(),
    }


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
    return is_file_like(source) or isinstance(source, dict) or is_decoder(source) or is_array(source, 4)


def is_array(source, num_dimensions: int) -> bool:
    return isinstance(source, (np.ndarray, torch.Tensor)) and source.ndim == num_dimensions


def flatten_videos(videos) -> list:
    """One video, a list of them, or a list of lists, as one list."""
    return [videos] if is_video(videos) else [video for entry in videos for video in flatten_videos(entry)]
