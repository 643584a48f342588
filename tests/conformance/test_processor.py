"""The processor, through transformers' ProcessorTesterMixin.

The frames of all videos stand one after the other, each video with as many as it has, as in Gemma 4: two tests are told so.
"""

import unittest
from unittest import mock

import torch
from transformers import LlavaOnevisionVideoProcessor, SiglipImageProcessor, WhisperFeatureExtractor

from modeling_mmgpt import MMGPTProcessor
from tests.conftest import byte_tokenizer

from . import skips


# The suite takes for granted that sounds are read with librosa; our processor reads them itself.
with mock.patch("transformers.testing_utils.require_librosa", lambda test: test):
    from transformers_tests.test_processing_common import ProcessorTesterMixin


class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MMGPTProcessor
    # The suite's clip of 8 frames is 8 x 16 tokens and the time of each frame here.
    videos_text_kwargs_max_length = 217
    videos_text_kwargs_override_max_length = 212
    videos_unstructured_max_length = 216

    def setUp(self):
        super().setUp()
        skip = skips.find(self._testMethodName, "Processor")
        if skip is not None:
            self.skipTest(f"{skip.reason} ({skip.link})")

    @property
    def video_sampling_expectations(self):
        """Of the clip that the stand-in for the library's makes: ten seconds, 240 frames."""
        return [
            {"num_frames": 3, "fps": None, "expected_dim": 0, "output_length": 3},
            {"num_frames": None, "fps": 2, "expected_dim": 0, "output_length": 20},
            {"do_sample_frames": False, "fps": 10, "expected_dim": 0, "output_length": 240},
            {"do_sample_frames": False, "expected_dim": 0, "output_length": 240},
            {"expected_dim": 0, "output_length": 10},
        ]

    def test_subprocessor_defaults_2_videos(self):
        """The suite's test wants the video processor's own axis of videos: here without it, the frames are the same."""
        processor, videos = self.get_processor(), self._prepare_modality_input("videos")
        expected = processor.video_processor(videos, do_sample_frames=False, return_tensors="pt")
        inputs = processor(videos=videos, return_tensors="pt")
        torch.testing.assert_close(inputs["pixel_values_videos"], expected["pixel_values_videos"].flatten(0, 1))

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer()

    @classmethod
    def _setup_image_processor(cls):
        return SiglipImageProcessor(size={"height": 16, "width": 16})

    @classmethod
    def _setup_feature_extractor(cls):
        return WhisperFeatureExtractor(feature_size=20, sampling_rate=16000, chunk_length=5)

    @classmethod
    def _setup_video_processor(cls):
        return LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16})

    @staticmethod
    def prepare_processor_dict():
        return {
            "image_geometry": {"patch_size": 4, "merge_size": 1},
            "audio_geometry": {"convolutions": [], "merge_size": 4},
            "fixed_audio_window": True,  # the suite wants what the extractor alone gives: its whole window
        }
