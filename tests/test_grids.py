"""Patches and tiles in rows and columns: each vector where it belongs, padding nowhere."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_mmgpt.connectors_mmgpt import merge_patches
from modeling_mmgpt.grids_mmgpt import (
    MMGPTTileEmbedding,
    first_wanted,
    merge_native_patches,
    split_media,
)
from modeling_mmgpt.token_counts_mmgpt import grid_token_count


FORMATS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4)


@given(FORMATS, st.integers(2, 4))
def test_merging_images_of_any_shape_is_merging_each_of_them(shapes, merge_size):
    length = max(rows * columns for rows, columns in shapes)
    features = torch.zeros(len(shapes), length, 2)
    for image, (rows, columns) in zip(features, shapes, strict=True):
        image[: rows * columns] = torch.randn(rows * columns, 2)
    merged = merge_native_patches(features, torch.tensor(shapes), merge_size)
    for one, image, (rows, columns) in zip(merged, features, shapes, strict=True):
        grid = image[: rows * columns].view(rows, columns, 2)
        filled = torch.nn.functional.pad(grid, (0, 0, 0, -columns % merge_size, 0, -rows % merge_size))
        expected = merge_patches(filled.flatten(0, 1)[None], tuple(filled.shape[:2]), merge_size)[0]
        assert len(expected) == grid_token_count(rows, columns, merge_size)
        assert torch.equal(one[: len(expected)], expected)
        assert not one[len(expected) :].any()


def test_tile_places_change_nothing_until_they_are_learned():
    embedding = MMGPTTileEmbedding(4, 3)
    features, places = torch.randn(3, 2, 3), torch.tensor([[1, 1], [1, 2], [0, 0]])
    assert torch.equal(embedding(features, places), features)
    with torch.no_grad():
        embedding.row.copy_(torch.arange(5)[:, None])
        embedding.column.copy_(10 * torch.arange(5)[:, None])
    torch.testing.assert_close(
        embedding(features, places) - features, torch.tensor([11.0, 21, 0])[:, None, None].expand(3, 2, 3)
    )
    torch.testing.assert_close(embedding(features, None), features)


def test_wanted_rows_come_first_in_their_order():
    features = torch.arange(6).view(2, 3, 1)
    wanted = torch.tensor([[True, False, True], [False, True, False]])
    rows, count = first_wanted(features, wanted)
    assert rows.flatten().tolist() == [0, 2, 4, 1, 3, 5] and count == 3
    assert first_wanted(features, None)[1] == 6


def test_media_are_told_apart_by_their_rows():
    rows = torch.tensor([3, 1, 3])
    features = torch.arange(14).view(7, 2, 1)
    assert [len(one) for one in split_media(features, None, rows)] == [6, 2, 6]
    assert [len(one) for one in split_media(features, None, None)] == [2] * 7
