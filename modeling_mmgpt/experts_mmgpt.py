"""A mixture of experts in the place of the mlp: a router sends each token to the few experts that suit it best.

token x -> softmax(router x) -> the top k experts, by weight -> sum of weight * down(act(gate(x)) * up(x))

The experts' product runs through transformers' experts interface (`experts_implementation`: grouped_mm, batched_mm, eager, ...),
and their weights lie as all mixtures of the library lie: one tensor for all experts of a layer.

Shapes: B batch, L tokens, T = B * L, D width, F expert width (moe_intermediate_size), X experts, k experts for each token.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from .configuration_mmgpt import MMGPTTextConfig


class MMGPTRouter(nn.Module):
    """Which experts a token goes to, and with which weights (Shazeer et al. 2017, arXiv:1701.06538)."""

    def __init__(self, config: MMGPTTextConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.num_experts = config.num_experts  # transformers 5.17 shares the experts out by it (expert parallelism)
        self.norm_topk_prob = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(hidden_states, self.weight)  # (T, X)
        probabilities = logits.softmax(dim=-1, dtype=torch.float32)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)  # (T, k)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights.to(logits.dtype), chosen


@use_experts_implementation
class MMGPTExperts(nn.Module):
    """All experts of a layer. `forward` is the eager way, one expert after the other."""

    def __init__(self, config: MMGPTTextConfig):
        super().__init__()
        self.num_experts = config.num_experts
        width = config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * width, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, config.hidden_size, width))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output = torch.zeros_like(hidden_states)  # (T, D)
        for expert in range(self.num_experts):
            tokens, rank = torch.where(chosen == expert)
            if len(tokens) == 0:
                continue
            gate, up = nn.functional.linear(hidden_states[tokens], self.gate_up_proj[expert]).chunk(2, dim=-1)
            processed = nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
            output.index_add_(0, tokens, (processed * weights[tokens, rank, None]).to(output.dtype))
        return output


class MMGPTMixture(nn.Module):
    def __init__(self, config: MMGPTTextConfig):
        super().__init__()
        self.gate = MMGPTRouter(config)
        self.experts = MMGPTExperts(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])  # (T, D)
        _, weights, chosen = self.gate(tokens)
        return self.experts(tokens, chosen, weights).view_as(hidden_states)  # (B, L, D)


def balancing_loss(router_logits, config: MMGPTTextConfig, attention_mask=None) -> torch.Tensor:
    """How unevenly the tokens are spread over the experts (Fedus et al. 2021, equations 4 to 6): k when all get the same."""
    is_plain = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    mask = attention_mask if is_plain and attention_mask.numel() == router_logits[0].shape[0] else None
    return load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, mask)


def add_balancing_loss(loss, balance, config: MMGPTTextConfig, labels, num_items_in_batch=None, **kwargs):
    """The loss with its share of balance: where a batch is accumulated in parts, each part adds by its number of labels."""
    share = 1.0 if num_items_in_batch is None else (labels[:, 1:] != -100).sum() / num_items_in_batch
    return loss + config.router_aux_loss_coef * share * balance.to(loss.device)


__all__ = ["MMGPTExperts", "MMGPTMixture", "MMGPTRouter", "add_balancing_loss", "balancing_loss"]
