r"""Data adapters: each turns one data set into rows of the one sample format, by the name that recipes use.

An adapter is a function `adapter(root: Path, split: str, **options) -> datasets.Dataset`; `training/data/rows.py` says
what a row is. A new data set is a new file here and a line in `ADAPTERS`.
"""

from training.data.demo import load_demo
from training.data.easy_vqa import load_easy_vqa
from training.data.fsdd import load_fsdd


ADAPTERS = {
    "demo": load_demo,
    "easy_vqa": load_easy_vqa,
    "fsdd": load_fsdd,
}
