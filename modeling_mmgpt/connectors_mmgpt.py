"""From an encoder's vectors to the decoder's: merge neighbours if asked, then project; or resample to a fixed number.

Shapes: N chunks of media, T vectors of a chunk, C encoder width, D decoder width, m merge size, Q queries, H heads, E head width.
"""

import torch
from torch import nn

from .layers_mmgpt import sinusoidal_positions
from .towers_mmgpt import patch_places


def merge_patches(features: torch.Tensor, grid: tuple[int, int], merge_size: int) -> torch.Tensor:
    """Pixel shuffle: every m x m square of a grid of patches becomes one vector, `(N, T, C)` to `(N, T / m^2, m^2 * C)`."""
    items, _, width = features.shape
    if grid[0] % merge_size or grid[1] % merge_size:
        raise ValueError(
            f"Images of {grid[0]} x {grid[1]} patches cannot be cut into squares of {merge_size} x {merge_size}: let the image "
            "processor resize them to another size, or use another vision_merge_size."
        )
    rows, columns = grid[0] // merge_size, grid[1] // merge_size
    squares = features.view(items, rows, merge_size, columns, merge_size, width)
    squares = squares.transpose(2, 3)  # (N, rows, columns, m, m, C)
    return squares.reshape(items, rows * columns, merge_size * merge_size * width)


def merge_native_patches(features: torch.Tensor, spatial_shapes: torch.Tensor, merge_size: int) -> torch.Tensor:
    """The same for images that each have a shape of their own: `(N, T, C)` to `(N, ceil(T / m), m * m * C)`.

    Squares that reach over an edge are filled up with zeros. No image of T patches has more than ceil(T / m) squares; those after an
    image's own are zero."""
    items, length, width = features.shape
    row, column, is_patch = patch_places(spatial_shapes, length)
    squares, area = (length + merge_size - 1) // merge_size, merge_size**2
    squares_per_row = (spatial_shapes[:, 1:] + merge_size - 1) // merge_size
    square = row // merge_size * squares_per_row + column // merge_size
    place = square * area + row % merge_size * merge_size + column % merge_size
    place = torch.where(is_patch, place, squares * area)  # padding goes to one place after all others
    merged = features.new_zeros(items, squares * area + 1, width)
    merged = merged.scatter(1, place[..., None].expand_as(features), features)
    return merged[:, :-1].reshape(items, squares, area * width)


def merge_frames(features: torch.Tensor, merge_size: int) -> torch.Tensor:
    """Every m consecutive vectors become one, the last filled up with zeros: `(N, T, C)` to `(N, ceil(T / m), m * C)`."""
    items, length, width = features.shape
    features = nn.functional.pad(features, (0, 0, 0, -length % merge_size))
    return features.reshape(items, -1, merge_size * width)


class MMGPTConnector(nn.Module):
    """`"linear"`: one matrix. `"mlp"` and the merging connectors: two with GELU between (LLaVA-1.5)."""

    def __init__(self, kind: str, input_width: int, output_width: int):
        super().__init__()
        self.linear_1 = nn.Linear(input_width, output_width)
        self.linear_2 = nn.Linear(output_width, output_width) if kind != "linear" else None

    def forward(self, features: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
        """`(N, T, C)` to `(N, T, D)`, each vector by itself: of padding it makes padding, so `is_real` is not needed."""
        projected = self.linear_1(features)
        if self.linear_2 is None:
            return projected
        return self.linear_2(nn.functional.gelu(projected))


class MMGPTResampler(nn.Module):
    """`num_queries` vectors for every chunk: learned queries attend to its features, whatever their number (a small Perceiver
    resampler: Flamingo, Alayrac et al. 2022, section 2.1; BLIP-2, Li et al. 2023)."""

    num_layers = 2

    def __init__(self, num_queries: int, input_width: int, output_width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(num_queries, output_width))
        self.input_proj = nn.Linear(input_width, output_width)
        self.input_norm = nn.LayerNorm(output_width)
        self.layers = nn.ModuleList([MMGPTResamplerLayer(output_width) for _ in range(self.num_layers)])
        self.norm = nn.LayerNorm(output_width)

    def forward(self, features: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
        """`(N, T, C)` to `(N, Q, D)`; `is_real` `(N, T)`: False for padding, which is left out of the attention."""
        features = self.input_norm(self.input_proj(features))  # (N, T, D)
        # Attention alone knows no order: without positions, audio played backwards would be the same.
        positions = torch.arange(features.shape[1], device=features.device)
        features = features + sinusoidal_positions(positions, features.shape[-1], features.dtype)
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


class MMGPTTileEmbedding(nn.Module):
    """The position of a tile in its image: one learned vector for its row and one for its column, added to each of its features.

    They are zero-initialised, so that a model that gets them stays the same until it is trained."""

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


def build_connector(config, part: str, width: int) -> nn.Module:
    """The connector behind the `"vision"` or `"audio"` encoder of `width`, from its vectors, merged, to the decoder's width."""
    kind, output_width = getattr(config, f"{part}_connector"), config.text_config.hidden_size
    input_width = width * (config.vision_merge_size**2 if part == "vision" else config.audio_merge_size)
    if kind == "resampler":
        return MMGPTResampler(getattr(config, f"{part}_num_queries"), input_width, output_width)
    return MMGPTConnector(kind, input_width, output_width)
