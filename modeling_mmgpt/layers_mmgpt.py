"""The parts that the decoder, its cross-attention and the fusion are built of: norms, sinusoidal positions, projections, the mlp, the
mixture of experts that can replace it, and what the releases of transformers name otherwise.

Shapes: B batch, L tokens, S keys, D width (hidden_size), H heads, K key/value heads, E head width; in the mixture T = B * L tokens.
"""

import warnings
from functools import wraps
from inspect import Parameter, signature

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.generation import utils as generation_utils
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeTopKRouter

from .configuration_mmgpt import MMGPTTextConfig


# transformers 5.24 calls the cache of keys and values `cache`, earlier releases `past_key_values`: as an argument that `generate()`
# hands over, as a field of outputs, and as an argument of the functions that make masks.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
# Before transformers 5.23 a prefill in pieces (`prefill_chunk_size`) silently loses the media of the prompt.
CHUNKED_PREFILL_TAKES_MEDIA = hasattr(generation_utils, "_slice_mm_encoder_output")


def takes_cache(forward):
    """`forward`, whose argument `past_key_values` may also be called `cache`."""

    @wraps(forward)
    def renamed(*args, **kwargs):
        # Before 5.24 continuous batching hands a cache of its own to the attention under that name.
        if "cache" in kwargs and (CACHE == "cache" or isinstance(kwargs["cache"], Cache | None)):
            kwargs["past_key_values"] = kwargs.pop("cache")
        elif CACHE == "cache" and kwargs.get("past_key_values") is not None and not torch.compiler.is_compiling():
            warnings.warn("`past_key_values` is deprecated: call it `cache`.", FutureWarning, stacklevel=2)
        return forward(*args, **kwargs)

    if CACHE == "cache":  # `generate()` refuses arguments that the signature does not name
        taken = signature(forward)
        cache = taken.parameters["past_key_values"].replace(name="cache", kind=Parameter.KEYWORD_ONLY)
        *named, rest = taken.parameters.values()
        renamed.__signature__ = taken.replace(parameters=[*named, cache, rest])
    return renamed


def make_norm(config: MMGPTTextConfig, width: int) -> nn.Module:
    norm_class = nn.LayerNorm if config.norm_type == "layernorm" else nn.RMSNorm
    return norm_class(width, eps=config.norm_eps)


def sinusoidal_positions(position_ids: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(...) (Vaswani et al. 2017, section 3.5).

    Computed where it is used: no table that could be lost in loading, and no longest position."""
    even = torch.arange(0, width, 2, device=position_ids.device, dtype=torch.float32)
    angles = position_ids[..., None].float() * 10000.0 ** (-even / width)  # (B, L, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width].to(dtype)  # (B, L, D)


def true_first(mask: torch.Tensor) -> torch.Tensor:
    """Places in the flattened mask, first those where it is True and then the others, each in their order.

    A stable argsort would do the same, but ONNX has none."""
    mask = mask.flatten()
    place = torch.where(mask, mask.cumsum(0) - 1, mask.sum() + (~mask).cumsum(0) - 1)
    return torch.empty_like(place).scatter_(0, place, torch.arange(place.shape[0], device=place.device))


def residual_projection(in_features: int, out_features: int, bias: bool) -> nn.Linear:
    """A matrix that writes to the residual stream: it may start smaller, for many of them add up (GPT-2, section 2.3).

    It is marked by an attribute and not by a class of its own: bitsandbytes quantises nothing but nn.Linear itself."""
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

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        query = self.q_proj(states).unflatten(-1, (-1, self.head_dim))
        return (self.q_norm(query) if self.config.qk_norm else query).transpose(1, 2)  # (B, H, L, E)

    def keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = (proj(states).unflatten(-1, (-1, self.head_dim)) for proj in (self.k_proj, self.v_proj))
        key = self.k_norm(key) if self.config.qk_norm else key
        return key.transpose(1, 2), value.transpose(1, 2)  # (B, K, S, E)


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


class MMGPTMixture(nn.Module):
    """A mixture of experts in place of the mlp: a router sends each token to the few experts that suit it best (Shazeer et al. 2017,
    arXiv:1701.06538).

    token x -> softmax(router x) -> the top k experts, by weight -> sum of weight * down(act(gate(x)) * up(x))

    Router and experts are Qwen3's, whose fields our configuration has. The product runs through transformers' experts interface
    (`experts_implementation`: grouped_mm, batched_mm, eager, ...); one tensor holds all experts of a layer."""

    def __init__(self, config: MMGPTTextConfig):
        super().__init__()
        self.gate = Qwen3MoeTopKRouter(config)
        self.experts = Qwen3MoeExperts(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])  # (T, D)
        _, weights, chosen = self.gate(tokens)
        return self.experts(tokens, chosen, weights).view_as(hidden_states)  # (B, L, D)


def add_balancing_loss(
    loss: torch.Tensor | None,
    router_logits: tuple[torch.Tensor, ...] | None,
    config: MMGPTTextConfig,
    attention_mask=None,
    labels: torch.Tensor | None = None,
    num_items_in_batch=None,
    **kwargs,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The loss with the balancing loss of the experts in it, and the balancing loss alone: how unevenly the tokens are spread (Fedus et
    al. 2021, equations 4 to 6), k when every expert gets as many. `None`, and nothing is added, where the routers recorded nothing."""
    if not router_logits:
        return loss, None
    is_padding_mask = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    mask = attention_mask if is_padding_mask and attention_mask.numel() == router_logits[0].shape[0] else None
    balance = load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, mask)
    if loss is None:
        return None, balance
    # Where a batch is accumulated in parts, each part adds by its number of labels.
    share = 1.0 if num_items_in_batch is None else (labels[:, 1:] != -100).sum() / num_items_in_batch
    return loss + config.router_aux_loss_coef * share * balance.to(loss.device), balance
