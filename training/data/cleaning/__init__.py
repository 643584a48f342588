"""Which samples are left out of the training data: by quality (filters), as duplicates, as contamination by evaluation data."""

import importlib


def require(package: str, purpose: str):
    """The module of a package that only cleaning needs."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install datasketch imagehash py3langid.") from error
