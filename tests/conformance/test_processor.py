"""The processor, through transformers' ProcessorTesterMixin."""

import unittest
from unittest import mock

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
