"""Rows and columns: where the patches of an image of any shape stand, and the tiles of a large one.

Shapes: N images, tiles or frames, L patches of the longest one, T tokens of one, C tower width, D decoder width, p patch size,
m merge size.
"""

import torch
from torch import nn

from .towers_mmgpt import patch_places


def merge_native_patches(features: torch.Tensor, spatial_shapes: torch.Tensor, merge_size: int) -> torch.Tensor:
    """Every m x m square of patches becomes one vector of m * m times the width, in images that each have a shape of their own.

    Squares that hang over an edge are filled up with zeros. `(N, L, C)` to `(N, ceil(L / m), m * m * C)`: no image of L patches
    has more squares; those behind an image's own are zero."""
    items, length, width = features.shape
    row, column, is_patch = patch_places(spatial_shapes, length)
    squares, area = (length + merge_size - 1) // merge_size, merge_size**2
    squares_per_row = (spatial_shapes[:, 1:] + merge_size - 1) // merge_size
    square = row // merge_size * squares_per_row + column // merge_size
    place = square * area + row % merge_size * merge_size + column % merge_size
    place = torch.where(is_patch, place, squares * area)  # padding goes to one place behind all others
    merged = features.new_zeros(items, squares * area + 1, width)
    merged = merged.scatter(1, place[..., None].expand_as(features), features)
    return merged[:, :-1].reshape(items, squares, area * width)


class MMGPTTileEmbedding(nn.Module):
    """Tells the decoder where in its image a tile stands: one learned vector for its row and one for its column, added to each
    of its features. They start at zero, so that a model that gets them stays the same until it is trained."""

    def __init__(self, max_tiles: int, width: int):
        super().__init__()
        self.row = nn.Parameter(torch.zeros(max_tiles + 1, width))
        self.column = nn.Parameter(torch.zeros(max_tiles + 1, width))

    def forward(self, features: torch.Tensor, tile_positions: torch.Tensor | None) -> torch.Tensor:
        """`tile_positions` `(N, 2)`: row and column, counted from 1; (0, 0), and all if it is `None`: a whole image."""
        if tile_positions is None:
            return features + self.row[0] + self.column[0]
        rows, columns = tile_positions.unbind(-1)
        return features + (self.row[rows] + self.column[columns])[:, None]  # (N, T, D)


def first_wanted(features: torch.Tensor, is_wanted: torch.Tensor | None) -> tuple[torch.Tensor, int | torch.Tensor]:
    """`(N, T, D)` as `(N * T, D)` with the wanted rows first, each in its order, and how many they are; `None`: all.

    Their number does not leave the device."""
    if is_wanted is None:
        return features.flatten(0, 1), features.shape[0] * features.shape[1]
    return features.flatten(0, 1)[wanted_first(is_wanted)], is_wanted.sum()


def wanted_first(is_wanted: torch.Tensor) -> torch.Tensor:
    """Places in the flattened `is_wanted`, first those that are wanted and then the others, each in their order.

    A stable argsort would do the same, but ONNX has none."""
    is_wanted = is_wanted.flatten()
    place = torch.where(is_wanted, is_wanted.cumsum(0) - 1, is_wanted.sum() + (~is_wanted).cumsum(0) - 1)
    return torch.empty_like(place).scatter_(0, place, torch.arange(place.shape[0], device=place.device))


def split_media(
    features: torch.Tensor, is_wanted: torch.Tensor | None, rows: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """The features of each medium, `(tokens, D)`, that has so many rows; `None`: each row is one."""
    if is_wanted is None:
        is_wanted = features.new_ones(features.shape[:2], dtype=torch.bool)
    sizes = is_wanted.sum(-1)  # (N,)
    if rows is not None:
        if int(rows.sum()) != len(sizes):
            raise ValueError(
                f"The media are said to have {int(rows.sum())} rows (tiles, windows or frames), but {len(sizes)} came."
            )
        sizes = torch.stack([one.sum() for one in sizes.split(rows.tolist())])
    return features[is_wanted].split(sizes.tolist())


__all__ = [
    "MMGPTTileEmbedding",
    "first_wanted",
    "merge_native_patches",
    "split_media",
    "wanted_first",
]
