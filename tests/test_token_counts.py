"""The one length function, against the modules whose outputs it counts."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ClapAudioConfig, Wav2Vec2Config, Wav2Vec2Model

from modeling_mmgpt.token_counts_mmgpt import (
    audio_geometry,
    audio_token_count,
    audio_windows,
    full_chunk_vectors,
    grid_token_count,
    image_token_count,
    most_tiles,
    shortest_audio,
    tiles_per_image,
    video_frame_times,
)
from tests.conftest import SIGLIP, WHISPER, make_config


def test_image_tokens_are_merged_patches():
    assert image_token_count(32, 48, patch_size=8, merge_size=1) == 24
    assert image_token_count(32, 48, patch_size=8, merge_size=2) == 6


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 4))
def test_a_token_for_every_begun_square_of_patches(rows, columns, merge_size):
    squares = {(row // merge_size, column // merge_size) for row in (0, rows - 1) for column in (0, columns - 1)}
    last_row, last_column = max(squares)
    assert grid_token_count(rows, columns, merge_size) == (last_row + 1) * (last_column + 1)
    in_tensors = grid_token_count(torch.tensor([rows]), torch.tensor([columns]), merge_size)
    assert in_tensors.tolist() == [(last_row + 1) * (last_column + 1)]


@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(1, 12))
def test_no_more_tiles_than_cover_an_image(height, width, max_tiles):
    most = most_tiles(height, width, (224, 224), max_tiles)
    assert 1 <= most <= max_tiles
    assert most == max_tiles or most * 224 * 224 >= height * width


@given(st.integers(0, 10**7), st.integers(400, 10**6))
def test_windows_hold_the_whole_audio_and_none_is_empty(num_samples, window):
    windows = audio_windows(num_samples, window, shortest=400)
    assert all(400 <= length <= window for length in windows)
    assert num_samples <= sum(windows) < num_samples + 400 + (num_samples == 0)
    assert audio_windows(num_samples, None, shortest=400) == [max(num_samples, 400)]


@given(st.floats(0, 10**5), st.floats(0.1, 60), st.integers(1, 100))
def test_frames_of_a_video_are_bounded_and_cover_it(duration, fps, num_frames):
    times = video_frame_times(duration, fps, num_frames)
    assert 1 <= len(times) <= num_frames
    assert times[0] == 0 and times[-1] <= duration
    assert all(later - earlier >= 1 / fps - 1e-6 for earlier, later in pairwise(times))
    assert duration - times[-1] <= max(1 / fps, duration / len(times)) + 1e-3  # each stands for no more than its share


@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_the_last_audio_token_may_be_partly_filled(frames, tokens):
    assert audio_token_count(frames, [], merge_size=4) == tokens


def test_tensors_count_element_wise():
    for convolutions in ([[3, 1, 1], [3, 2, 1]], [[4, 3, 0, 5]]):
        counts = audio_token_count(torch.tensor([7, 100]), convolutions, merge_size=3)
        assert counts.tolist() == [audio_token_count(n, convolutions, merge_size=3) for n in (7, 100)]


def test_a_convolution_of_several_bands_makes_a_vector_for_each():
    assert audio_token_count(100, [[16, 10, 0]], merge_size=1) == 9
    assert audio_token_count(100, [[16, 10, 0, 12]], merge_size=1) == 9 * 12
    assert audio_token_count(100, [[16, 10, 0, 12]], merge_size=24) == 5  # ceil(4.5)


@pytest.mark.parametrize(
    "convolutions",
    [[], [[3, 1, 1], [3, 2, 1]], [[3, 1, 1], [3, 2, 1], [2, 2, 0]], [[10, 5, 0], [3, 2, 0]], [[16, 10, 0, 1]]],
)
def test_the_shortest_audio_is_one_token_and_a_shorter_one_none(convolutions):
    shortest = shortest_audio(convolutions)
    assert audio_token_count(shortest, convolutions, merge_size=1) == 1
    assert shortest == 1 or audio_token_count(shortest - 1, convolutions, merge_size=1) < 1


def test_wav2vec2_counts_as_the_library_does():
    config = Wav2Vec2Config(
        add_adapter=True, num_hidden_layers=1, hidden_size=32, intermediate_size=32, num_attention_heads=2
    )
    convolutions = audio_geometry(make_config(audio=config))["convolutions"]
    with torch.device("meta"):
        model = Wav2Vec2Model(config)
    for samples in (400, 401, 9999, 16000):
        expected = model._get_feat_extract_output_lengths(torch.tensor(samples), add_adapter=True)
        assert audio_token_count(samples, convolutions, merge_size=1) == int(expected)


def test_an_unknown_audio_encoder_is_named():
    with pytest.raises(ValueError, match="a 'clap_audio_model' encoder is not known: use one of audio-spectrogram"):
        audio_geometry(make_config(audio=ClapAudioConfig()))


def test_tiles_belong_to_the_image_whose_overview_ends_them():
    places = torch.tensor([[1, 1], [1, 2], [0, 0], [0, 0], [1, 1], [2, 1], [0, 0]])
    assert tiles_per_image(places).tolist() == [3, 1, 3]


@pytest.mark.parametrize(
    ("options", "image", "audio"),
    [
        ({}, None, 50),
        ({"vision_connector": "pixel_shuffle", "vision_max_tiles": 2, "audio_connector": "frame_stack"}, 4, 25),
        ({"vision_connector": "resampler", "audio_connector": "resampler", "audio_num_queries": 3}, 64, 3),
    ],
)
def test_whole_tiles_and_windows_have_so_many_vectors(options, image, audio):
    config = make_config(vision=SIGLIP, audio=WHISPER, fusion="cross_attention", **options)
    assert (full_chunk_vectors(config, "image"), full_chunk_vectors(config, "audio")) == (image, audio)
