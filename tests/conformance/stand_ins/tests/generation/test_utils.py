"""Stand-in for transformers' tests/generation/test_utils.py, which the source distribution does not have.

What it tests, tests/test_generation.py tests in its place."""


class GenerationTesterMixin:
    pass
