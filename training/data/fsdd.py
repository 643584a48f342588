"""Free Spoken Digit Dataset: six English speakers say the digits (Jakobovski et al., CC BY-SA 4.0)."""

from pathlib import Path

import pyarrow.parquet as parquet
from datasets import Dataset

from training.data.samples import assistant_turn, make_dataset, medium, require_file, user_turn


QUESTION = "Which digit is spoken?"


def load_fsdd(root: Path, split: str) -> Dataset:
    """One row per clip: the sound, the question, the digit."""
    table = parquet.read_table(require_file(root / "fsdd" / f"{split}.parquet"), columns=["id", "audio", "label"])
    return make_dataset(
        [
            {
                "id": clip["id"],
                "task": "fsdd",
                "messages": [user_turn(QUESTION, media=("audio",)), assistant_turn(str(clip["label"]))],
                "audios": [medium(clip["audio"])],
            }
            for clip in table.to_pylist()
        ]
    )
