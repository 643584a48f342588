"""easy-VQA: short questions on drawings of one coloured shape (Victor Zhou, MIT)."""

from pathlib import Path

import pyarrow.parquet as parquet
from datasets import Dataset

from training.data.samples import assistant_turn, make_dataset, medium, require_file, user_turn


def load_easy_vqa(root: Path, split: str, open_only: bool = False) -> Dataset:
    r"""
    open_only (`bool`, *optional*, defaults to False): leave out the questions that are answered by yes or no.
    """
    folder = root / "easy_vqa"
    images = parquet.read_table(require_file(folder / f"images_{split}.parquet")).to_pylist()
    questions = parquet.read_table(require_file(folder / f"questions_{split}.parquet")).to_pylist()
    media = {image["image_id"]: medium(image["image"]) for image in images}
    rows = []
    for index, question in enumerate(questions):
        if open_only and question["answer"] in ("yes", "no"):
            continue
        messages = [user_turn(question["question"], ("image",)), assistant_turn(question["answer"])]
        rows.append(
            {
                "id": f"{split}-{index}",
                "task": "easy_vqa",
                "messages": messages,
                "images": [media[question["image_id"]]],
            }
        )
    return make_dataset(rows)
