"""Fusion by cross-attention: gated blocks inside the decoder (Flamingo, Alayrac et al. 2022, section 2.3).

    media ---- keys, values ---+
                               v
    x --> x + tanh(a) * attention(norm(x), media) --> x + tanh(b) * mlp(norm(x)) --> decoder layer --> ...

The gates a and b are zero-initialised: at first the model is identical to the text-only decoder. One placeholder token in the text
stands for each chunk of media (an image or a tile, a frame of a video, a window of audio). The cross-attention mask shows a token all
chunks whose placeholders stand at or before it, or only the last of these; a token for which none is visible gets exactly zero.

Shapes: B batch, L new tokens, S media vectors of a sample (cached and new), D width, H heads, K key/value heads, E head width;
N chunks of one modality in the whole batch, T vectors of a chunk.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from .configuration_mmgpt import MMGPTTextConfig
from .layers_mmgpt import MMGPTMLP, AttentionProjections, make_norm, true_first


class MMGPTMedia(NamedTuple):
    """The media of a batch, sample by sample, and which chunks are visible to each new token."""

    states: torch.Tensor  # (B, S, D)
    positions: torch.Tensor  # (B, S) position of each vector among those that are visible together with it
    order: torch.Tensor  # (B, S) number of the vector's chunk in its sample, from 1; 0: padding
    first: torch.Tensor  # (B, L) the first chunk that is visible to a token
    last: torch.Tensor  # (B, L) and the last: how many chunks there are up to it


class MMGPTCrossAttentionMask(NamedTuple):
    mask: torch.Tensor  # (B, 1, L, S) as the attention function takes it
    any_visible: torch.Tensor  # (B, L, 1)


class MMGPTMediaLayer(DynamicLayer):
    """Keys and values of the media for one gated block, stored in the cache after the layers of the text.

    They are computed once, when a chunk is new. The first and the last visible chunk are known of each of P tokens: up to the end of the last
    call that brought media, whose last token sees what all later ones do. transformers also asks a layer for the length of the text: this one passes the question
    on to a text layer."""

    is_sliding = True  # an offloading cache leaves such layers on their device
    is_compileable = True

    def __init__(self, text_layer):
        super().__init__()
        self.text_layer = text_layer
        self.order = self.first = self.last = None  # in the first block's layer only: (B, S), (B, P), (B, P)

    def get_seq_length(self, *args):
        return self.text_layer.get_seq_length(*args)

    def get_mask_sizes(self, *args):
        return self.text_layer.get_mask_sizes(*args)

    def reset(self) -> None:
        self.keys = self.values = self.order = self.first = self.last = None
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """The text layers, which stand before this one, are cropped already; media of tokens that are gone are visible to none."""
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        length = int(self.get_seq_length())
        if length == 0:
            self.reset()
        elif self.order is not None and length < self.last.shape[1]:
            self.first, self.last = self.first[:, :length], self.last[:, :length]
            self.order = torch.where(self.order > self.last[:, -1:], 0, self.order)

    def remember(self, order: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> None:
        """The numbers of all chunks, and the first and the last one visible to each new token, after the text that is cached."""
        length = int(self.get_seq_length())
        if self.order is None:  # earlier text saw no chunk
            earlier_first, earlier_last = first.new_ones(len(first), length), last.new_zeros(len(last), length)
        else:
            since = max(0, length - self.last.shape[1])
            earlier_first = torch.cat((self.first, self.first[:, -1:].expand(-1, since)), dim=-1)
            earlier_last = torch.cat((self.last, self.last[:, -1:].expand(-1, since)), dim=-1)
        self.order = order
        self.first, self.last = torch.cat((earlier_first, first), dim=-1), torch.cat((earlier_last, last), dim=-1)

    def change_batch(self, change) -> None:
        for name in ("keys", "values", "order", "first", "last"):
            if getattr(self, name) is not None:
                setattr(self, name, change(getattr(self, name)))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.change_batch(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.change_batch(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.change_batch(lambda tensor: tensor[indices])


def media_layers(past_key_values: Cache | None) -> list[MMGPTMediaLayer]:
    layers = getattr(past_key_values, "layers", [])  # the cache of continuous batching has none
    return [layer for layer in layers if isinstance(layer, MMGPTMediaLayer)]


def add_media_layers(config: MMGPTTextConfig, past_key_values: Cache) -> list[MMGPTMediaLayer]:
    """Adds a layer for each gated block after those of the text, which an empty cache may not have made yet."""
    layers = past_key_values.layers
    while len(layers) < config.num_hidden_layers:
        layers.append(past_key_values.layer_class_to_replicate())
    added = [MMGPTMediaLayer(layers[0]) for _ in config.cross_attention_layers]
    layers.extend(added)
    return added


def cached_media(past_key_values: Cache | None) -> MMGPTMediaLayer | None:
    """The layer that knows the chunks of earlier calls; `None` if there were none."""
    layers = media_layers(past_key_values)
    return layers[0] if layers and layers[0].order is not None else None


def gather_media(
    parts: list[tuple[torch.Tensor, BaseModelOutputWithPooling]],
    position_ids: torch.Tensor | None,
    cached: MMGPTMediaLayer | None,
    scope: str,
) -> MMGPTMedia:
    """The chunks of all modalities, sample by sample in the order of their placeholders, without a loop over samples.

    `parts`: of each modality its placeholders `(B, L)` and its features `(N, T, D)`, chunk n of the n-th placeholder, with their mask.
    The number of vectors of the fullest sample decides a shape, so the host waits for it: once for each prompt or training batch, and
    never while tokens are generated."""
    is_chunk = torch.stack([is_placeholder for is_placeholder, _ in parts]).any(0)  # (B, L)
    last = is_chunk.long().cumsum(-1)  # (B, L)
    if cached is not None:
        last = last + cached.last[:, -1:]
    first = first_visible(is_chunk, last, position_ids, cached, scope)  # (B, L)

    batch, length = is_chunk.shape
    # (B, L) vectors that a token brings
    widths = sum(is_placeholder * outputs.pooler_output.shape[1] for is_placeholder, outputs in parts)
    ends = widths.cumsum(-1)
    if torch.compiler.is_exporting():  # no shape may depend on data: room for all vectors in each sample
        size = sum(outputs.pooler_output.shape[0] * outputs.pooler_output.shape[1] for _, outputs in parts)
    else:
        size = max(1, int(ends[:, -1].max()))  # S
    some = parts[0][1].pooler_output
    states = some.new_zeros(batch * size, some.shape[-1])
    order = last.new_zeros(batch * size)
    is_start = torch.zeros_like(order, dtype=torch.bool)
    for is_placeholder, outputs in parts:
        features, mask = outputs.pooler_output, outputs.attention_mask
        items, vectors = features.shape[:2]
        place = true_first(is_placeholder)[:items]  # (N,) of the placeholders among all tokens
        slot = place // length * size + (ends - widths).flatten()[place]  # (N,) of the chunk's first vector
        slots = (slot[:, None] + torch.arange(vectors, device=slot.device)).flatten()  # (N * T,)
        number = last.flatten()[place]  # (N,)
        numbers = number[:, None].expand(-1, vectors)  # (N, T)
        if mask is not None:
            numbers = numbers.masked_fill(mask == 0, 0)
        states = states.index_copy(0, slots, features.flatten(0, 1).to(states.dtype))
        order = order.index_copy(0, slots, numbers.flatten())
        is_start = is_start.index_copy(0, slot, number == first.flatten()[place])
    order, is_start = order.view(batch, size), is_start.view(batch, size)
    return MMGPTMedia(states.view(batch, size, -1), positions(order, is_start, cached), order, first, last)


def no_media(inputs_embeds: torch.Tensor) -> MMGPTMedia:
    """One vector that is visible to no token: in distributed training every parameter of the gated blocks needs a gradient, if of zero."""
    batch, length, width = inputs_embeds.shape
    zeros = torch.zeros(batch, length, dtype=torch.long, device=inputs_embeds.device)
    return MMGPTMedia(
        inputs_embeds.new_zeros(batch, 1, width), zeros[:, :1], zeros[:, :1], first=zeros + 1, last=zeros
    )


def first_visible(is_chunk, last, position_ids, cached: MMGPTMediaLayer | None, scope: str) -> torch.Tensor:
    """The number of the first chunk that is visible to each token `(B, L)`: never one of an earlier packed document, whose end shows in
    positions that begin again, and with `scope="last"` none before earlier text. Chunks without text between them count as one."""
    starts = torch.ones_like(last)
    if position_ids is not None:
        starts = torch.where(position_ids == 0, last - is_chunk.long() + 1, starts)
    if scope == "last":
        is_first = is_chunk & ~nn.functional.pad(is_chunk, (1, 0))[:, :-1]
        starts = torch.where(is_first, last, starts)
    if cached is not None:
        starts = torch.maximum(starts, cached.first[:, -1:])
    return starts.cummax(-1).values


def positions(order: torch.Tensor, is_start: torch.Tensor, cached: MMGPTMediaLayer | None) -> torch.Tensor:
    """Positions of vectors, counted without padding from the first one that is visible together with them `(B, S)`."""
    counts = (order > 0).long().cumsum(-1) - 1
    if cached is not None:
        counts = counts + (cached.order > 0).sum(-1, keepdim=True)
    return (counts - torch.where(is_start, counts, 0).cummax(-1).values).clamp(min=0)


def make_cross_attention_mask(
    config: MMGPTTextConfig, media: MMGPTMedia | None, past_key_values: Cache | None, length: int, dtype: torch.dtype
) -> MMGPTCrossAttentionMask | None:
    """Which of the cached and the new media are visible to each of `length` new tokens; `None` where there are no media at all.

    Without new media, what was visible to the last token stays visible."""
    if media is None:
        if (cached := cached_media(past_key_values)) is None:
            return None
        order, first, last = cached.order, cached.first[:, -1:], cached.last[:, -1:]  # (B, S), (B, 1), (B, 1)
    else:
        order, first, last = media.order, media.first, media.last
        if past_key_values is not None:
            layer = (media_layers(past_key_values) or add_media_layers(config, past_key_values))[0]
            if layer.order is not None:
                order = torch.cat((layer.order, order), dim=-1)  # the numbers of all chunks
            layer.remember(order, first, last)
    order = order[:, None]
    is_visible = ((order >= first[..., None]) & (order <= last[..., None])).expand(-1, length, -1)  # (B, L, S)
    any_visible = is_visible.any(-1, keepdim=True)  # (B, L, 1)
    # A softmax over nothing is not a number: a token with no visible chunk attends to everything, and the result is dropped.
    mask = (is_visible | ~any_visible)[:, None]
    if config._attn_implementation == "eager":
        mask = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
    return MMGPTCrossAttentionMask(mask, any_visible)


class MMGPTCrossAttention(AttentionProjections):
    """Queries from the text, keys and values from the media."""

    def __init__(self, config: MMGPTTextConfig):
        super().__init__(config)
        self.scaling = config.head_dim**-0.5
        self.is_causal = False

    def forward(
        self, hidden_states: torch.Tensor, media_states: torch.Tensor | None, mask: torch.Tensor, layer_cache
    ) -> torch.Tensor:
        query = self.queries(hidden_states)  # (B, H, L, E)
        if media_states is None:
            key, value = layer_cache.keys, layer_cache.values
        else:
            key, value = self.keys_and_values(media_states)
            if layer_cache is not None:
                key, value = layer_cache.update(key, value)  # (B, K, S, E)
        # Only these two take any mask; flash kernels, which do not, are left to the self-attention.
        implementation = "eager" if self.config._attn_implementation == "eager" else "sdpa"
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, _ = attend(self, query, key, value, mask, dropout=dropout, scaling=self.scaling)  # (B, L, H, E)
        return self.o_proj(output.flatten(2))  # (B, L, D)


class MMGPTGatedCrossAttention(nn.Module):
    """The block before a decoder layer: x + tanh(a) attention(norm(x), media), then x + tanh(b) mlp(norm(x))."""

    def __init__(self, config: MMGPTTextConfig, layer_idx: int):
        super().__init__()
        self.cache_idx = config.num_hidden_layers + config.cross_attention_layers.index(layer_idx)
        self.drop = nn.Dropout(config.residual_dropout)
        self.input_layernorm = make_norm(config, config.hidden_size)
        self.cross_attn = MMGPTCrossAttention(config)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.post_attention_layernorm = make_norm(config, config.hidden_size)
        self.mlp = MMGPTMLP(config)
        self.mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        media_states: torch.Tensor | None,
        media_mask: MMGPTCrossAttentionMask,
        past_key_values: Cache | None,
    ) -> torch.Tensor:
        layer_cache = past_key_values.layers[self.cache_idx] if past_key_values is not None else None
        attended = self.cross_attn(self.input_layernorm(hidden_states), media_states, media_mask.mask, layer_cache)
        hidden_states = hidden_states + self.gated(attended, self.attn_gate, media_mask)
        processed = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + self.gated(processed, self.mlp_gate, media_mask)  # (B, L, D)

    def gated(self, branch: torch.Tensor, gate: torch.Tensor, media_mask: MMGPTCrossAttentionMask) -> torch.Tensor:
        return gate.tanh() * torch.where(media_mask.any_visible, self.drop(branch), 0.0)
