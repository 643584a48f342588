"""The GPT decoder: the whole line from the Transformer's decoder to today's, as switches of one class.

positions   sinusoidal | learned | rotary (partial, scaled) | none
norms       layernorm | rmsnorm, before (pre) or after (post) each residual sum; norms on queries and keys
attention   softmax(Q K^T / sqrt(d_k)) V: multi-head, grouped-query, multi-query; full and sliding layers
mlp         two matrices with any activation, or gated; a mixture of experts (layers_mmgpt.py)
residuals   one after the other, or in parallel
media       gated cross-attention before every k-th layer, or none (cross_attention_mmgpt.py)
head        softmax(W h + b), tied to the embeddings or not

Shapes: B batch, L tokens, S cached + new tokens, D width (hidden_size), H heads, K key/value heads, E head width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_rope_utils import dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, rotate_half
from transformers.models.llama.modeling_llama import eager_attention_forward
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeTopKRouter
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_mmgpt import MMGPTTextConfig
from .cross_attention_mmgpt import (
    MMGPTCrossAttentionMask,
    MMGPTGatedCrossAttention,
    MMGPTMedia,
    make_cross_attention_mask,
)
from .layers_mmgpt import (
    CACHE,
    MMGPTMLP,
    AttentionProjections,
    MMGPTMixture,
    add_balancing_loss,
    make_norm,
    sinusoidal_positions,
    takes_cache,
)
from .requests_mmgpt import bad_request, check_length, longest_input
from .saving_mmgpt import CompleteFolderMixin


# Of every forward that takes a cache.
CACHE_ARGS = r"""
past_key_values (`Cache`, *optional*):
    Keys and values of earlier tokens; also accepted as `cache`, its name from transformers 5.24 on.
"""

DECODER_ARGS = r"""
block_sequence_ids (`torch.LongTensor` of shape `(batch_size, cached + new tokens)`, *optional*):
    Tokens with the same number attend to one another in both directions, as the patches of an image do; -1: causally.
media (`MMGPTMedia`, *optional*):
    New media for the gated blocks; those of earlier calls are in the cache.
