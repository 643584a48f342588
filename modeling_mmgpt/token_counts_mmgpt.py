"""How many tokens an image, an audio clip or a video becomes. Processor, model and collator ask here and nowhere else.

A chunk is what an encoder takes one of: a whole image or a tile of one, a window of audio, a frame of a video. A medium's tokens are
those of its chunks, one after the other. Where `tokens_per_row` is given (under this name in saved processors), every chunk is so many
tokens, whatever it holds: the queries of a resampler, or the one placeholder that stands for a chunk with cross-attention. The counts
hold for Python integers and, element-wise, for integer tensors.
"""

import math

from .tower_families_mmgpt import audio_family, vision_family


def image_token_count(
    height: int, width: int, patch_size: int, merge_size: int, tokens_per_row: int | None = None
) -> int:
    """Tokens of an image, tile or frame of `height` x `width` pixels."""
    return grid_token_count(height // patch_size, width // patch_size, merge_size, tokens_per_row)


def grid_token_count(rows, columns, merge_size: int, tokens_per_row: int | None = None):
    """Tokens of `rows` x `columns` patches, `merge_size` x `merge_size` to a token; the last ones may be partly filled."""
    if tokens_per_row is not None:
        return rows * 0 + tokens_per_row
    return ((rows + merge_size - 1) // merge_size) * ((columns + merge_size - 1) // merge_size)


def most_tiles(height: int, width: int, tile_size: tuple[int, int], max_tiles: int) -> int:
    """The most tiles an image is cut into: `max_tiles`, and no more than cover it at its own size."""
    return min(max_tiles, math.ceil(height / tile_size[0]) * math.ceil(width / tile_size[1]))


def tiles_per_image(tile_positions):
    """Entries of the tensor `tile_positions` that belong to each image: its overview, at (0, 0), is the last one."""
    ends = (tile_positions == 0).all(-1).nonzero().flatten() + 1
    return ends.diff(prepend=ends.new_zeros(1))


def audio_token_count(num_frames, convolutions: list, merge_size: int, tokens_per_row: int | None = None):
    """Tokens of `num_frames` spectrogram frames, or samples of a waveform: through the encoder's convolutions, then `merge_size` to a token.

    A convolution is (kernel, stride, padding) and, where it makes several vectors for each step of time, how many. The last token may
    stand for fewer frames than the others."""
    if tokens_per_row is not None:
        return num_frames * 0 + tokens_per_row
    for kernel, stride, padding, *vectors in convolutions:
        num_frames = (num_frames + 2 * padding - kernel) // stride + 1
        num_frames = num_frames * vectors[0] if vectors else num_frames
    return (num_frames + merge_size - 1) // merge_size


def shortest_audio(convolutions: list) -> int:
    """The fewest spectrogram frames, or samples, that become a token."""
    length = 1
    for kernel, stride, padding, *_ in reversed(convolutions):
        length = max(1, (length - 1) * stride + kernel - 2 * padding)
    return length


def audio_windows(num_samples: int, window: int | None, shortest: int) -> list[int]:
    """Samples of each window that an audio clip is cut into, the last one padded to `shortest`. `None`: one of any length."""
    if window is None:
        return [max(num_samples, shortest)]
    rest = num_samples % window
    return [window] * (num_samples // window) + ([max(rest, shortest)] if rest or not num_samples else [])


def video_frame_times(duration: float, fps: float, num_frames: int) -> list[float]:
    """Seconds at which frames of a video of `duration` seconds are taken: `fps` a second from its start on, or fewer, evenly
    spread, where that would be more than `num_frames`."""
    count = max(1, min(num_frames, math.ceil(duration * fps - 1e-6)))
    step = max(1 / fps, duration / count)
    return [index * step for index in range(count)]


def image_geometry(config) -> dict:
    """The arguments of [`image_token_count`] that an MMGPTConfig fixes; empty without a vision encoder."""
    if (tower := config.vision_config) is None:
        return {}
    geometry = {"patch_size": vision_family(tower).patch_size(tower), "merge_size": config.vision_merge_size}
    return geometry | fixed_tokens(config.fusion, config.vision_num_queries)


def audio_geometry(config) -> dict:
    """The arguments of [`audio_token_count`] that an MMGPTConfig fixes; empty without an audio encoder."""
    if (tower := config.audio_config) is None:
        return {}
    family = audio_family(tower)
    merge_size = config.audio_merge_size * family.frames_per_vector(tower)
    convolutions = family.convolutions(tower)
    if family.bands is not None:
        convolutions = [*convolutions[:-1], [*convolutions[-1], family.bands(tower)]]
    geometry = {"convolutions": convolutions, "merge_size": merge_size}
    return geometry | fixed_tokens(config.fusion, config.audio_num_queries)


def fixed_tokens(fusion: str, num_queries: int | None) -> dict:
    """`tokens_per_row`, where something fixes it."""
    if fusion == "cross_attention":
        return {"tokens_per_row": 1}
    return {} if num_queries is None else {"tokens_per_row": num_queries}


def full_chunk_vectors(config, kind: str) -> int | None:
    """Vectors behind the connector of a whole tile, or of a whole window of audio, where media are cut into such chunks.

    `None` too where each vector has a placeholder, so that the borders of chunks do not matter."""
    if config.fusion == "interleave":
        return None
    num_queries = config.audio_num_queries if kind == "audio" else config.vision_num_queries
    if num_queries is not None:
        return num_queries
    if kind == "image" and config.vision_max_tiles is not None:
        size, geometry = vision_family(config.vision_config).image_size(config.vision_config), image_geometry(config)
        return image_token_count(size, size, geometry["patch_size"], geometry["merge_size"])
    if kind == "audio" and (frames := window_frames(config.audio_config)) is not None:
        geometry = audio_geometry(config)
        return audio_token_count(frames, geometry["convolutions"], geometry["merge_size"])
    return None


def window_frames(audio_config) -> int | None:
    """Spectrogram frames of the one length of window that the encoder takes (Whisper's 30 seconds); `None`: it takes any."""
    frames = None if audio_config is None else audio_family(audio_config).frames
    return None if frames is None else frames(audio_config)
