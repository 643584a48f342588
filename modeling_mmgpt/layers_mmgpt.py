"""What the decoder and its cross-attention are both built of: norms, sinusoidal positions, eager attention, the mlp.

Shapes: B batch, L tokens, S keys, D width (hidden_size), H heads, K key/value heads, E head width.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_mmgpt import MMGPTTextConfig


def make_norm(config: MMGPTTextConfig, width: int) -> nn.Module:
    norm_class = nn.LayerNorm if config.norm_type == "layernorm" else nn.RMSNorm
    return norm_class(width, eps=config.norm_eps)


def sinusoidal_positions(position_ids: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(...) (Vaswani et al. 2017, section 3.5).

    Computed where it is used: no table that could be lost in loading, and no longest position."""
    even = torch.arange(0, width, 2, device=position_ids.device, dtype=torch.float32)
    angles = position_ids[..., None].float() * 10000.0 ** (-even / width)  # (B, L, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width].to(dtype)  # (B, L, D)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T * scaling + mask) V, written out (Vaswani et al. 2017, section 3.2.1)."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)  # (B, K, S, E) -> (B, H, S, E)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, L, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights  # (B, L, H, E)


def residual_projection(in_features: int, out_features: int, bias: bool) -> nn.Linear:
    """A matrix that writes to the residual stream: it may start smaller, for many of them add up (GPT-2, section 2.3). Marked, not
    of a class of its own: bitsandbytes takes nothing but nn.Linear itself."""
    matrix = nn.Linear(in_features, out_features, bias=bias)
    matrix.writes_residual = True
    return matrix


class AttentionProjections(nn.Module):
    """The matrices of an attention, and its norms on queries and keys: multi-head, grouped-query or multi-query."""

    def __init__(self, config: MMGPTTextConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        query_width, key_width = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=config.attention_bias)
        self.o_proj = residual_projection(query_width, config.hidden_size, bias=config.attention_output_bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_dim, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(self.head_dim, eps=config.norm_eps)


class MMGPTMLP(nn.Module):
    """The position-wise network: down(act(up(x))), or gated: down(act(gate(x)) * up(x))."""

    def __init__(self, config: MMGPTTextConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = residual_projection(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.gate_proj = None
        if config.mlp_type == "gated":
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act_fn(self.up_proj(hidden_states)))
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


__all__ = [
    "MMGPTMLP",
    "AttentionProjections",
    "eager_attention_forward",
    "make_norm",
    "residual_projection",
    "sinusoidal_positions",
]
