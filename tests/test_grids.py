"""Patches and tiles in rows and columns: each vector where it belongs, padding nowhere."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from modeling_mmgpt.connectors_mmgpt import merge_patches
from modeling_mmgpt.grids_mmgpt import (
    MMGPTTileEmbedding,
    cut_patches,
    first_wanted,
    merge_native_patches,
    patch_places,
    split_media,
    tiles_per_image,
)
from modeling_mmgpt.token_counts_mmgpt import grid_token_count
from tests.conftest import PATCHES, make_model


FORMATS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4)


def test_patches_are_those_of_the_image_processor():
    images = torch.randn(2, 3, 8, 12)
    patches, shapes = cut_patches(images, 4)
    assert shapes.tolist() == [[2, 3]] * 2
    for image, one in zip(images, patches, strict=True):
        assert torch.equal(one, convert_image_to_patches(image, 4))


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


def test_padding_is_told_from_patches():
    rows, columns, is_patch = patch_places(torch.tensor([[2, 2], [1, 3]]), 4)
    assert is_patch.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert rows[0].tolist() == [0, 0, 1, 1] and columns[1, :3].tolist() == [0, 1, 2]


def test_the_same_image_is_the_same_in_either_form():
    tower = make_model(vision=PATCHES).model.vision_tower
    images = torch.randn(2, 3, 16, 8)
    whole = tower(images).last_hidden_state
    torch.testing.assert_close(tower(*cut_patches(images, 4)).last_hidden_state, whole)


def test_an_image_longer_than_the_table_of_positions_has_some_for_each_patch():
    tower = make_model(vision=PATCHES).model.vision_tower  # 4 rows, 4 columns
    features = tower(torch.zeros(1, 9, 48), torch.tensor([[1, 8]])).last_hidden_state[0]
    assert torch.equal(features[0], features[1]) and not torch.equal(features[1], features[2])
    assert len(features.unique(dim=0)) == 5  # 4 columns, and padding in a row that is none of the image's


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
    places = torch.tensor([[1, 1], [1, 2], [0, 0], [0, 0], [1, 1], [2, 1], [0, 0]])
    rows = tiles_per_image(places)
    assert rows.tolist() == [3, 1, 3]
    features = torch.arange(14).view(7, 2, 1)
    assert [len(one) for one in split_media(features, None, rows)] == [6, 2, 6]
    assert [len(one) for one in split_media(features, None, None)] == [2] * 7
