r"""The GPT line as transformers has it: for each family one table that is read in both directions.

FAMILIES[model_type].fields     our configuration field -> theirs
                    .fixed      our fields of which the family has one value only
                    .required   their fields with the only value that we support
                    .to_ours, .to_theirs  the few fields that need more than a name
                    .weights    their tensors -> ours: rules of tools/layouts.py
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..configuration_mmgpt import MMGPTTextConfig
from .layouts import QKV_BY_HEAD, ROTARY_PAIRS, SHARED_NORM, TRANSPOSED, TRANSPOSED_QKV, Weight


@dataclass(frozen=True)
class Family:
    """One model family of transformers."""

    fields: dict[str, str]
    fixed: dict
    weights: tuple[Weight, ...]
    required: dict = field(default_factory=dict)
    to_ours: Callable[..., dict] = lambda config: {}
    to_theirs: Callable[[MMGPTTextConfig], dict] = lambda config: {}

    @property
    def prefix(self) -> str:
        """What the names of a checkpoint without head lack."""
        return self.weights[0].theirs.partition(".")[0] + "."


# Fields ------------------------------------------------------------------------------------------------------------


def same(names: str) -> dict[str, str]:
    """Fields that are called alike on both sides."""
    return {name: name for name in names.split()}


COMMON_FIELDS = same("vocab_size tie_word_embeddings initializer_range pad_token_id bos_token_id eos_token_id dtype")
OPENAI_FIELDS = COMMON_FIELDS | {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "attention_dropout": "attn_pdrop",
    "embedding_dropout": "embd_pdrop",
    "residual_dropout": "resid_pdrop",
}
GPT2_FIELDS = OPENAI_FIELDS | {"hidden_act": "activation_function", "use_cache": "use_cache"}
GPT_NEO_FIELDS = (
    COMMON_FIELDS
    | same("hidden_size max_position_embeddings attention_dropout use_cache")
    | {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        "embedding_dropout": "embed_dropout",
        "residual_dropout": "resid_dropout",
    }
)
SIZE_FIELDS = COMMON_FIELDS | same(
    "hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings hidden_act use_cache"
)
GPT_NEOX_FIELDS = (
    SIZE_FIELDS
    | same("attention_bias attention_dropout")
    | {
        "norm_eps": "layer_norm_eps",
        "parallel_residual": "use_parallel_residual",
        "embedding_dropout": "hidden_dropout",
        "residual_dropout": "hidden_dropout",
    }
)
QWEN2_FIELDS = SIZE_FIELDS | same("num_key_value_heads attention_dropout") | {"norm_eps": "rms_norm_eps"}
MISTRAL_FIELDS = QWEN2_FIELDS | same("head_dim sliding_window")
QWEN3_FIELDS = QWEN2_FIELDS | same("head_dim attention_bias")
LLAMA_FIELDS = QWEN3_FIELDS | same("mlp_bias")
EXPERT_FIELDS = QWEN2_FIELDS | same("num_experts num_experts_per_tok output_router_logits router_aux_loss_coef")
MIXTRAL_FIELDS = EXPERT_FIELDS | same("sliding_window") | {"num_experts": "num_local_experts"}
QWEN3_MOE_FIELDS = EXPERT_FIELDS | same("attention_bias moe_intermediate_size norm_topk_prob")

PLAIN_FIXED = {"norm_type": "layernorm", "mlp_type": "plain", "mlp_bias": True}
GPT2_FIXED = PLAIN_FIXED | {"position_embedding_type": "learned", "attention_bias": True}
UNSCALED = {"scale_residual_init": False}  # all but GPT-2
GPT_NEO_FIXED = (
    GPT2_FIXED | UNSCALED | {"attention_bias": False, "attention_output_bias": True, "attention_scale": 1.0}
)
GPT_NEOX_FIXED = PLAIN_FIXED | UNSCALED | {"position_embedding_type": "rope"}
LLAMA_FIXED = UNSCALED | {"position_embedding_type": "rope", "norm_type": "rmsnorm", "mlp_type": "gated"}
QWEN2_FIXED = LLAMA_FIXED | {"attention_bias": True, "attention_output_bias": False}
QWEN3_FIXED = LLAMA_FIXED | {"qk_norm": True}


def mlp_width_to_ours(theirs) -> dict:
    return {"intermediate_size": theirs.n_inner or 4 * theirs.n_embd}


def mlp_width_to_theirs(ours: MMGPTTextConfig) -> dict:
    return {"n_inner": None if ours.intermediate_size == 4 * ours.hidden_size else ours.intermediate_size}


def openai_to_ours(theirs) -> dict:
    # What GPT-1 calls gelu is the tanh form.
    names = {"gelu": "gelu_new", "swish": "silu"}
    return {"hidden_act": names.get(theirs.afn, theirs.afn), "intermediate_size": 4 * theirs.n_embd}


def gpt_neo_to_ours(theirs) -> dict:
    kinds = {"global": "full_attention", "local": "sliding_attention"}
    layer_types = [kinds[kind] for kind in theirs.attention_layers]
    return {
        "layer_types": layer_types,
        "sliding_window": theirs.window_size if "sliding_attention" in layer_types else None,
        "intermediate_size": theirs.intermediate_size or 4 * theirs.hidden_size,
    }


def gpt_neo_to_theirs(ours: MMGPTTextConfig) -> dict:
    kinds = {"full_attention": "global", "sliding_attention": "local"}
    layers = [kinds[kind] for kind in ours.layer_types]
    # As short as their configurations write it: the pattern that repeats, and how often.
    lengths = range(1, len(layers) + 1)
    period = next(n for n in lengths if len(layers) % n == 0 and layers[:n] * (len(layers) // n) == layers)
    window = {} if ours.sliding_window is None else {"window_size": ours.sliding_window}
    inner = None if ours.intermediate_size == 4 * ours.hidden_size else ours.intermediate_size
    types = [[layers[:period], len(layers) // period]]
    return {"attention_types": types, "intermediate_size": inner, **window}


def gptj_to_ours(theirs) -> dict:
    head_dim = theirs.n_embd // theirs.n_head
    share = theirs.rotary_dim / head_dim
    if int(head_dim * share) != theirs.rotary_dim:  # 30 / 44 * 44 is a little less than 30
        share = math.nextafter(share, 1.0)
    rope_parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share}
    return {"rope_parameters": rope_parameters, **mlp_width_to_ours(theirs)}


def gptj_to_theirs(ours: MMGPTTextConfig) -> dict:
    share = ours.rope_parameters.get("partial_rotary_factor", 1.0)
    return {"rotary_dim": int(ours.head_dim * share), **mlp_width_to_theirs(ours)}


def rope_to_ours(theirs) -> dict:
    return {"rope_parameters": dict(theirs.rope_parameters)}


def rope_to_theirs(ours: MMGPTTextConfig) -> dict:
    # They rotate whole heads: a partial rotary factor gets lost here, and is refused for that.
    return {"rope_parameters": {k: v for k, v in ours.rope_parameters.items() if k != "partial_rotary_factor"}}


def qwen_to_ours(theirs) -> dict:
    is_sliding = "sliding_attention" in theirs.layer_types
    window = {"sliding_window": theirs.sliding_window if is_sliding else None}
    return {"layer_types": list(theirs.layer_types), **window, **rope_to_ours(theirs)}


def qwen_to_theirs(ours: MMGPTTextConfig) -> dict:
    is_sliding = ours.sliding_window is not None
    leading = next(
        (i for i, kind in enumerate(ours.layer_types) if kind == "sliding_attention"), len(ours.layer_types)
    )
    window = {"use_sliding_window": is_sliding, "sliding_window": ours.sliding_window, "max_window_layers": leading}
    return {"layer_types": list(ours.layer_types), **window, **rope_to_theirs(ours)}


def head_dim_if_not_derived(ours: MMGPTTextConfig) -> dict:
    is_derived = ours.head_dim == ours.hidden_size // ours.num_attention_heads
    return {} if is_derived else {"head_dim": ours.head_dim}


def qwen3_moe_to_ours(theirs) -> dict:
    layers = range(theirs.num_hidden_layers)
    is_dense = [i in theirs.mlp_only_layers or (i + 1) % theirs.decoder_sparse_step > 0 for i in layers]
    return {
        "mlp_layer_types": ["dense" if dense else "sparse" for dense in is_dense],
        "head_dim": theirs.to_dict().get("head_dim"),  # in their files, but no field of their class
        "sliding_window": theirs.sliding_window,
        **rope_to_ours(theirs),
    }


def qwen3_moe_to_theirs(ours: MMGPTTextConfig) -> dict:
    window = {"use_sliding_window": ours.sliding_window is not None, "sliding_window": ours.sliding_window}
    dense = [i for i, kind in enumerate(ours.mlp_layer_types) if kind == "dense"]
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": dense,
        **window,
        **head_dim_if_not_derived(ours),
        **rope_to_theirs(ours),
    }


ROPE = {"to_ours": rope_to_ours, "to_theirs": rope_to_theirs}
QWEN = {"to_ours": qwen_to_ours, "to_theirs": qwen_to_theirs}


# Weights -----------------------------------------------------------------------------------------------------------

OURS = "model.layers.*."
QKV = tuple(f"{OURS}self_attn.{name}_proj.*" for name in "qkv")
HEAD = (Weight("lm_head.*", "lm_head.*"),)
OPENAI_BLOCK = (
    Weight("transformer.h.*.attn.c_attn.*", QKV, TRANSPOSED_QKV),
    Weight("transformer.h.*.attn.c_proj.*", OURS + "self_attn.o_proj.*", TRANSPOSED),
    Weight("transformer.h.*.ln_1.*", OURS + "input_layernorm.*"),
    Weight("transformer.h.*.mlp.c_fc.*", OURS + "mlp.up_proj.*", TRANSPOSED),
    Weight("transformer.h.*.mlp.c_proj.*", OURS + "mlp.down_proj.*", TRANSPOSED),
    Weight("transformer.h.*.ln_2.*", OURS + "post_attention_layernorm.*"),
)
LLAMA_WEIGHTS = (
    Weight("model.embed_tokens.*", "model.embed_tokens.*"),
    Weight("model.layers.*.input_layernorm.*", OURS + "input_layernorm.*"),
    *(Weight(f"model.layers.*.self_attn.{x}_proj.*", f"{OURS}self_attn.{x}_proj.*") for x in "qkvo"),
    Weight("model.layers.*.post_attention_layernorm.*", OURS + "post_attention_layernorm.*"),
    *(Weight(f"model.layers.*.mlp.{x}_proj.*", f"{OURS}mlp.{x}_proj.*") for x in ("gate", "up", "down")),
    Weight("model.norm.*", "model.norm.*"),
    *HEAD,
)
# In a model the experts of a layer are one tensor, as ours are; in files each expert has its own.
EXPERTS = OURS + "mlp.experts."


def expert_files(mixture: str, gate: str, up: str, down: str) -> tuple[Weight, ...]:
    names = [f"model.layers.*.{mixture}.experts.*.{name}.weight" for name in (gate, up, down)]
    return (
        Weight(names[0], EXPERTS + "gate_up_proj", place=lambda tensor, index: tensor[index].chunk(2)[0]),
        Weight(names[1], EXPERTS + "gate_up_proj", place=lambda tensor, index: tensor[index].chunk(2)[1]),
        Weight(names[2], EXPERTS + "down_proj", place=lambda tensor, index: tensor[index]),
    )


MIXTURE = (
    Weight("model.layers.*.mlp.gate.*", OURS + "mlp.gate.*"),
    Weight("model.layers.*.mlp.experts.gate_up_proj", EXPERTS + "gate_up_proj"),
    Weight("model.layers.*.mlp.experts.down_proj", EXPERTS + "down_proj"),
)
QWEN3_MOE_FILES = expert_files("mlp", "gate_proj", "up_proj", "down_proj")
MIXTRAL_FILES = (
    Weight("model.layers.*.block_sparse_moe.gate.*", OURS + "mlp.gate.*"),
    *expert_files("block_sparse_moe", "w1", "w3", "w2"),
)
QK_NORM = tuple(Weight(f"model.layers.*.self_attn.{x}_norm.*", f"{OURS}self_attn.{x}_norm.*") for x in "qk")

# Families ----------------------------------------------------------------------------------------------------------

FAMILIES = {
    "openai-gpt": Family(
        fields=OPENAI_FIELDS,
        fixed=GPT2_FIXED | UNSCALED | {"norm_placement": "post"},
        to_ours=openai_to_ours,
        to_theirs=lambda ours: {"afn": "gelu" if ours.hidden_act == "gelu_new" else ours.hidden_act},
        weights=(
            Weight("transformer.tokens_embed.*", "model.embed_tokens.*"),
            Weight("transformer.positions_embed.*", "model.embed_positions.*"),
            *OPENAI_BLOCK,
            *HEAD,
        ),
    ),
    "gpt2": Family(
        fields=GPT2_FIELDS,
        fixed=GPT2_FIXED,
        required={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        to_ours=mlp_width_to_ours,
        to_theirs=mlp_width_to_theirs,
        weights=(
            Weight("transformer.wte.*", "model.embed_tokens.*"),
            Weight("transformer.wpe.*", "model.embed_positions.*"),
            *OPENAI_BLOCK,
            Weight("transformer.ln_f.*", "model.norm.*"),
            *HEAD,
        ),
    ),
    "gpt_neo": Family(
        fields=GPT_NEO_FIELDS,
        fixed=GPT_NEO_FIXED,
        to_ours=gpt_neo_to_ours,
        to_theirs=gpt_neo_to_theirs,
        weights=(
            Weight("transformer.wte.*", "model.embed_tokens.*"),
            Weight("transformer.wpe.*", "model.embed_positions.*"),
            Weight("transformer.h.*.ln_1.*", OURS + "input_layernorm.*"),
            *(Weight(f"transformer.h.*.attn.attention.{x}_proj.*", f"{OURS}self_attn.{x}_proj.*") for x in "qkv"),
            Weight("transformer.h.*.attn.attention.out_proj.*", OURS + "self_attn.o_proj.*"),
            Weight("transformer.h.*.ln_2.*", OURS + "post_attention_layernorm.*"),
            Weight("transformer.h.*.mlp.c_fc.*", OURS + "mlp.up_proj.*"),
            Weight("transformer.h.*.mlp.c_proj.*", OURS + "mlp.down_proj.*"),
            Weight("transformer.ln_f.*", "model.norm.*"),
            *HEAD,
        ),
    ),
    "gptj": Family(
        fields=GPT2_FIELDS,
        fixed=GPT_NEOX_FIXED | {"attention_bias": False, "parallel_residual": True, "lm_head_bias": True},
        to_ours=gptj_to_ours,
        to_theirs=gptj_to_theirs,
        weights=(
            Weight("transformer.wte.*", "model.embed_tokens.*"),
            Weight(
                "transformer.h.*.ln_1.*",
                (OURS + "input_layernorm.*", OURS + "post_attention_layernorm.*"),
                SHARED_NORM,
            ),
            Weight("transformer.h.*.attn.q_proj.*", OURS + "self_attn.q_proj.*", ROTARY_PAIRS),
            Weight("transformer.h.*.attn.k_proj.*", OURS + "self_attn.k_proj.*", ROTARY_PAIRS),
            Weight("transformer.h.*.attn.v_proj.*", OURS + "self_attn.v_proj.*"),
            Weight("transformer.h.*.attn.out_proj.*", OURS + "self_attn.o_proj.*"),
            Weight("transformer.h.*.mlp.fc_in.*", OURS + "mlp.up_proj.*"),
            Weight("transformer.h.*.mlp.fc_out.*", OURS + "mlp.down_proj.*"),
            Weight("transformer.ln_f.*", "model.norm.*"),
            *HEAD,
        ),
    ),
    "gpt_neox": Family(
        fields=GPT_NEOX_FIELDS,
        fixed=GPT_NEOX_FIXED,
        to_ours=rope_to_ours,
        to_theirs=lambda ours: {"rope_parameters": {"partial_rotary_factor": 1.0, **ours.rope_parameters}},
        weights=(
            Weight("gpt_neox.embed_in.*", "model.embed_tokens.*"),
            Weight("gpt_neox.layers.*.input_layernorm.*", OURS + "input_layernorm.*"),
            Weight("gpt_neox.layers.*.attention.query_key_value.*", QKV, QKV_BY_HEAD),
            Weight("gpt_neox.layers.*.attention.dense.*", OURS + "self_attn.o_proj.*"),
            Weight("gpt_neox.layers.*.post_attention_layernorm.*", OURS + "post_attention_layernorm.*"),
            Weight("gpt_neox.layers.*.mlp.dense_h_to_4h.*", OURS + "mlp.up_proj.*"),
            Weight("gpt_neox.layers.*.mlp.dense_4h_to_h.*", OURS + "mlp.down_proj.*"),
            Weight("gpt_neox.final_layer_norm.*", "model.norm.*"),
            Weight("embed_out.*", "lm_head.*"),  # the head's name in files
            *HEAD,
        ),
    ),
    "llama": Family(LLAMA_FIELDS, LLAMA_FIXED, LLAMA_WEIGHTS, **ROPE),
    "mistral": Family(MISTRAL_FIELDS, LLAMA_FIXED, LLAMA_WEIGHTS, **ROPE),
    "qwen2": Family(QWEN2_FIELDS, QWEN2_FIXED, LLAMA_WEIGHTS, **QWEN),
    "qwen3": Family(QWEN3_FIELDS, QWEN3_FIXED, LLAMA_WEIGHTS + QK_NORM, **QWEN),
    "mixtral": Family(
        MIXTRAL_FIELDS,
        LLAMA_FIXED,
        LLAMA_WEIGHTS + MIXTURE + MIXTRAL_FILES,
        required={"router_jitter_noise": 0.0},
        to_ours=lambda theirs: {"head_dim": theirs.head_dim, **rope_to_ours(theirs)},
        to_theirs=lambda ours: {**head_dim_if_not_derived(ours), **rope_to_theirs(ours)},
    ),
    "qwen3_moe": Family(
        QWEN3_MOE_FIELDS,
        QWEN3_FIXED,
        LLAMA_WEIGHTS + QK_NORM + MIXTURE + QWEN3_MOE_FILES,
        to_ours=qwen3_moe_to_ours,
        to_theirs=qwen3_moe_to_theirs,
    ),
}

# Buffers that old checkpoints carry and today's classes compute.
COMPUTED_BUFFERS = re.compile(r"(.*\.)?(attn|attention)\.(attention\.)?(bias|masked_bias)|(.*\.)?rotary_emb\.inv_freq")
