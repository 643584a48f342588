r"""Texts judged by any sequence classifier of Hugging Face: a filter of training data, and the toxicity of what a model writes.

classifier = TextClassifier("unitary/toxic-bert", label="toxic")
classifier.score(["What a lovely day."])  # [0.0006]
"""

from collections.abc import Sequence
from itertools import chain

from tqdm import tqdm
from transformers import pipeline


LONGEST = 512  # tokens at once, where neither tokenizer nor configuration has a lower limit


class TextClassifier:
    r"""The probability of one label, a softmax over the labels, or a sigmoid where a text may have several or there is but one.

    model (`str`): folder or Hub id of a model for sequence classification with its tokenizer.
    label (`str`): a name in its `id2label`.
    batch_size (`int`, *optional*, defaults to 32): texts judged at once.
    """

    def __init__(self, model: str, label: str, batch_size: int = 32):
        try:
            self.pipeline = pipeline("text-classification", model, top_k=None)
        except OSError as error:
            raise ValueError(f"the classifier {model} cannot be loaded: {error}") from error
        self.name, self.label, self.batch_size = model, label, batch_size
        config, self.tokenizer = self.pipeline.model.config, self.pipeline.tokenizer
        labels = list(config.id2label.values())
        if label not in labels:
            raise ValueError(f"the classifier {model} has no label {label!r}; it has {', '.join(map(repr, labels))}.")
        positions = getattr(config, "max_position_embeddings", LONGEST)
        special_tokens = self.tokenizer.num_special_tokens_to_add()
        self.window = min(self.tokenizer.model_max_length, positions, LONGEST) - special_tokens

    def score(self, texts: Sequence[str]) -> list[float]:
        """The probability for each text: of one longer than the classifier reads the highest of its parts, of a blank one 0."""
        scores = []
        for start in tqdm(range(0, len(texts), self.batch_size), desc=self.label):
            parts = [self.parts_of(text) for text in texts[start : start + self.batch_size]]
            flat = list(chain(*parts))
            judged = iter(self.pipeline(flat, batch_size=self.batch_size, truncation=True) if flat else [])
            scores += [max((self.probability(next(judged)) for _ in own), default=0.0) for own in parts]
        return scores

    def probability(self, judged: list[dict]) -> float:
        return next(one["score"] for one in judged if one["label"] == self.label)

    def parts_of(self, text: str) -> list[str]:
        """The text in parts that the classifier reads whole."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) <= self.window:
            return [text] if text.strip() else []
        return [self.tokenizer.decode(ids[start : start + self.window]) for start in range(0, len(ids), self.window)]
