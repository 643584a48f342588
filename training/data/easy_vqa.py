"""easy-VQA: short questions on drawings of one coloured shape (Victor Zhou, MIT)."""

from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as parquet
from datasets import Dataset

from training.data.rows import assistant_turn, make_dataset, medium, require_file, user_turn


def load_easy_vqa(root: Path, split: str, turns: int = 1) -> Dataset:
    r"""
    turns (`int`, *optional*, defaults to 1): questions about one image in one row, as turns of one conversation: the
        image is encoded once for all of them. Leave it at 1 to evaluate.
    """
    folder = root / "easy_vqa"
    images = parquet.read_table(require_file(folder / f"images_{split}.parquet")).to_pylist()
    questions = parquet.read_table(require_file(folder / f"questions_{split}.parquet")).to_pylist()
    by_image = defaultdict(list)
    for question in questions:
        by_image[question["image_id"]].append(question)

    rows = []
    for image in images:
        asked = by_image[image["image_id"]]
        for start in range(0, len(asked), turns):
            messages = []
            for question in asked[start : start + turns]:
                media = () if messages else ("image",)
                messages += [user_turn(question["question"], media), assistant_turn(question["answer"])]
            rows.append(
                {
                    "id": f"{image['image_id']}-{start}",
                    "task": "easy_vqa",
                    "messages": messages,
                    "images": [medium(image["image"])],
                }
            )
    return make_dataset(rows)
