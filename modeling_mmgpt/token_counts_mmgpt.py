"""How many tokens an image, a sound or a video becomes. Processor, model and collator ask here and nowhere else.

One row of a tower's input is a whole image, a tile of one, a window of a sound or a frame of a video; a medium's tokens are
those of its rows, one after the other. Where `tokens_per_row` is given, every row is so many tokens, whatever it holds: the queries
of a resampler, or the one placeholder that stands for a row with cross-attention. The counts hold for Python integers and,
element-wise, for integer tensors.
"""

import math


# (kernel, stride, padding) of the convolutions at the entrance of Whisper's encoder (Radford et al. 2022, section 2.2).
WHISPER_CONVOLUTIONS = [[3, 1, 1], [3, 2, 1]]

# Everything between a spectrogram and an encoder's output that shortens time.
SPECTROGRAM_TOWERS = {
    "mmgpt_frame": [],
    "whisper": WHISPER_CONVOLUTIONS,
    "voxtral_encoder": WHISPER_CONVOLUTIONS,
    "qwen2_audio_encoder": [*WHISPER_CONVOLUTIONS, [2, 2, 0]],  # and an average over pairs behind the last layer
}

# These hear the samples themselves, through convolutions that their configuration lists (Baevski et al. 2020).
WAVEFORM_TOWERS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")

# Convolutional towers have no patches, but each of their vectors stands for a square of pixels. Not among them: towers with batch
# norm, such as ResNet, whose output for one image depends on the others in training.
CONVOLUTIONAL_TOWERS = ("bit", "dinov3_convnext")

# Positions of these towers are turned, interpolated or absent: the image processor alone decides the size of the images.
ANY_SIZE_TOWERS = ("dinov2", "dinov2_with_registers", "dinov3_vit", *CONVOLUTIONAL_TOWERS)

# These take images of any shape, cut into patches by the image processor (NaFlex, Tschannen et al. 2025, arXiv:2502.14786).
NATIVE_TOWERS = ("siglip2_vision_model",)