"""


class MMGPTRotaryEmbedding(GPTNeoXRotaryEmbedding):
    """Cosines and sines of rotary positions (Su et al. 2021); wavelengths and scaling types are transformers' own.

    The angles are products of single numbers: the matrix product of transformers before 5.18 would round them where TF32 is on."""

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.float().to(hidden_states.device)  # (B, L, E_rot/2)
        angles = torch.cat((angles, angles), dim=-1)  # (B, L, E_rot)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the first `cos.shape[-1]` coordinates of each head by its position; the rest, if any, stay as they are."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (B, 1, L, E_rot)
    rotary_dim = cos.shape[-1]
    if rotary_dim == x.shape[-1]:
        return x * cos + rotate_half(x) * sin
    rotated, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    return torch.cat((rotated * cos + rotate_half(rotated) * sin, kept), dim=-1)


class MMGPTAttention(AttentionProjections):
    """Causal self-attention: multi-head, grouped-query or multi-query by `num_key_value_heads`."""

    def __init__(self, config: MMGPTTextConfig, layer_idx: int):
        super().__init__(config)
        self.layer_idx = layer_idx
        self.scaling = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.is_causal = True
        is_sliding = config.layer_types[layer_idx] == "sliding_attention"
        self.sliding_window = config.sliding_window if is_sliding else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.queries(hidden_states)  # (B, H, L, E)
        key, value = self.keys_and_values(hidden_states)  # (B, K, L, E)
        if position_embeddings is not None:
            query, key = apply_rotary(query, *position_embeddings), apply_rotary(key, *position_embeddings)
        if past_key_values is not None:
            # The cache of continuous batching reads, and writes, the arguments of the attention as well.
            key, value = past_key_values.update(key, value, self.layer_idx, kwargs=kwargs)  # (B, K, S, E)

        implementation = self.config._attn_implementation
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )  # (B, L, H, E)
        # Engines return other shapes than (B, L, H, E).
        output = output.reshape(*hidden_states.shape[:-1], -1).contiguous()
        return self.o_proj(output), weights  # (B, L, D)


class MMGPTDecoderLayer(GradientCheckpointingLayer):
    """One block, with the residual stream x in one of three arrangements:

    pre        x = x + attention(norm(x));  x = x + mlp(norm(x))
    post       x = norm(x + attention(x));  x = norm(x + mlp(x))
    parallel   x = x + attention(norm(x)) + mlp(norm'(x))

    Where the config asks for it, a gated cross-attention block stands before it, in which x attends to the media.
    """

    def __init__(self, config: MMGPTTextConfig, layer_idx: int):
        super().__init__()
        self.config = config
        has_block = layer_idx in config.cross_attention_layers
        self.cross_block = MMGPTGatedCrossAttention(config, layer_idx) if has_block else None
        self.drop = nn.Dropout(config.residual_dropout)
        self.self_attn = MMGPTAttention(config, layer_idx)
        is_sparse = config.num_experts is not None and config.mlp_layer_types[layer_idx] == "sparse"
        self.mlp = MMGPTMixture(config) if is_sparse else MMGPTMLP(config)
        self.input_layernorm = make_norm(config, config.hidden_size)
        self.post_attention_layernorm = make_norm(config, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        media_states: torch.Tensor | None = None,
        media_mask: MMGPTCrossAttentionMask | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        if self.cross_block is not None and media_mask is not None:
            hidden_states = self.cross_block(hidden_states, media_states, media_mask, kwargs["past_key_values"])
        if self.config.norm_placement == "post":
            attended, _ = self.self_attn(hidden_states, **kwargs)
            hidden_states = self.input_layernorm(hidden_states + self.drop(attended))
            return self.post_attention_layernorm(hidden_states + self.drop(self.mlp(hidden_states)))

        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        if self.config.parallel_residual:
            processed = self.mlp(self.post_attention_layernorm(hidden_states))
            return hidden_states + self.drop(attended) + self.drop(processed)
        hidden_states = hidden_states + self.drop(attended)
        return hidden_states + self.drop(self.mlp(self.post_attention_layernorm(hidden_states)))


class DecoderSupport(CompleteFolderMixin):
    """What the decoder can do, for the library: alone and in the fusion."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMGPTDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


@auto_docstring
class MMGPTTextPreTrainedModel(DecoderSupport, PreTrainedModel):
    config: MMGPTTextConfig
    input_modalities = ("text",)
    # The experts have @use_experts_implementation: transformers looks for these words in the file of the model's class.
    _can_record_outputs = {
        "hidden_states": MMGPTDecoderLayer,
        "attentions": MMGPTAttention,
        "router_logits": OutputRecorder(Qwen3MoeTopKRouter, index=0),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Matrices from Normal(0, initializer_range), zero biases, unit norms, and GPT-2's smaller residual projections."""
        super()._init_weights(module)
        std = residual_std = self.config.initializer_range
        if self.config.scale_residual_init:
            residual_std = std / (2 * self.config.num_hidden_layers) ** 0.5
        # The mark is on the matrix itself: in remote code transformers passes over modules that own no parameters.
        if isinstance(module, nn.Linear) and getattr(module, "writes_residual", False):
            init.normal_(module.weight, mean=0.0, std=residual_std)
        elif isinstance(module, Qwen3MoeTopKRouter):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, Qwen3MoeExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=residual_std)
        elif isinstance(module, MMGPTGatedCrossAttention):
            init.zeros_(module.attn_gate)
            init.zeros_(module.mlp_gate)


@auto_docstring(custom_intro="The GPT decoder without a head: tokens or embeddings in, hidden states out.")
class MMGPTTextModel(MMGPTTextPreTrainedModel):
    def __init__(self, config: MMGPTTextConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_positions = None
        if config.position_embedding_type == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.rotary_emb = MMGPTRotaryEmbedding(config) if config.position_embedding_type == "rope" else None
        self.media_norm = make_norm(config, config.hidden_size) if config.cross_attention_layers else None
        self.layers = nn.ModuleList([MMGPTDecoderLayer(config, idx) for idx in range(config.num_hidden_layers)])
        self.norm = make_norm(config, config.hidden_size) if config.norm_placement == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @takes_cache
    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring(custom_args=CACHE_ARGS + DECODER_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        block_sequence_ids: torch.LongTensor | None = None,
        media: MMGPTMedia | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoeModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the decoder exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (B, L, D)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            refuse_too_long(self.config, inputs_embeds.shape[1])
            position_ids = self.default_positions(inputs_embeds, attention_mask, past_key_values)  # (B or 1, L)

        masks = attention_mask  # one for each kind of layer, where generate() prepared them
        if not isinstance(masks, dict):
            given = (inputs_embeds, attention_mask, past_key_values, position_ids)
            masks = create_masks_for_generate(self.config, *given, block_sequence_ids=block_sequence_ids)
        media_states, media_mask = self.prepare_media(media, past_key_values, inputs_embeds)
        hidden_states = self.add_positions(inputs_embeds, position_ids)  # (B, L, D)
        position_embeddings = self.rotary_emb(hidden_states, position_ids) if self.rotary_emb is not None else None
        layers = self.layers[: self.config.num_hidden_layers]  # fewer where a draft exits early (assistant_early_exit)
        for layer, layer_type in zip(layers, self.config.layer_types, strict=False):
            hidden_states = layer(
                hidden_states,
                media_states,
                media_mask=media_mask,
                attention_mask=masks[layer_type],
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )  # (B, L, D)
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: past_key_values})

    def prepare_media(self, media, past_key_values, inputs_embeds):
        """New media as the gated blocks take them `(B, S, D)`, and the cross-attention mask over these and earlier ones; or `None`."""
        if self.media_norm is None:
            return None, None
        length, dtype = inputs_embeds.shape[1], inputs_embeds.dtype
        mask = make_cross_attention_mask(self.config, media, past_key_values, length, dtype)
        if media is None:
            return None, mask
        states = self.media_norm(media.states.to(inputs_embeds.dtype))
        # Attention alone knows no order: without positions, audio played backwards would be the same.
        return states + sinusoidal_positions(media.positions, states.shape[-1], states.dtype), mask

    def default_positions(self, inputs_embeds, attention_mask, past_key_values) -> torch.Tensor:
        """The positions if none are given: 0, 1, 2, ... over the tokens that are not padding."""
        length = inputs_embeds.shape[1]
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]  # (B, L)
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        return (torch.arange(length, device=inputs_embeds.device) + past_length).unsqueeze(0)

    def add_positions(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        if self.embed_positions is not None:
            inputs_embeds = inputs_embeds + self.embed_positions(position_ids)
        elif self.config.position_embedding_type == "sinusoidal":
            width = self.config.hidden_size
            inputs_embeds = inputs_embeds + sinusoidal_positions(position_ids, width, inputs_embeds.dtype)
        return nn.functional.dropout(inputs_embeds, p=self.config.embedding_dropout, training=self.training)


def refuse_too_long(text_config, length: int) -> None:
    """Only learned positions end: the table has `max_position_embeddings` of them."""
    is_learned = getattr(text_config, "position_embedding_type", None) == "learned"
    if is_learned and length > text_config.max_position_embeddings:
        raise bad_request(
            f"The sequence has {length} tokens but the model learned only {text_config.max_position_embeddings} positions "
            "(max_position_embeddings): shorten the prompt or max_new_tokens, or use a model with rotary positions."
        )


class MMGPTGenerationMixin(GenerationMixin):
    """What `generate()` and `generate_batch()` refuse here, of the text alone and of the fusion. Servers and pipelines hand some texts
    straight to them. To read more than a decoder was made for, raise `max_position_embeddings`."""

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        text_config, length = self.config.get_text_config(), input_ids.shape[1]
        if is_first_iteration:
            prompt_length = length or (0 if inputs_embeds is None else inputs_embeds.shape[1])
            if prompt_length == 0:
                raise bad_request("The input has no tokens: there is nothing to continue.")
            check_length(longest_input(text_config), prompt_length)
        refuse_too_long(text_config, length)
        return super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )

    def generate_batch(self, inputs, *args, **kwargs):
        """Continuous batching. transformers returns failed requests as empty answers, or leaves them out."""
        results = super().generate_batch(inputs, *args, **kwargs)
        errors = [result.error for result in results.values() if result.error is not None]
        missing = len(inputs) - len(results)
        if errors or missing > 0:
            raise RuntimeError(
                f"{len(errors) + max(0, missing)} of {len(inputs)} requests failed ({errors[0] if errors else 'no answer came'}): look at "
                "the log of transformers for the cause, or call generate()."
            )
        return results


