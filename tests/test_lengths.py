"""The one length function, against the modules whose outputs it counts."""

import pytest
import torch
from transformers import ClapAudioConfig, Wav2Vec2Config, Wav2Vec2Model
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_mmgpt.lengths_mmgpt import (
    WHISPER_CONVOLUTIONS,
    audio_token_count,
    image_token_count,
    shortest_sound,
    tower_convolutions,
)
from tests.conftest import WHISPER, make_config


def test_image_tokens_are_merged_patches():
    assert image_token_count(32, 48, patch_size=8, merge_size=1) == 24
    assert image_token_count(32, 48, patch_size=8, merge_size=2) == 6


@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_the_last_audio_token_may_be_partly_filled(frames, tokens):
    assert audio_token_count(frames, [], merge_size=4) == tokens


def test_whisper_convolutions_are_those_of_the_encoder():
    encoder = WhisperEncoder(make_config(audio=WHISPER).audio_config)
    length = encoder(torch.zeros(1, 20, 100)).last_hidden_state.shape[1]
    assert audio_token_count(100, WHISPER_CONVOLUTIONS, merge_size=1) == length


def test_tensors_count_element_wise():
    counts = audio_token_count(torch.tensor([7, 100]), WHISPER_CONVOLUTIONS, merge_size=3)
    assert counts.tolist() == [audio_token_count(n, WHISPER_CONVOLUTIONS, merge_size=3) for n in (7, 100)]


@pytest.mark.parametrize(
    "convolutions", [[], [[3, 1, 1], [3, 2, 1]], [[3, 1, 1], [3, 2, 1], [2, 2, 0]], [[10, 5, 0], [3, 2, 0]]]
)
def test_the_shortest_sound_is_one_token_and_a_shorter_one_none(convolutions):
    shortest = shortest_sound(convolutions)
    assert audio_token_count(shortest, convolutions, merge_size=1) == 1
    assert shortest == 1 or audio_token_count(shortest - 1, convolutions, merge_size=1) < 1


def test_wav2vec2_counts_as_the_library_does():
    config = Wav2Vec2Config(
        add_adapter=True, num_hidden_layers=1, hidden_size=32, intermediate_size=32, num_attention_heads=2
    )
    convolutions = tower_convolutions(config)
    with torch.device("meta"):
        model = Wav2Vec2Model(config)
    for samples in (400, 401, 9999, 16000):
        expected = model._get_feat_extract_output_lengths(torch.tensor(samples), add_adapter=True)
        assert audio_token_count(samples, convolutions, merge_size=1) == int(expected)


def test_an_unknown_audio_tower_is_named():
    with pytest.raises(
        ValueError, match="in a 'clap_audio_model' tower is not known: use one of data2vec-audio, hubert"
    ):
        tower_convolutions(ClapAudioConfig())
