"""What vLLM's Transformers backend (0.32) asks of a model and its processor, where it is another form than transformers'. Of SGLang's
(0.5.23) only what it would compute wrongly.

Its processes are told by the attention function that it registers. In them the processor gives one row for each sound, whatever its
length, and says which fields belong to which modality; the model takes its windows apart again. What vLLM would compute wrongly is
refused when it starts.

Shapes: N sounds, M bands of a spectrogram, F frames of a window, W windows of the longest sound.
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
            raise ValueError(f"bidirectional_images: SGLang lets images see only backwards. Use {elsewhere}.")
        if config.vision_max_tiles is not None:
            raise ValueError(f"vision_max_tiles: SGLang loses where tiles stand. Use vLLM, {elsewhere}.")
        return
    if config.bidirectional_images and not torch.cuda.is_available():
        raise ValueError(
            "bidirectional_images: vLLM on a CPU lets images see only backwards, so the answers would be wrong. Use a GPU, "
            f"{elsewhere}."
        )


def name_fields(parts: dict) -> None:
    """Makes each part of the processor name all the fields that come of it."""
    for name, fields in FIELDS.items():
        if in_vllm() and name in parts:
            known = parts[name].model_input_names
            parts[name].model_input_names = [*known, *(field for field in fields if field not in known)]


def one_row_each(processed: dict) -> dict:
    """What the processor made of sounds or videos, so that vLLM can tell them apart; elsewhere as it is."""
    if not in_vllm():
        return processed
    if "audio_windows" in processed:
        return join_windows(processed)
    if "num_frames_per_video" in processed:  # vLLM takes as many frames of each video as its grid has cells
        frames = processed["num_frames_per_video"]
        return {**processed, "video_grid_thw": torch.stack([frames, *[torch.ones_like(frames)] * 2], -1)}
    return processed


def join_windows(processed: dict) -> dict:
    """The windows of each sound one behind the other, as one row `(M, W * F)` for each sound."""
    ends = np.cumsum(processed["audio_windows"])[:-1]
    longest = processed["audio_windows"].max() * processed["input_features"].shape[-1]
    joined = {}
    for name in ("input_features", "input_features_mask"):
        rows = [np.concatenate(list(windows), axis=-1) for windows in np.split(processed[name], ends)]
        joined[name] = np.stack([fill_up(row, longest) for row in rows])
    return {**processed, **joined}


def fill_up(row: np.ndarray, length: int) -> np.ndarray:
    return np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, length - row.shape[-1])])


def part_windows(config, input_features, input_features_mask, audio_windows):
    """The windows of [`join_windows`] as rows `(sum of windows, M, F)`, with their mask and their number for each sound.

    vLLM gives one sound among others of another length its mask and its number in a list."""
    if isinstance(input_features_mask, list):
        input_features_mask = torch.stack(input_features_mask)
    if audio_windows is None:
        return input_features, input_features_mask, None
    if isinstance(audio_windows, list):
        audio_windows = torch.stack(audio_windows)
    frames = window_frames(config.audio_config)
    rows = input_features.unflatten(-1, (-1, frames)).transpose(1, 2)  # (N, W, M, F)
    mask = input_features_mask.unflatten(-1, (-1, frames))  # (N, W, F)
    is_window = torch.arange(rows.shape[1], device=rows.device) < audio_windows.flatten().to(rows.device)[:, None]
    return rows[is_window], mask[is_window], audio_windows.flatten()


__all__ = ["in_vllm", "name_fields", "one_row_each", "part_windows", "refuse_in_engines", "runs_in_vllm"]
