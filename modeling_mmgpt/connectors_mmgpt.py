"""From a tower's vectors to the decoder's: merge neighbours if asked, then project.

Shapes: N media items, T vectors of an item, C tower width, D decoder width, m merge size.
"""

import torch
from torch import nn


def merge_patches(features: torch.Tensor, grid: tuple[int, int], merge_size: int) -> torch.Tensor:
    """Every m x m square of a grid of patches becomes one vector of m * m times the width (pixel shuffle)."""
    items, _, width = features.shape
    if grid[0] % merge_size or grid[1] % merge_size:
        raise ValueError(
            f"Images of {grid[0]} x {grid[1]} patches do not fall into squares of {merge_size} x {merge_size}: let the image "
            "processor resize them to another size, or use another vision_merge_size."
        )
    rows, columns = grid[0] // merge_size, grid[1] // merge_size
    squares = features.view(items, rows, merge_size, columns, merge_size, width)
    squares = squares.transpose(2, 3)  # (N, rows, columns, m, m, C)
    return squares.reshape(items, rows * columns, merge_size * merge_size * width)


def merge_frames(features: torch.Tensor, merge_size: int) -> torch.Tensor:
    """Every m consecutive vectors become one of m times the width; the end is filled up with zeros."""
    items, length, width = features.shape
    features = nn.functional.pad(features, (0, 0, 0, -length % merge_size))
    return features.reshape(items, -1, merge_size * width)  # (N, ceil(T / m), m * C)


class MMGPTConnector(nn.Module):
    """`"linear"`: one matrix. `"mlp"` and the merging connectors: two with GELU between (LLaVA-1.5)."""

    def __init__(self, kind: str, input_width: int, output_width: int):
        super().__init__()
        self.linear_1 = nn.Linear(input_width, output_width)
        self.linear_2 = nn.Linear(output_width, output_width) if kind != "linear" else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        projected = self.linear_1(features)  # (N, T, D)
        if self.linear_2 is None:
            return projected
        return self.linear_2(nn.functional.gelu(projected))
