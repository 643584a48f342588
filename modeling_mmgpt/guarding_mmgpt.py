"""What may be asked of a model, and what it may answer: judged by a guard, which is any callable or a classifier of transformers.

    def guard(text, images):                 # of a question its text and images, of an answer its text and []
        return "weapons" if "rifle" in text else None

    guard = ClassifierGuard(pipeline("text-classification", "me/toxic"), labels={"toxic"})

A guard returns what speaks against, a reason or `True`; `None` or `False` lets pass. Then the answer says that it was withheld.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import Pipeline


@dataclass
class ClassifierGuard:
    """Withholds what a classifier gives one of `labels` with a probability of `threshold` or more.

    A text longer than the classifier reads is judged in pieces.

    Args:
        classifier: a pipeline for `"text-classification"`, which judges texts, or `"image-classification"`, which judges images.
        labels: those of its labels that are withheld.
        threshold: the lowest probability that is.
    """

    classifier: Pipeline
    labels: set[str]
    threshold: float = 0.5

    def __post_init__(self):
        if self.classifier.task not in ("text-classification", "image-classification"):
            raise ValueError(
                f"a guard takes a classifier of texts or of images, but this is for {self.classifier.task!r}."
            )
        known = set(self.classifier.model.config.id2label.values())
        self.labels = {self.labels} if isinstance(self.labels, str) else set(self.labels)
        if not self.labels or self.labels - known:
            raise ValueError(f"labels={sorted(self.labels)}: name those to withhold, of {sorted(known)}.")

    def __call__(self, text: str, images: list) -> str | None:
        inputs = list(self.pieces(text)) if self.classifier.task == "text-classification" else list(images)
        for scores in self.classifier(inputs, top_k=None) if inputs else []:
            for score in scores:
                if score["label"] in self.labels and score["score"] >= self.threshold:
                    return score["label"]
        return None

    def pieces(self, text: str) -> Iterator[str]:
        tokenizer, config = self.classifier.tokenizer, self.classifier.model.config
        longest = min(
            tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length)
        )
        longest -= tokenizer.num_special_tokens_to_add()
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for first in range(0, len(encoded), longest):
            spans = encoded[first : first + longest]
            yield text[spans[0][0] : spans[-1][1]]


def as_guard(guard: Any):
    """`guard`, if it is one."""
    if isinstance(guard, Pipeline):
        raise ValueError(
            f"guard={type(guard).__name__}: say what it withholds, as ClassifierGuard(classifier, labels={{...}})."
        )
    if guard is not None and not callable(guard):
        raise ValueError(f"guard is a {type(guard).__name__}: give a callable of a text and a list of images.")
    return guard


def withheld(guard, text: str, images=()) -> str | None:
    """The sentence in the place of an answer where the guard withholds it."""
    reason = None if guard is None else guard(text, list(images))
    if not reason:
        return None
    return f"The answer was withheld ({reason})." if isinstance(reason, str) else "The answer was withheld."
