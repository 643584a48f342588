"""Stand-in for transformers' tests/exporters/test_export.py, which the source distribution does not have.

What it tests, tests/test_export.py tests in its place."""


class ExportTesterMixin:
    pass
