"""The multimodal model, with each set of towers, through transformers' suites."""

import unittest

import pytest

from . import testers
from .suites import EncoderFreeSuite, FromFolder, MultimodalSuite, ShardedMultimodalSuite


@pytest.mark.conformance
class TestImage(MultimodalSuite, unittest.TestCase):
    model_tester_class = testers.ImageTester


@pytest.mark.conformance
class TestAudio(MultimodalSuite, unittest.TestCase):
    model_tester_class = testers.AudioTester


class TestImageAudio(ShardedMultimodalSuite, unittest.TestCase):
    model_tester_class = testers.ImageAudioTester


@pytest.mark.conformance
class TestEncoderFree(EncoderFreeSuite, unittest.TestCase):
    model_tester_class = testers.EncoderFreeTester


@pytest.mark.conformance
class TestCrossAttention(ShardedMultimodalSuite, unittest.TestCase):
    model_tester_class = testers.CrossAttentionTester


@pytest.mark.conformance
class TestImageAudioFromFolder(FromFolder, MultimodalSuite, unittest.TestCase):
    model_tester_class = testers.ImageAudioTester


@pytest.mark.conformance
class TestEncoderFreeFromFolder(FromFolder, EncoderFreeSuite, unittest.TestCase):
    model_tester_class = testers.EncoderFreeTester


@pytest.mark.conformance
class TestCrossAttentionFromFolder(FromFolder, MultimodalSuite, unittest.TestCase):
    model_tester_class = testers.CrossAttentionTester
