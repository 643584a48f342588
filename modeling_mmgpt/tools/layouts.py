r"""How the tensors of other GPTs map to ours: the rules of which the tables in tools/families.py are made.

A rule names tensors by patterns: a wildcard `*` stands for one part of a dotted name, and those of our pattern are filled with what
those of theirs matched. Its layout says how the numbers are arranged.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..configuration_mmgpt import MMGPTTextConfig


@dataclass(frozen=True)
class Layout:
    """How a tensor of theirs holds one or several of ours. `split` and `join` are exact inverses: they only move numbers."""

    split: Callable[[torch.Tensor, MMGPTTextConfig], list[torch.Tensor]]
    join: Callable[[list[torch.Tensor], MMGPTTextConfig], torch.Tensor]


def interleave_heads(tensors: list[torch.Tensor], config: MMGPTTextConfig) -> torch.Tensor:
    """Query, key and value of head 0, then of head 1, ... (GPT-NeoX)."""
    heads = [tensor.unflatten(0, (config.num_attention_heads, config.head_dim)) for tensor in tensors]
    return torch.stack(heads, dim=1).flatten(0, 2)


def split_interleaved_heads(tensor: torch.Tensor, config: MMGPTTextConfig) -> list[torch.Tensor]:
    heads = tensor.unflatten(0, (config.num_attention_heads, 3, config.head_dim))
    return [projection.flatten(0, 1) for projection in heads.unbind(1)]


def rotary_order(config: MMGPTTextConfig) -> torch.Tensor:
    """Which dimension of GPT-J's head is ours: it rotates the pairs (0, 1), (2, 3), ..., we rotate (0, r/2), (1, r/2 + 1), ..."""
    rotary_dim = int(config.head_dim * config.rope_parameters["partial_rotary_factor"])
    rotated = torch.arange(rotary_dim).view(-1, 2).t().flatten()
    return torch.cat((rotated, torch.arange(rotary_dim, config.head_dim)))


def reorder_heads(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return tensor.unflatten(0, (-1, len(order)))[:, order.to(tensor.device)].flatten(0, 1)


def require_equal(tensors: list[torch.Tensor], config: MMGPTTextConfig) -> torch.Tensor:
    if any(not torch.equal(tensor, tensors[0]) for tensor in tensors):
        raise ValueError(
            "This family has one norm in front of attention and mlp, but the two norms of our block differ, as after "
            "training: only a checkpoint whose norms are equal can be written in its form."
        )
    return tensors[0]


SAME = Layout(lambda tensor, config: [tensor], lambda tensors, config: tensors[0])
# GPT-1 and GPT-2 keep their matrices as (inputs, outputs), nn.Linear as (outputs, inputs); a bias is its own transpose.
TRANSPOSED = Layout(lambda tensor, config: [tensor.t()], lambda tensors, config: tensors[0].t())
TRANSPOSED_QKV = Layout(
    lambda tensor, config: list(tensor.t().chunk(3)), lambda tensors, config: torch.cat(tensors).t()
)
QKV_BY_HEAD = Layout(split_interleaved_heads, interleave_heads)
ROTARY_PAIRS = Layout(
    lambda tensor, config: [reorder_heads(tensor, rotary_order(config))],
    lambda tensors, config: reorder_heads(tensors[0], rotary_order(config).argsort()),
)
SHARED_NORM = Layout(lambda tensor, config: [tensor, tensor], require_equal)


@dataclass(frozen=True)
class Weight:
    """One rule: `theirs` holds `ours` (one name or several) in a `layout`; `place` returns the part of our tensor that the last
    index of their name stands for, where they have a tensor for each expert and we have one for all."""

    theirs: str
    ours: str | tuple[str, ...]
    layout: Layout = SAME
    place: Callable[[torch.Tensor, int], torch.Tensor] | None = None

    def match(self, name: str) -> list[str] | None:
        """What the wildcards of `theirs` stand for in `name`; None where the rule is about other tensors."""
        found = re.fullmatch(re.escape(self.theirs).replace(r"\*", r"([^.]+)"), name)
        return None if found is None else list(found.groups())

    def our_names(self, wildcards: list[str]) -> list[str]:
        patterns = (self.ours,) if isinstance(self.ours, str) else self.ours
        return [pattern.replace("*", "{}").format(*wildcards) for pattern in patterns]
