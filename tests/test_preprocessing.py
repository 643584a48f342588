"""Frames and windows as the feature extractors make them, against the extractors themselves."""

import numpy as np
import pytest
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from modeling_mmgpt.preprocessing_mmgpt import audio_chunks, framing
from tests.conftest import make_audio


WHISPER = WhisperFeatureExtractor(feature_size=20, chunk_length=1, n_fft=400)
AST = ASTFeatureExtractor(num_mel_bins=20, max_length=100)


@pytest.mark.parametrize(("extractor", "window"), [(WHISPER, 16000), (AST, 16240)])
def test_a_window_is_as_many_samples_as_the_extractor_pads_to(extractor, window):
    frames = framing(extractor)
    assert frames.window == window
    chunks = audio_chunks(extractor, [np.ones(window + 400, dtype=np.float32)], window, shortest=400)
    assert chunks["input_features"].shape == (2, 20, 100)
    assert chunks["input_features_mask"].sum(-1).tolist() == [100, frames.frames(400, in_window=True)]
    assert chunks["audio_windows"].tolist() == [2]


@pytest.mark.parametrize("num_samples", [400, 559, 560, 561, 6000, 16000])
def test_frames_that_are_padding_are_told_from_audio(num_samples):
    """The extractors' own count: Whisper's in its mask; AST's by the frames that differ from its padding."""
    audio = make_audio(0, num_samples)["array"]
    mask = audio_chunks(WHISPER, [audio], 16000, 400)["input_features_mask"]
    assert mask.sum() == framing(WHISPER).frames(num_samples, in_window=True)
    chunks = audio_chunks(AST, [audio], 16240, 400)
    padding = AST.normalize(np.float32(0))
    is_audio = (chunks["input_features"][0] != padding).any(0)
    assert is_audio.tolist() == chunks["input_features_mask"][0].astype(bool).tolist()


def test_a_begun_frame_counts_where_padding_follows_it():
    assert [framing(WHISPER).frames(6000, in_window) for in_window in (False, True)] == [37, 38]
    assert [framing(AST).frames(6000, in_window) for in_window in (False, True)] == [36, 36]


def test_a_waveform_has_a_frame_for_each_sample():
    frames = framing(Wav2Vec2FeatureExtractor())
    assert (frames.frames(123, False), frames.longest, frames.shortest([[10, 5, 0]])) == (123, None, 10)


@pytest.mark.parametrize(("extractor", "shortest"), [(WHISPER, 400), (AST, 400 + 160 * 7)])
def test_the_shortest_waveform_is_a_frame_and_a_token(extractor, shortest):
    convolutions = [[8, 4, 0, 4]] if extractor is AST else [[3, 1, 1], [3, 2, 1]]
    assert framing(extractor).shortest(convolutions) == shortest
