r"""Data: a recipe's source is files or a Hub data set with the shape of its records (training/data/formats.py); what no shape
fits, or what is made on the spot, has an adapter of its own.

Such an adapter is a function `adapter(root: Path, split: str, **options) -> datasets.Dataset` of rows of the one sample
format; `training/data/samples.py` says what a row is.
"""

from training.data.easy_vqa import load_easy_vqa
from training.data.fsdd import load_fsdd
from training.data.synthetic.course import load_course, load_demo
from training.data.synthetic.nlvr_scenes import load_nlvr_scenes


ADAPTERS = {
    "demo": load_demo,
    "demo_course": load_course,
    "easy_vqa": load_easy_vqa,
    "fsdd": load_fsdd,
    "nlvr_scenes": load_nlvr_scenes,
}

# Of what these adapters bring; a recipe tells the licence of its own files and data sets (`license`).
LICENSES = {
    "demo": "cc-by-4.0 (the digits, from UCI by way of scikit-learn); all else is made on the spot",
    "demo_course": "cc-by-4.0 (the digits, from UCI by way of scikit-learn); all else is made on the spot",
    "easy_vqa": "mit",
    "fsdd": "cc-by-sa-4.0",
    "nlvr_scenes": "none: drawn from a seed",
}