def image_token_count(
    height: int, width: int, patch_size: int, merge_size: int, tokens_per_row: int | None = None
) -> int:
    """Tokens of an image, tile or frame of `height` x `width` pixels."""
    return grid_token_count(height // patch_size, width // patch_size, merge_size, tokens_per_row)


def grid_token_count(rows, columns, merge_size: int, tokens_per_row: int | None = None):
    """Tokens of `rows` x `columns` patches, `merge_size` x `merge_size` of them to a token; the last ones may be partly filled."""
    if tokens_per_row is not None:
        return rows * 0 + tokens_per_row
    return ((rows + merge_size - 1) // merge_size) * ((columns + merge_size - 1) // merge_size)


def most_tiles(height: int, width: int, tile_size: tuple[int, int], max_tiles: int) -> int:
    """The most tiles an image is cut into: `max_tiles`, and no more than cover it at its own size."""
    return min(max_tiles, math.ceil(height / tile_size[0]) * math.ceil(width / tile_size[1]))


def audio_token_count(num_frames, convolutions: list, merge_size: int, tokens_per_row: int | None = None):
    """Tokens of `num_frames` spectrogram frames, or samples of a waveform: through the tower's convolutions, then `merge_size` to a token.

    The last token may stand for fewer frames than the others."""
    if tokens_per_row is not None:
        return num_frames * 0 + tokens_per_row
    for kernel, stride, padding in convolutions:
        num_frames = (num_frames + 2 * padding - kernel) // stride + 1
    return (num_frames + merge_size - 1) // merge_size


def frame_count(num_samples: int, hop_length: int, window: int | None) -> int:
    """Spectrogram frames that the extractor counts as sound. It leaves out a begun frame at the end, unless silence follows it in
    a window."""
    return num_samples // hop_length if window is None else math.ceil(num_samples / hop_length)


def shortest_sound(convolutions: list) -> int:
    """The fewest spectrogram frames, or samples, that become a token."""
    length = 1
    for kernel, stride, padding in reversed(convolutions):
        length = max(1, (length - 1) * stride + kernel - 2 * padding)
    return length


def audio_windows(num_samples: int, window: int | None, shortest: int) -> list[int]:
    """Samples of each window that a sound is cut into, the last one filled up to `shortest`. `None`: one of any length."""
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


def side(size: int | list | tuple) -> int:
    """One side of a square that some configurations write as a number and others as a pair."""
    return size if isinstance(size, int) else size[0]


def image_geometry(config) -> dict:
    """The arguments of [`image_token_count`] that an MMGPTConfig fixes; empty without a vision tower."""
    if config.vision_config is None:
        return {}
    tower = config.vision_config
    is_convolutional = tower.model_type in CONVOLUTIONAL_TOWERS
    patch_size = convolutional_stride(tower) if is_convolutional else side(tower.patch_size)
    geometry = {"patch_size": patch_size, "merge_size": config.vision_merge_size}
    return geometry | fixed_tokens(config.fusion, config.vision_num_queries)


def convolutional_stride(vision_config) -> int:
    """Pixels on a side of the square that one vector of a convolutional tower stands for: the entrance takes squares of 4, and
    each stage but the first halves the sides."""
    stride = 4 * 2 ** (len(vision_config.hidden_sizes) - 1)
    if vision_config.model_type == "bit":  # beyond its output_stride it dilates instead
        return min(stride, max(4, vision_config.output_stride))
    return stride


def audio_geometry(config) -> dict:
    """The arguments of [`audio_token_count`] that an MMGPTConfig fixes; empty without an audio tower."""
    if config.audio_config is None:
        return {}
    tower = config.audio_config
    merge_size = config.audio_merge_size * (tower.frame_size if tower.model_type == "mmgpt_frame" else 1)
    geometry = {"convolutions": tower_convolutions(tower), "merge_size": merge_size}
    return geometry | fixed_tokens(config.fusion, config.audio_num_queries)


def fixed_tokens(fusion: str, num_queries: int | None) -> dict:
    """`tokens_per_row`, where something fixes it."""
    if fusion == "cross_attention":
        return {"tokens_per_row": 1}
    return {} if num_queries is None else {"tokens_per_row": num_queries}


def full_row_vectors(config, kind: str) -> int | None:
    """Vectors behind the connector of a whole tile, or of a whole window of sound, where media are cut into such rows."""
    num_queries = {"image": config.vision_num_queries, "audio": config.audio_num_queries}[kind]
    if num_queries is not None:
        return num_queries
    if kind == "image" and config.vision_max_tiles is not None:
        size, geometry = side(config.vision_config.image_size), image_geometry(config)
        return image_token_count(size, size, geometry["patch_size"], geometry["merge_size"])
    if kind == "audio" and takes_fixed_window(config.audio_config):
        geometry = audio_geometry(config)
        return audio_token_count(window_frames(config.audio_config), geometry["convolutions"], geometry["merge_size"])
    return None


def window_frames(audio_config) -> int:
    """Spectrogram frames of the window that a tower of fixed length takes: two for each of Whisper's positions."""
    return 2 * audio_config.max_source_positions


def tower_convolutions(audio_config) -> list:
    """(kernel, stride, padding) of each step of an audio tower that shortens time, from its input to its output."""
    if audio_config.model_type in SPECTROGRAM_TOWERS:
        return SPECTROGRAM_TOWERS[audio_config.model_type]
    if audio_config.model_type not in WAVEFORM_TOWERS:
        known = ", ".join(sorted([*SPECTROGRAM_TOWERS, *WAVEFORM_TOWERS]))
        raise ValueError(
            f"How many tokens a sound becomes in a {audio_config.model_type!r} tower is not known: use one of {known}."
        )
    convolutions = [[*step, 0] for step in zip(audio_config.conv_kernel, audio_config.conv_stride, strict=True)]
    if getattr(audio_config, "add_adapter", False):
        adapter = [audio_config.adapter_kernel_size, audio_config.adapter_stride, 1]
        convolutions += [adapter] * audio_config.num_adapter_layers
    return convolutions


def takes_waveform(audio_config) -> bool:
    return audio_config is not None and audio_config.model_type in WAVEFORM_TOWERS


def takes_fixed_window(audio_config) -> bool:
    """Whether the tower takes only spectrograms of one length (Whisper's 30 seconds, and its descendants')."""
    return audio_config is not None and audio_config.model_type in SPECTROGRAM_TOWERS.keys() - {"mmgpt_frame"}