@auto_docstring(custom_intro="The GPT decoder with its language-modelling head softmax(W h + b): text in, text out.")
class MMGPTForCausalLM(MMGPTTextPreTrainedModel, MMGPTGenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: MMGPTTextConfig):
        super().__init__(config)
        self.model = MMGPTTextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @takes_cache
    @can_return_tuple
    @auto_docstring(custom_args=CACHE_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoeCausalLMOutputWithPast:
        outputs: MoeModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: past_key_values},
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(keep_last(outputs.last_hidden_state, logits_to_keep))  # (B, L or kept, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        loss, aux_loss = add_balancing_loss(loss, outputs.router_logits, self.config, attention_mask, labels, **kwargs)
        passed_on = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return MoeCausalLMOutputWithPast(loss=loss, aux_loss=aux_loss, logits=logits, **passed_on)


def keep_last(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The positions whose logits are asked for: the last `logits_to_keep` (0: all), or those that a 1-D tensor lists."""
    return hidden_states[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]


def keep_labelled(
    hidden_states: torch.Tensor, labels: torch.Tensor, shift_labels: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions that have a label, `(N, D)`, and their labels `(N,)`: all others add nothing to the loss.

    Their number decides a shape, so the host waits for the device once, after the decoder."""
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=-100)[..., 1:]  # (B, L)
    is_labelled = shift_labels != -100
    return hidden_states[is_labelled], shift_labels[is_labelled]


# Trainer shifts the labels that it smooths (`label_smoothing_factor`) for the classes of this table alone.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault("mmgpt_text", "MMGPTForCausalLM")
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault("mmgpt", "MMGPTForConditionalGeneration")

__all__ = ["MMGPTForCausalLM", "MMGPTTextModel", "MMGPTTextPreTrainedModel"]
