"""Rows of media: features that come in the place of pixels, and rows repeated with their samples.

A row is what a tower takes one of: an image or a tile, a frame of a video, a window of a sound. The rows of a batch lie one after the
other, in the order of their placeholders, whichever sample they belong to.

Shapes: B samples, L tokens, N rows, T vectors of the longest row, D decoder width.
"""

import torch

from .token_counts_mmgpt import (
    audio_geometry,
    audio_token_count,
    full_chunk_vectors,
    grid_token_count,
    image_geometry,
    image_token_count,
)


# Arguments of the model that hold one entry for each row of a modality; the first decides how many there are.
MEDIA_INPUTS = {
    "image": ("pixel_values", "tile_positions", "spatial_shapes"),
    "video": ("pixel_values_videos",),
    "audio": ("input_features", "input_features_mask"),
}
EMBEDS = {"image": "image_embeds", "audio": "audio_embeds"}
# These hold one entry for each medium, its rows: only `get_video_features` and `get_audio_features` tell media apart.
ROWS_OF_MEDIA = {"video": "num_frames_per_video", "audio": "audio_windows"}


def split_rows(embeds, config, kind: str) -> list[torch.Tensor]:
    """`image_embeds` or `audio_embeds` as one tensor `(vectors, D)` for each placeholder of a row.

    With interleaved fusion every vector has a placeholder, so that the borders of rows do not matter."""
    media = [embeds] if isinstance(embeds, torch.Tensor) and embeds.ndim == 2 else list(embeds)
    size = full_chunk_vectors(config, kind) if config.fusion == "cross_attention" else None
    return media if size is None else [row for medium in media for row in medium.split(size)]


def pad_rows(rows: list[torch.Tensor], length: int | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`(N, T, D)`, and which of the vectors are none of padding `(N, T)`: `None` if all are. T is at least `length`."""
    lengths = [len(row) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    padded = torch.nn.functional.pad(padded, (0, 0, 0, max(0, (length or 0) - padded.shape[1])))
    if set(lengths) == {padded.shape[1]}:
        return padded, None
    lengths = torch.tensor(lengths, device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def placeholders_per_row(inputs: dict, config, kind: str) -> torch.Tensor:
    """Placeholder tokens of each row of a modality's pixels or spectrograms `(N,)`."""
    rows = inputs[MEDIA_INPUTS[kind][0]]
    if kind == "audio":
        mask = inputs.get("input_features_mask")
        frames = rows.new_full((len(rows),), rows.shape[-1]).long() if mask is None else mask.long().sum(-1)
        return audio_token_count(frames, **audio_geometry(config))
    geometry = image_geometry(config)
    if kind == "image" and inputs.get("spatial_shapes") is not None:
        return grid_token_count(
            *inputs["spatial_shapes"].unbind(-1), geometry["merge_size"], geometry.get("tokens_per_row")
        )
    return rows.new_full((len(rows),), image_token_count(*rows.shape[-2:], **geometry)).long()


def repeated_rows(placeholders: torch.Tensor, per_row: torch.Tensor, times: int) -> torch.Tensor:
    """Which row stands where when each sample is repeated `times` times, its rows together.

    Args:
        placeholders: `(B,)` tokens that stand for the modality in each sample.
        per_row: `(N,)` tokens that stand for each row.
    """
    sample = torch.searchsorted(placeholders.cumsum(0), per_row.cumsum(0) - per_row, right=True)  # (N,)
    copies = sample * times + torch.arange(times, device=sample.device)[:, None]  # (times, N) the sample it goes to
    return copies.flatten().argsort(stable=True) % len(per_row)


def repeat_media(model_kwargs: dict, config, placeholders: dict[str, torch.Tensor], times: int) -> dict:
    """The media of `model_kwargs`, taken out of it and repeated with their samples: `[a, b | c]` as `[a, b, a, b | c, c]`.

    `generate` repeats every tensor entry by entry, which is right only with one row in each sample."""
    repeated = {}
    for kind, is_placeholder in placeholders.items():
        inputs = {name: model_kwargs.pop(name) for name in MEDIA_INPUTS[kind] if model_kwargs.get(name) is not None}
        if inputs:
            index = repeated_rows(is_placeholder.sum(-1), placeholders_per_row(inputs, config, kind), times)
            repeated |= {name: value[index] for name, value in inputs.items()}
        embeds = model_kwargs.pop(EMBEDS[kind], None) if kind in EMBEDS else None
        if embeds is not None:
            # One placeholder for each vector or, with cross-attention, for each row.
            entries = split_rows(embeds, config, kind)
            entries = torch.cat(entries).split(1) if config.fusion == "interleave" else entries
            counts = torch.ones(len(entries), dtype=torch.long, device=is_placeholder.device)
            index = repeated_rows(is_placeholder.sum(-1), counts, times).tolist()
            entries = [entries[place] for place in index]
            repeated[EMBEDS[kind]] = torch.cat(entries) if config.fusion == "interleave" else entries
    for name in ROWS_OF_MEDIA.values():
        model_kwargs.pop(name, None)
    return repeated


__all__ = ["EMBEDS", "MEDIA_INPUTS", "ROWS_OF_MEDIA", "pad_rows", "repeat_media", "split_rows"]
