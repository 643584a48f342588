"""What vLLM's Transformers backend (0.32) asks of a model and its processor, where it is another form than transformers'. Of SGLang's
(0.5.23) only what it would compute wrongly.

Its processes are recognised by the attention function that it registers. In them the processor returns one entry for each audio clip,
whatever its length, and says which fields belong to which modality; the model takes the windows apart again. What vLLM would compute
wrongly is refused when it starts.

Shapes: N audio clips, M bands of a spectrogram, F frames of a window, W windows of the longest clip.
"""

import numpy as np
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .token_counts_mmgpt import window_frames


VLLM = "vllm"
ENGINES = {VLLM: "vLLM", "sglang": "SGLang"}  # by the attention function that each registers
# Fields of each part of the processor that the part itself does not name. vLLM hands the model no field that nobody names.
FIELDS = {
    "image_processor": ["tile_positions"],
    "feature_extractor": ["input_features", "audio_windows"],
    "video_processor": ["num_frames_per_video"],
}


def in_vllm() -> bool:
    return VLLM in ALL_ATTENTION_FUNCTIONS.valid_keys()


def runs_in_vllm(config) -> bool:
    return config.text_config._attn_implementation == VLLM


def refuse_in_engines(config) -> None:
    """Raises `ValueError` for a model that a serving engine would run, but not as it was trained."""
    engine = ENGINES.get(config.text_config._attn_implementation)
    if engine is None:
        return
    elsewhere = "generate() or `transformers serve`"
    if config.fusion == "cross_attention":
        raise ValueError(f"fusion='cross_attention': {engine} keeps no media beside the text. Use {elsewhere}.")
    if engine == "SGLang":
        if config.bidirectional_images:
            raise ValueError(f"bidirectional_images: SGLang attends from images only backwards. Use {elsewhere}.")
        if config.vision_max_tiles is not None:
            raise ValueError(f"vision_max_tiles: SGLang loses where tiles stand. Use vLLM, {elsewhere}.")
        return
    if config.bidirectional_images and not torch.cuda.is_available():
        raise ValueError(
            "bidirectional_images: vLLM on a CPU attends from images only backwards, so the answers would be wrong. Use a GPU, "
            f"{elsewhere}."
        )


def name_fields(parts: dict) -> None:
    """Makes each part of the processor name all the fields that come of it."""
    for name, fields in FIELDS.items():
        if in_vllm() and name in parts:
            known = parts[name].model_input_names
            parts[name].model_input_names = [*known, *(field for field in fields if field not in known)]


def one_entry_each(processed: dict) -> dict:
    """What the processor made of audio or videos, so that vLLM can tell one from another; elsewhere as it is."""
    if not in_vllm():
        return processed
    if "audio_windows" in processed:
        return join_windows(processed)
    if "num_frames_per_video" in processed:  # vLLM takes as many frames of each video as its grid has cells
        frames = processed["num_frames_per_video"]
        return {**processed, "video_grid_thw": torch.stack([frames, *[torch.ones_like(frames)] * 2], -1)}
    return processed


def join_windows(processed: dict) -> dict:
    """The windows of each audio clip one behind the other, as one entry `(M, W * F)`."""
    ends = np.cumsum(processed["audio_windows"])[:-1]
    longest = processed["audio_windows"].max() * processed["input_features"].shape[-1]
    joined = {}
    for name in ("input_features", "input_features_mask"):
        clips = [np.concatenate(list(windows), axis=-1) for windows in np.split(processed[name], ends)]
        joined[name] = np.stack([pad_end(clip, longest) for clip in clips])
    return {**processed, **joined}


def pad_end(values: np.ndarray, length: int) -> np.ndarray:
    """Zeros at the end of the last axis."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, length - values.shape[-1])])


def part_windows(config, input_features, input_features_mask, audio_windows):
    """The windows of [`join_windows`] again, `(sum of windows, M, F)`, with their mask and their number for each audio clip.

    For one clip among others of another length vLLM passes its mask and its number in a list."""
    if isinstance(input_features_mask, list):
        input_features_mask = torch.stack(input_features_mask)
    if audio_windows is None:
        return input_features, input_features_mask, None
    if isinstance(audio_windows, list):
        audio_windows = torch.stack(audio_windows)
    frames = window_frames(config.audio_config)
    windows = input_features.unflatten(-1, (-1, frames)).transpose(1, 2)  # (N, W, M, F)
    mask = input_features_mask.unflatten(-1, (-1, frames))  # (N, W, F)
    counts = audio_windows.flatten()  # (N,)
    is_window = torch.arange(windows.shape[1], device=windows.device) < counts.to(windows.device)[:, None]  # (N, W)
    return windows[is_window], mask[is_window], counts
