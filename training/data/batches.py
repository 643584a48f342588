r"""The batches that a run learns from: samples changed at random, without those that cannot be read any more, and with notes.

batch = TrainingCollator(AugmentingCollator(...), strict_tasks, has_blanks=True)(samples)
notes = batch.pop(NOTES)  # what its samples are called, and how many of its labels each of them has
"""

from dataclasses import dataclass, field

import torch

from modeling_mmgpt.tools.packing import open_packs
from training.data.augmentation import AugmentingCollator
from training.data.samples import MEDIA, DataError, assistant_turn, user_turn


NOTES = "notes"  # beside the tensors of a batch, until the step takes them
LEFT_OUT = "left_out"  # of a sample of a stream: how many were left out since the one before
BLANK = {"messages": [user_turn(""), assistant_turn("")]}  # in place of a batch of which nothing is left


@dataclass
class Notes:
    """Of each sample of a batch what it is called, its task, the kinds of its media and its labels; of each row the place of its item
    among those that the batch was made of; and what was left out."""

    names: list[str]
    tasks: list[str]
    kinds: list[str]
    labels: list[int]
    rows: list[int]
    left_out: list[tuple[str, str]] = field(default_factory=list)  # name and problem
    left_out_before: int = 0  # by a stream, which named them itself


class TrainingCollator:
    r"""
    collator (`AugmentingCollator`): makes the batch.
    strict (`dict[str, bool]`): whether a sample of a task is an error where it cannot be read; of any other task, whether all are.
    """

    def __init__(self, collator: AugmentingCollator, strict: dict[str, bool]):
        self.collator, self.strict = collator, strict

    def __call__(self, items: list[dict]) -> dict:
        before = sum(item.get(LEFT_OUT, 0) for item in items)
        rows = [row for row, item in enumerate(items) for _ in item.get("packed", [item])]
        samples, left_out = open_packs(items), []
        try:
            batch = self.collator(samples)
        except (ValueError, OSError):
            problems = [self.problem_of(sample) for sample in samples]
            if not any(problems):
                raise
            both = list(zip(samples, problems, strict=True))
            left_out = [(name_of(one), problem) for one, problem in both if problem is not None]
            samples = [one for one, problem in both if problem is None]
            rows = [row for row, problem in zip(rows, problems, strict=True) if problem is None]
            batch = self.collator(samples) if samples else self.blank()
        kinds = ["+".join(kind.removesuffix("s") for kind in MEDIA if one.get(kind)) or "text" for one in samples]
        tasks = [one.get("task") or "all" for one in samples]
        labels, rows = labels_of(batch, samples), list(dict.fromkeys(rows))
        notes = Notes([*map(name_of, samples)], tasks, kinds, labels, rows, left_out, before)
        return {**batch, NOTES: notes}

    def problem_of(self, sample: dict) -> str | None:
        """Why no batch can be made of a sample alone."""
        try:
            if not sample.get("messages") and "input_ids" not in sample:
                raise DataError("it is no longer in the data")
            self.collator.collator([sample])
        except (ValueError, OSError) as error:
            problem = f"sample {name_of(sample)}: {error}"
            if self.strict.get(sample.get("task"), all(self.strict.values())):
                raise DataError(problem) from error
            return problem
        return None

    def blank(self) -> dict:
        """A batch without labels: it adds nothing to the step, in which other processes wait for this one."""
        batch = self.collator.collator([BLANK])
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}


def labels_of(batch: dict, samples: list[dict]) -> list[int]:
    """How many tokens of a batch each sample is learnt from. A packed sample begins where positions do; padding has no labels."""
    is_learnt = batch["labels"] != -100  # (B, L)
    if "position_ids" not in batch or any("input_ids" in sample for sample in samples):
        return is_learnt[: len(samples), 1:].sum(-1).tolist()
    piece = (batch["position_ids"].flatten() == 0).cumsum(0) - 1
    return [count for count in piece[is_learnt.flatten()].bincount().tolist() if count]


def name_of(sample: dict) -> str:
    """A sample by its id and its task, a block of several texts by its place."""
    if sample.get("id") is not None:
        return f"{sample['id']} ({sample['task']})" if sample.get("task") else str(sample["id"])
    return f"block {sample['place']}" if "place" in sample else "a block of the stream"
