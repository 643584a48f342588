"""The one length function, against the modules whose outputs it counts."""

import pytest
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_mmgpt.lengths_mmgpt import WHISPER_CONVOLUTIONS, audio_token_count, image_token_count
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
