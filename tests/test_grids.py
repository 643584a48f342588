"""Patches and tiles: each in its row and column, padding in none."""

import torch
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from modeling_mmgpt.grids_mmgpt import cut_patches, patch_places, tiles_per_image
from tests.conftest import PATCHES, make_model


def test_patches_are_those_of_the_image_processor():
    images = torch.randn(2, 3, 8, 12)
    patches, shapes = cut_patches(images, 4)
    assert shapes.tolist() == [[2, 3]] * 2
    for image, one in zip(images, patches, strict=True):
        assert torch.equal(one, convert_image_to_patches(image, 4))


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


def test_tiles_are_counted_by_the_overview_that_ends_each_image():
    places = torch.tensor([[1, 1], [1, 2], [0, 0], [0, 0], [1, 1], [2, 1], [0, 0]])
    assert tiles_per_image(places).tolist() == [3, 1, 3]
