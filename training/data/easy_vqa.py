"""easy-VQA: short questions on drawings of one coloured shape (Victor Zhou, MIT)."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as parquet
from datasets import Dataset

from training.data.rows import assistant_turn, make_dataset, medium, require_file, user_turn


DENIAL = re.compile(r"\b(not|no)\b")
KINDS = ("open", "present", "absent")


def kind_of(question: dict) -> str:
    """An open question; else, whether the picture has what a question of yes or no names: "is there not a blue shape?" "no"."""
    if question["answer"] not in ("yes", "no"):
        return "open"
    is_denial = DENIAL.search(question["question"]) is not None
    return "present" if (question["answer"] == "yes") != is_denial else "absent"


def load_easy_vqa(root: Path, split: str, kinds: Sequence[str] = KINDS) -> Dataset:
    r"""
    kinds (`Sequence[str]`, *optional*): of `KINDS`, those of questions that are asked, as often as they are named; defaults to each
        once. Of the questions of yes or no, four in five name what is not there: training may ask the others more often.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"easy-VQA has no {kind!r} questions; it has {', '.join(KINDS)}.")
    folder = root / "easy_vqa"
    images = parquet.read_table(require_file(folder / f"images_{split}.parquet")).to_pylist()
    questions = parquet.read_table(require_file(folder / f"questions_{split}.parquet")).to_pylist()
    media = {image["image_id"]: medium(image["image"]) for image in images}
    rows = []
    for index, question in enumerate(questions):
        messages = [user_turn(question["question"], ("image",)), assistant_turn(question["answer"])]
        row = {
            "id": f"{split}-{index}",
            "task": "easy_vqa",
            "messages": messages,
            "images": [media[question["image_id"]]],
        }
        rows += [row] * kinds.count(kind_of(question))
    return make_dataset(rows)
