"""Media that were encoded before, found again by their content: what a conversation needs that comes back to its pictures each turn.

Off unless somebody switches it on (`with model.media_cache():`), for it looks at every pixel on the host.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch

from .media_features_mmgpt import pad_rows


class MediaCache:
    """The features of the `max_items` rows (images, tiles, frames, windows of sound) that were used last.

    `encode` stands in the place of the encoder: only rows that it does not know go through the tower, each once."""

    def __init__(self, max_items: int):
        if max_items < 1:
            raise ValueError(f"max_items ({max_items}) must be at least 1: it is the number of rows that are kept.")
        self.max_items = max_items
        self.rows: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def encode(
        self, kind: str, encoder: Callable, inputs: dict[str, torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(N, T, D)` and which vectors are none of padding `(N, T)`, as the `pooler_output` and `is_real` of `encoder(**inputs)`.

        Args:
            kind: part of the key, so that equal numbers of two modalities stay apart.
            inputs: arguments of the encoder, each with one entry for each row, or `None`.
        """
        inputs = {name: value for name, value in inputs.items() if value is not None}
        keys = row_keys(kind, inputs)
        known = {key: self.rows[key] for key in keys if key in self.rows}
        new = {key: place for place, key in enumerate(keys) if key not in known}  # each content once
        if new:
            places = list(new.values())
            encoded = encoder(**{name: value[places] for name, value in inputs.items()})
            features, is_real = encoded.pooler_output, encoded.is_real
            for index, key in enumerate(new):
                known[key] = features[index] if is_real is None else features[index][is_real[index]]
        for key in keys:
            self.rows[key] = known[key]
            self.rows.move_to_end(key)
        while len(self.rows) > self.max_items:
            self.rows.popitem(last=False)
        return pad_rows([known[key] for key in keys])


def row_keys(kind: str, inputs: dict[str, torch.Tensor]) -> list[bytes]:
    """A hash of each row's numbers, shapes and types. Padding behind a sound, and behind the patches of an image of any shape, is left
    out: its neighbours decide how much there is."""
    inputs = {name: value.detach().cpu() for name, value in inputs.items()}
    mask = inputs.pop("input_features_mask", None)
    shapes = inputs.get("spatial_shapes")
    keys = []
    for place in range(len(next(iter(inputs.values())))):
        digest = hashlib.blake2b(kind.encode(), digest_size=16)
        for name, value in inputs.items():
            row = value[place] if mask is None else value[place][..., : int(mask[place].sum())]
            if shapes is not None and name == "pixel_values":
                row = row[: int(shapes[place].prod())]
            digest.update(f"{name} {row.dtype} {tuple(row.shape)}".encode())
            digest.update(row.contiguous().view(torch.uint8).numpy().tobytes())
        keys.append(digest.digest())
    return keys


__all__ = ["MediaCache"]
