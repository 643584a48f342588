"""The decoder alone, in four forms, through transformers' suites."""

import unittest

import pytest
from transformers_tests.test_tensor_parallel_mixin import TensorParallelTesterMixin

from . import testers
from .suites import FromFolder, ShardedMixtureSuite, ShardedTextSuite, TextSuite


class TestText(ShardedTextSuite, unittest.TestCase):
    model_tester_class = testers.TextTester


@pytest.mark.conformance
class TestFirstTransformer(TextSuite, unittest.TestCase):
    model_tester_class = testers.FirstTransformerTester


@pytest.mark.conformance
class TestSliding(TextSuite, unittest.TestCase):
    model_tester_class = testers.SlidingTester


@pytest.mark.conformance
class TestMixture(ShardedMixtureSuite, unittest.TestCase):
    model_tester_class = testers.MixtureTester


@pytest.mark.conformance
class TestMixtureFromFolder(FromFolder, TextSuite, unittest.TestCase):
    model_tester_class = testers.MixtureTester


@pytest.mark.conformance
class TestTextFromFolder(FromFolder, TextSuite, TensorParallelTesterMixin, unittest.TestCase):
    model_tester_class = testers.TextTester
