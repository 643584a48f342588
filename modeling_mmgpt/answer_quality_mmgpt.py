"""How sure a model was of its answers, measured while `generate()` writes them, and the sentence in the place of one that is not sure enough.

    recorder = QualityRecorder()
    output = model.generate(**inputs, logits_processor=[recorder])
    qualities = recorder.measure(output[:, inputs["input_ids"].shape[1]:], model.generation_config.eos_token_id)

Without beams, whose order changes from step to step.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from transformers import LogitsProcessor


UNSURE = "I am not sure enough to answer."


class Quality(NamedTuple):
    """Of an answer, over its tokens up to the one that ends it."""

    log_probability: float  # mean of its tokens, in nats
    entropy: float  # mean over its tokens of that of the next token, in nats
    repetition: float  # share of its pairs of neighbours that it has had before

    @property
    def confidence(self) -> float:
        """The geometric mean of the probabilities of its tokens, from 0 to 1."""
        return math.exp(self.log_probability)

    def as_dict(self) -> dict[str, float]:
        return {"confidence": self.confidence, **self._asdict()}


class QualityRecorder(LogitsProcessor):
    """Changes no score. It sees those that the model chooses by: suppressed tokens have none, and temperature may come later."""

    def __init__(self):
        self.log_probabilities: list[torch.Tensor] = []  # of the token chosen at each step, (answers, 1)
        self.entropies: list[torch.Tensor] = []  # (answers,)
        self.last = None  # (answers, V), of the step whose choice is not known yet

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.last is not None:
            self.log_probabilities.append(self.last.gather(1, input_ids[:, -1:]))
        self.last = scores.float().log_softmax(-1)
        self.entropies.append(torch.special.entr(self.last.exp()).sum(-1))
        return scores

    def measure(self, new_tokens: torch.LongTensor, ends: int | list[int] | None) -> list[Quality]:
        """`new_tokens` (answers, tokens), as generated; `ends`: the tokens that end an answer."""
        steps = len(self.entropies)
        if len(self.entropies[0]) != len(new_tokens):
            raise ValueError("How sure a model is of its answers is measured without beams: set num_beams=1.")
        new_tokens = new_tokens[:, :steps]
        last = self.last.gather(1, new_tokens[:, -1:])
        log_probabilities = torch.cat([*self.log_probabilities, last], 1)  # (answers, tokens)
        entropies = torch.stack(self.entropies, 1)
        lengths = answer_lengths(new_tokens, ends)
        found = zip(log_probabilities.tolist(), entropies.tolist(), new_tokens.tolist(), lengths, strict=True)
        return [Quality(sum(p[:n]) / n, sum(e[:n]) / n, repetition(tokens[:n])) for p, e, tokens, n in found]


def answer_lengths(new_tokens: torch.LongTensor, ends: int | list[int] | None) -> list[int]:
    """Tokens of each answer, the one that ends it counted."""
    ends = torch.tensor([] if ends is None else ends, device=new_tokens.device)
    is_end = torch.isin(new_tokens, ends)
    return (is_end.cumsum(-1) <= is_end.long()).sum(-1).tolist()


def repetition(tokens: list[int]) -> float:
    pairs = list(pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
