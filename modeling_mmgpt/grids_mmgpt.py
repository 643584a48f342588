"""Rows and columns: where the patches of an image of any shape stand, and the tiles of a large one.

Shapes: N images, tiles or frames, L patches of the longest one, p patch size.
"""

import torch


def cut_patches(pixel_values: torch.Tensor, patch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one size as native-resolution towers take them: patches `(N, L, p * p * channels)`, each pixel with its
    channels together, and the rows and columns of patches `(N, 2)`."""
    items, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.view(items, channels, rows, patch_size, columns, patch_size).permute(0, 2, 4, 3, 5, 1)
    shapes = torch.tensor([rows, columns], device=pixel_values.device).expand(items, 2)
    return patches.reshape(items, rows * columns, -1), shapes


def patch_places(spatial_shapes: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row and column of each of `length` patches of images of `spatial_shapes` (rows, columns), and whether it is one or
    padding: `(N, L)` each."""
    index = torch.arange(length, device=spatial_shapes.device)
    rows, columns = spatial_shapes[:, :1], spatial_shapes[:, 1:]
    return index // columns, index % columns, index < rows * columns


def tiles_per_image(tile_positions: torch.Tensor) -> torch.Tensor:
    """Rows of `tile_positions` that belong to each image: its overview, at (0, 0), is the last one."""
    ends = (tile_positions == 0).all(-1).nonzero().flatten() + 1
    return ends.diff(prepend=ends.new_zeros(1))


__all__ = ["cut_patches", "patch_places", "tiles_per_image"]
