"""Connectors keep every number and put neighbours together; the resampler returns a fixed number of vectors."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given
from hypothesis import strategies as st

from modeling_mmgpt import MMGPTCollator
from modeling_mmgpt.connectors_mmgpt import (
    MMGPTConnector,
    MMGPTResampler,
    MMGPTTileEmbedding,
    merge_frames,
    merge_native_patches,
    merge_patches,
)
from modeling_mmgpt.token_counts_mmgpt import grid_token_count
from tests.conftest import WHISPER, make_audio, make_config, make_model, make_processor, make_sample


FORMATS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4)


def test_merged_patches_are_the_squares_of_the_grid():
    features = torch.arange(16.0).view(1, 16, 1)  # a 4 x 4 grid, numbered by rows
    merged = merge_patches(features, (4, 4), 2)
    assert merged[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_merged_patches_of_an_oblong_grid():
    merged = merge_patches(torch.arange(8.0).view(1, 8, 1), (2, 4), 2)
    assert merged[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


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


def test_merged_frames_fill_up_the_end_with_zeros():
    merged = merge_frames(torch.arange(1.0, 6.0).view(1, 5, 1), 2)
    assert merged[0].tolist() == [[1, 2], [3, 4], [5, 0]]


def test_linear_is_one_matrix_and_the_others_two():
    assert len(list(MMGPTConnector("linear", 8, 4).parameters())) == 2
    assert len(list(MMGPTConnector("mlp", 8, 4).parameters())) == 4
    assert MMGPTConnector("pixel_shuffle", 8, 4)(torch.zeros(2, 3, 8)).shape == (2, 3, 4)


def test_tile_positions_change_nothing_until_they_are_learned():
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


RESAMPLERS = {
    "vision_connector": "resampler",
    "vision_num_queries": 3,
    "audio_connector": "resampler",
    "audio_num_queries": 5,
}


def resampler() -> MMGPTResampler:
    connector = MMGPTResampler(3, 8, 4)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter)
    return connector


def test_a_resampler_returns_the_same_number_of_any_length():
    connector = resampler()
    assert [connector(torch.randn(2, length, 8)).shape for length in (1, 7)] == [(2, 3, 4), (2, 3, 4)]


def test_a_resampler_does_not_attend_to_padding():
    connector, features = resampler(), torch.randn(2, 6, 8)
    is_real = torch.arange(6) < torch.tensor([[6], [4]])
    padded = connector(features, is_real)
    torch.testing.assert_close(padded[:1], connector(features[:1]))
    torch.testing.assert_close(padded[1:], connector(features[1:, :4]))


def test_a_resampler_knows_the_order():
    connector, features = resampler(), torch.randn(1, 6, 8)
    assert not torch.allclose(connector(features), connector(features.flip(1)), atol=1e-3)


def test_placeholders_of_a_resampler_are_its_queries(tokenizer, samples):
    model = make_model(audio=WHISPER, **RESAMPLERS)
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    assert (batch["input_ids"] == 4).sum(-1).tolist() == [3, 0, 0, 6]
    assert (batch["input_ids"] == 5).sum(-1).tolist() == [0, 5, 0, 10]
    assert model.get_image_features(batch["pixel_values"]).pooler_output[0].shape == (3, 32)


def test_silence_that_fills_a_window_changes_nothing_behind_a_resampler(tokenizer):
    """In the batch the second audio clip is filled up to the length of the first."""
    model = make_model(**RESAMPLERS)
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(
        [make_sample("?", "!", audios=[make_audio(0), make_audio(1, 2000)])]
    )
    both = model.get_audio_features(batch["input_features"], batch["input_features_mask"]).pooler_output
    frames = int(batch["input_features_mask"][1].sum())
    alone = model.get_audio_features(batch["input_features"][1:, :, :frames]).pooler_output
    torch.testing.assert_close(both[1], alone[0])


def test_queries_start_apart(tokenizer):
    queries = make_model(**RESAMPLERS).model.vision_connector.queries
    assert queries.std() > 0.01


def test_queries_go_with_a_resampler_and_nothing_else():
    assert make_config(vision_connector="resampler").vision_num_queries == 64
    for choices in ({"vision_num_queries": 3}, {"audio_connector": "resampler", "audio_num_queries": 0}):
        with pytest.raises(StrictDataclassClassValidationError, match="at least one query"):
            make_config(**choices)
