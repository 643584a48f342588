"""Connectors keep every number and put neighbours together."""

import torch

from modeling_mmgpt.connectors_mmgpt import MMGPTConnector, merge_frames, merge_patches


def test_merged_patches_are_the_squares_of_the_grid():
    features = torch.arange(16.0).view(1, 16, 1)  # a 4 x 4 grid, numbered by rows
    merged = merge_patches(features, (4, 4), 2)
    assert merged[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_merged_patches_of_an_oblong_grid():
    merged = merge_patches(torch.arange(8.0).view(1, 8, 1), (2, 4), 2)
    assert merged[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_merged_frames_fill_up_the_end_with_zeros():
    merged = merge_frames(torch.arange(1.0, 6.0).view(1, 5, 1), 2)
    assert merged[0].tolist() == [[1, 2], [3, 4], [5, 0]]


def test_linear_is_one_matrix_and_the_others_two():
    assert len(list(MMGPTConnector("linear", 8, 4).parameters())) == 2
    assert len(list(MMGPTConnector("mlp", 8, 4).parameters())) == 4
    assert MMGPTConnector("pixel_shuffle", 8, 4)(torch.zeros(2, 3, 8)).shape == (2, 3, 4)
