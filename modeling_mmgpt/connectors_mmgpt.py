"""From a tower's vectors to the decoder's: merge neighbours if asked, then project; or resample to a fixed number.

Shapes: N rows of media, T vectors of a row, C tower width, D decoder width, m merge size, Q queries, H heads, E head width.
"""

import torch
from torch import nn

from .layers_mmgpt import sinusoidal_positions


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


class MMGPTResampler(nn.Module):
    """`num_queries` vectors for every row: learned queries look at the row's features, whatever their number (the Perceiver
    resampler in small: Flamingo, Alayrac et al. 2022, section 2.1; BLIP-2, Li et al. 2023).

    Places are added to the features: attention alone would hear a sound in any order."""

    num_layers = 2

    def __init__(self, num_queries: int, input_width: int, output_width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(num_queries, output_width))
        self.input_proj = nn.Linear(input_width, output_width)
        self.input_norm = nn.LayerNorm(output_width)
        self.layers = nn.ModuleList([MMGPTResamplerLayer(output_width) for _ in range(self.num_layers)])
        self.norm = nn.LayerNorm(output_width)

    def forward(self, features: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
        """`(N, T, C)` to `(N, Q, D)`; `is_real` `(N, T)`: False for padding, which is not looked at."""
        features = self.input_norm(self.input_proj(features))  # (N, T, D)
        places = torch.arange(features.shape[1], device=features.device)
        features = features + sinusoidal_positions(places, features.shape[-1], features.dtype)
        queries = self.queries.expand(features.shape[0], -1, -1)  # (N, Q, D)
        mask = None if is_real is None else is_real[:, None, None]  # (N, 1, 1, T)
        for layer in self.layers:
            queries = layer(queries, features, mask)
        return self.norm(queries)


class MMGPTResamplerLayer(nn.Module):
    """x + attention(norm(x), features), then x + mlp(norm(x)), with heads of about 64."""

    def __init__(self, width: int):
        super().__init__()
        self.num_heads = max(1, width // 64)
        self.head_dim = width // self.num_heads
        inner_width = self.num_heads * self.head_dim
        self.attention_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner_width, bias=False)
        self.k_proj = nn.Linear(width, inner_width, bias=False)
        self.v_proj = nn.Linear(width, inner_width, bias=False)
        self.o_proj = nn.Linear(inner_width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.up_proj = nn.Linear(width, 4 * width)
        self.down_proj = nn.Linear(4 * width, width)

    def forward(self, queries: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (N, H, Q or T, E)

        query, key, value = self.q_proj(self.attention_norm(queries)), self.k_proj(features), self.v_proj(features)
        attended = nn.functional.scaled_dot_product_attention(heads(query), heads(key), heads(value), attn_mask=mask)
        queries = queries + self.o_proj(attended.transpose(1, 2).flatten(2))  # (N, Q, D)
        return queries + self.down_proj(nn.functional.gelu(self.up_proj(self.mlp_norm(queries))))


def build_connector(kind: str, input_width: int, output_width: int, num_queries: int | None) -> nn.Module:
    if kind == "resampler":
        return MMGPTResampler(num_queries, input_width, output_width)
    return MMGPTConnector(kind, input_width, output_width)


def connect(
    connector: nn.Module, features: torch.Tensor, is_real: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`(N, T, C)` to `(N, T or Q, D)`, and which of these vectors are none of padding; `None`: all."""
    if isinstance(connector, MMGPTResampler):
        return connector(features, is_real), None
    return connector(features), is_real
