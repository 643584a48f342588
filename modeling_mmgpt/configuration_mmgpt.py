"""The configuration of MMGPT: a decoder, and optionally a vision and an audio encoder. Every choice of the architecture is a field here.

MMGPTTextConfig   the GPT decoder: the whole GPT line as switches
MMGPTPatchConfig  encoder-free vision: linear embedding of pixel patches
MMGPTFrameConfig  encoder-free audio: linear embedding of mel frames
MMGPTConfig       the fusion: decoder + vision encoder + audio encoder + connectors
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, LlamaConfig, MixtralConfig, PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.utils import auto_docstring

from .token_counts_mmgpt import image_geometry
from .tower_families_mmgpt import vision_family


TEXT_AUTO_MAP = {
    "AutoConfig": "configuration_mmgpt.MMGPTTextConfig",
    "AutoModel": "modeling_mmgpt_text.MMGPTTextModel",
    "AutoModelForCausalLM": "modeling_mmgpt_text.MMGPTForCausalLM",
    "AutoModelForMultimodalLM": "modeling_mmgpt_text.MMGPTForCausalLM",  # by which `transformers serve` loads remote code
}
AUTO_MAP = {
    "AutoConfig": "configuration_mmgpt.MMGPTConfig",
    "AutoModel": "modeling_mmgpt.MMGPTModel",
    "AutoModelForCausalLM": "modeling_mmgpt.MMGPTForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_mmgpt.MMGPTForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_mmgpt.MMGPTForConditionalGeneration",
    "AutoProcessor": "processing_mmgpt.MMGPTProcessor",
}

# Task: (class in pipeline_mmgpt.py, Auto class of its model, what the model must have besides text).
PIPELINES = {
    "summarization": ("MMGPTSummarizationPipeline", "AutoModelForCausalLM", None),
    "translation": ("MMGPTTranslationPipeline", "AutoModelForCausalLM", None),
    "question-answering": ("MMGPTQuestionAnsweringPipeline", "AutoModelForCausalLM", None),
    "visual-question-answering": (
        "MMGPTVisualQuestionAnsweringPipeline",
        "AutoModelForImageTextToText",
        "vision_config",
    ),
    "image-to-text": ("MMGPTImageToTextPipeline", "AutoModelForImageTextToText", "vision_config"),
    "image-text-to-text": ("MMGPTImageTextToTextPipeline", "AutoModelForImageTextToText", "vision_config"),
    "automatic-speech-recognition": ("MMGPTSpeechRecognitionPipeline", "AutoModelForMultimodalLM", "audio_config"),
    "any-to-any": ("MMGPTAnyToAnyPipeline", "AutoModelForMultimodalLM", "text_config"),
}


class PipelinesMixin:
    @property
    def custom_pipelines(self) -> dict[str, dict]:
        """Which of our classes serve `pipeline(task, ..., trust_remote_code=True)`. A property and no field, so that it stays out of
        config.json: transformers puts classes into the dict that it gets, which JSON cannot hold."""
        return {
            task: {"impl": f"pipeline_mmgpt.{name}", "pt": [auto_class], "type": "multimodal"}
            for task, (name, auto_class, needed) in PIPELINES.items()
            if needed is None or getattr(self, needed, None) is not None
        }


def divides(divisor: int, number: int) -> bool:
    return divisor > 0 and number % divisor == 0


def repeat_pattern(kinds: list[str], num_layers: int) -> list[str]:
    """`kinds` as often as the layers need it; a list that does not fit is left as it is, for validation to refuse."""
    return list(kinds) * (num_layers // len(kinds)) if kinds and divides(len(kinds), num_layers) else list(kinds)


@auto_docstring(checkpoint="mmgpt")
@strict
class MMGPTTextConfig(PipelinesMixin, PreTrainedConfig):
    r"""
    mlp_type (`str`, *optional*, defaults to `"gated"`):
        `"gated"`: down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202); `"plain"`: down(act(up(x))), the two
        matrices of Vaswani et al. 2017 (section 3.3) and of GPT-1 to GPT-3.
    position_embedding_type (`str`, *optional*, defaults to `"rope"`):
        `"rope"`: rotary (Su et al. 2021, arXiv:2104.09864); `"learned"`: one vector for each of
        `max_position_embeddings` positions (GPT-1 to GPT-3); `"sinusoidal"`: PE(pos, 2i) = sin(pos / 10000^(2i/d)),
        PE(pos, 2i+1) = cos(...) added to the embeddings (Vaswani et al. 2017, section 3.5); `"none"`: the causal mask
        alone tells the order (Kazemnejad et al. 2023).
    rope_parameters (`RopeParameters`, *optional*):
        Only with `position_embedding_type="rope"`: `rope_theta` (base of the wavelengths, default 10000), `rope_type` and its
        scaling values as in transformers, `partial_rotary_factor` (rotated share of each head, default 1).
    norm_type (`str`, *optional*, defaults to `"rmsnorm"`):
        `"layernorm"` (Ba et al. 2016, with bias) or `"rmsnorm"` (Zhang and Sennrich 2019).
    norm_placement (`str`, *optional*, defaults to `"pre"`):
        `"pre"`: x + f(norm(x)) and a final norm (GPT-2 on); `"post"`: norm(x + f(x)) and no final norm (Transformer, GPT-1).
    norm_eps (`float`, *optional*, defaults to `1e-6`):
        Added to the variance inside every norm.
    qk_norm (`bool`, *optional*, defaults to `False`):
        RMS-normalise each query and key head before the rotation (Qwen3; Henry et al. 2020).
    parallel_residual (`bool`, *optional*, defaults to `False`):
        x + attention(norm1(x)) + mlp(norm2(x)) instead of one after the other (GPT-J, GPT-NeoX).
    attention_bias (`bool`, *optional*, defaults to `False`):
        Bias in the query, key and value projections.
    attention_output_bias (`bool`, *optional*):
        Bias in the attention's output projection. `None` follows `attention_bias`.
    attention_scale (`float`, *optional*):
        Factor on QK^T before the softmax. `None` is 1 / sqrt(head_dim) (Vaswani et al. 2017, section 3.2.1); GPT-Neo uses 1.
    layer_types (`list[str]`, *optional*):
        `"full_attention"` or `"sliding_attention"` (the last `sliding_window` tokens) for each layer. A shorter list is a pattern
        that repeats: GPT-3 alternates the two (Brown et al. 2020, section 2.1). `None`: all sliding if `sliding_window` is set.
    num_experts (`int`, *optional*):
        Experts in each sparse layer (Shazeer et al. 2017, arXiv:1701.06538). `None`: every layer has one dense mlp.
    num_experts_per_tok (`int`, *optional*):
        With `num_experts`: experts that each token goes to (default 2).
    moe_intermediate_size (`int`, *optional*):
        With `num_experts`: width inside each expert. `None` is `intermediate_size`.
    mlp_layer_types (`list[str]`, *optional*):
        With `num_experts`: `"sparse"` (experts) or `"dense"` (one mlp) for each layer, or a pattern that repeats. `None`: all are
        sparse.
    norm_topk_prob (`bool`, *optional*, defaults to `True`):
        Whether the weights of a token's experts are made to sum to 1 (Mixtral, Jiang et al. 2024).
    output_router_logits (`bool`, *optional*, defaults to `False`):
        With `num_experts`: return the routers' logits, and add the balancing loss to the loss.
    router_aux_loss_coef (`float`, *optional*):
        With `num_experts`: weight of the balancing loss (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6; default 0.001).
    cross_attention_every (`int`, *optional*):
        With k, a gated cross-attention block stands before the layers 0, k, 2k, ...: through it the text attends to media (Flamingo,
        Alayrac et al. 2022, section 2.3). `None`: there are none. Goes with `fusion="cross_attention"` of an [`MMGPTConfig`].
    lm_head_bias (`bool`, *optional*, defaults to `False`):
        The b of softmax(W h + b).
    embedding_dropout (`float`, *optional*, defaults to 0.0):
        Dropout probability on the sum of token and position embeddings.
    residual_dropout (`float`, *optional*, defaults to 0.0):
        Dropout probability on the output of each attention and mlp, before it is added to the residual stream.
    scale_residual_init (`bool`, *optional*, defaults to `True`):
        Initialise the projections that write to the residual stream with `initializer_range` / sqrt(2 `num_hidden_layers`)
        (GPT-2, Radford et al. 2019, section 2.3).
    """

    model_type = "mmgpt_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    _auto_class = "AutoConfig"
    # Our modules have the names of Llama's and our experts those of Mixtral's, whose rules differ between releases of transformers.
    base_model_tp_plan = LlamaConfig.base_model_tp_plan
    base_model_pp_plan = LlamaConfig.base_model_pp_plan
    base_model_ep_plan = MixtralConfig.base_model_ep_plan

    vocab_size: int = 50304
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    mlp_type: Literal["gated", "plain"] = "gated"
    mlp_bias: bool = False
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    mlp_layer_types: list[str] | None = None
    norm_topk_prob: bool = True
    output_router_logits: bool = False
    router_aux_loss_coef: float | None = None
    position_embedding_type: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    rope_parameters: RopeParameters | dict | None = None
    max_position_embeddings: int = 2048
    norm_type: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_placement: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    qk_norm: bool = False
    parallel_residual: bool = False
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    attention_scale: float | None = None
    attention_dropout: float | int = 0.0
    embedding_dropout: float | int = 0.0
    residual_dropout: float | int = 0.0
    layer_types: list[str] | None = None
    cross_attention_every: int | None = None
    sliding_window: int | None = None
    lm_head_bias: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    scale_residual_init: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            # Both give 8 D^2 weights: a gated mlp has three matrices instead of two.
            self.intermediate_size = 4 * self.hidden_size if self.mlp_type == "plain" else 8 * self.hidden_size // 3
        if self.attention_output_bias is None:
            self.attention_output_bias = self.attention_bias
        if self.layer_types is None:
            self.layer_types = ["full_attention" if self.sliding_window is None else "sliding_attention"]
        self.layer_types = repeat_pattern(self.layer_types, self.num_hidden_layers)
        if self.num_experts is None:
            self.router_aux_loss_coef = 0.0  # TRL's trainers take any other value for a sign of experts
        else:
            if self.router_aux_loss_coef is None:
                self.router_aux_loss_coef = 0.001
            self.num_experts_per_tok = 2 if self.num_experts_per_tok is None else self.num_experts_per_tok
            self.moe_intermediate_size = self.moe_intermediate_size or self.intermediate_size
            self.mlp_layer_types = repeat_pattern(self.mlp_layer_types or ["sparse"], self.num_hidden_layers)
        given_rope = self.rope_parameters
        super().__post_init__(**kwargs)
        if self.position_embedding_type != "rope":
            self.rope_parameters = given_rope  # the library fills in a default; without rotation there is none
        self.base_model_tp_plan = self.tensor_parallel_plan()
        self.auto_map = {**TEXT_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}

    @property
    def cross_attention_layers(self) -> list[int]:
        """The layers that a gated cross-attention block stands before."""
        every = self.cross_attention_every
        return [] if every is None else list(range(0, self.num_hidden_layers, every))

    def tensor_parallel_plan(self) -> dict[str, str]:
        """How tensor parallelism cuts the matrices: a rule for each kind that this decoder has, and no other."""
        plan = dict(self.base_model_tp_plan)  # with the rule that transformers 5.17 adds for tied embeddings
        if self.mlp_type == "plain":
            del plan["layers.*.mlp.gate_proj"]
        if self.cross_attention_every is not None:
            for name in [name for name in plan if name.startswith(("layers.*.self_attn.", "layers.*.mlp."))]:
                block_name = name.replace("layers.*.", "layers.*.cross_block.").replace("self_attn", "cross_attn")
                plan[block_name] = plan[name]
        if self.num_experts is None:
            return plan
        if "dense" not in self.mlp_layer_types:
            plan = {name: cut for name, cut in plan.items() if "layers.*.mlp." not in name}
        experts = {name: cut for name, cut in MixtralConfig.base_model_tp_plan.items() if ".experts" in name}
        return plan | experts

    def validate_architecture(self):
        """Refuses combinations that no decoder can be built from, each with the change that fixes it."""
        if self.num_attention_heads < 1 or not divides(self.num_key_value_heads, self.num_attention_heads):
            raise ValueError(
                f"num_key_value_heads ({self.num_key_value_heads}) must divide num_attention_heads "
                f"({self.num_attention_heads}): each key/value head serves an equal group of query heads. "
                "Use num_key_value_heads=None for multi-head attention, 1 for multi-query attention."
            )
        if self.head_dim < 1:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is smaller than num_attention_heads ({self.num_attention_heads}), "
                "which leaves nothing for a head: use fewer heads or set head_dim."
            )
        if self.position_embedding_type == "rope":
            rotary_dim = int(self.head_dim * self.rope_parameters.get("partial_rotary_factor", 1.0))
            if rotary_dim < 2 or rotary_dim % 2:
                raise ValueError(
                    f"Rotary positions turn pairs of coordinates, but {rotary_dim} of the {self.head_dim} in each head are "
                    "to be rotated: choose head_dim and rope_parameters['partial_rotary_factor'] so that their product is even."
                )
        elif self.rope_parameters:
            raise ValueError(
                f"rope_parameters are given but position_embedding_type is {self.position_embedding_type!r}: "
                "set position_embedding_type='rope' or leave rope_parameters out."
            )
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"Sinusoidal positions fill pairs of coordinates: hidden_size ({self.hidden_size}) must be even."
            )
        if self.cross_attention_every is not None and self.cross_attention_every < 1:
            raise ValueError(
                f"cross_attention_every ({self.cross_attention_every}) counts layers: use 1 for a block before each layer."
            )
        if "sliding_attention" in self.layer_types and self.sliding_window is None:
            raise ValueError(
                "layer_types has 'sliding_attention' but sliding_window is None: set it to the window's tokens."
            )
        unknown = set(self.layer_types) - {"full_attention", "sliding_attention"}
        if unknown:
            raise ValueError(f"layer_types knows 'full_attention' and 'sliding_attention', not {sorted(unknown)}.")
        if self.parallel_residual and self.norm_placement == "post":
            raise ValueError("parallel_residual=True needs norm_placement='pre': both branches read the same input.")

    def validate_experts(self):
        if self.num_experts is None:
            for name in ("num_experts_per_tok", "mlp_layer_types", "output_router_logits"):
                if getattr(self, name):
                    raise ValueError(f"{name} is set but num_experts is None: set num_experts, or leave {name} out.")
            return
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) must lie between 1 and num_experts ({self.num_experts})."
            )
        if self.mlp_type != "gated" or self.mlp_bias:
            raise ValueError(
                "num_experts needs mlp_type='gated' and mlp_bias=False: experts are gated and have no bias."
            )
        if set(self.mlp_layer_types) - {"sparse", "dense"} or "sparse" not in self.mlp_layer_types:
            raise ValueError(
                f"mlp_layer_types knows 'sparse' and 'dense', and at least one 'sparse', not {self.mlp_layer_types}: "
                "name the layers that have experts, or leave num_experts out."
            )


@auto_docstring(checkpoint="mmgpt")
@strict
class MMGPTPatchConfig(PreTrainedConfig):
    r"""
    image_size (`int`, *optional*, defaults to 32):
        Largest height and width in pixels: one position vector is learned for each row and each column of patches.
    patch_size (`int`, *optional*, defaults to 4):
        Height and width of a patch in pixels; each patch becomes one vector (Fuyu, Bavishi et al. 2023).
    hidden_size (`int`, *optional*, defaults to 128):
        Width of a patch vector.
    """

    model_type = "mmgpt_patch"
    base_config_key = "vision_config"

    image_size: int = 32
    patch_size: int = 4
    num_channels: int = 3
    hidden_size: int = 128
    initializer_range: float = 0.02

    def validate_architecture(self):
        if not divides(self.patch_size, self.image_size):
            raise ValueError(f"patch_size ({self.patch_size}) must divide image_size ({self.image_size}).")


@auto_docstring(checkpoint="mmgpt")
@strict
class MMGPTFrameConfig(PreTrainedConfig):
    r"""
    num_mel_bins (`int`, *optional*, defaults to 80):
        Mel bands of the spectrogram, as the feature extractor makes them (its `feature_size`).
    frame_size (`int`, *optional*, defaults to 4):
        Consecutive mel frames that become one vector. At 10 ms a frame, 4 frames are 25 vectors a second.
    hidden_size (`int`, *optional*, defaults to 128):
        Width of a frame vector.
    """

    model_type = "mmgpt_frame"
    base_config_key = "audio_config"

    num_mel_bins: int = 80
    frame_size: int = 4
    hidden_size: int = 128
    initializer_range: float = 0.02


OWN_CONFIGS = {cls.model_type: cls for cls in (MMGPTTextConfig, MMGPTPatchConfig, MMGPTFrameConfig)}


# The connector of each encoder that merges neighbours.
MERGING = {"vision": "pixel_shuffle", "audio": "frame_stack"}


def build_sub_config(name: str, value: dict | PreTrainedConfig | None) -> PreTrainedConfig | None:
    """`value` as a config object: ours by `model_type` from this file, any other through transformers' registry."""
    if value is None or isinstance(value, PreTrainedConfig):
        return value
    model_type = value.get("model_type") or ("mmgpt_text" if name == "text_config" else None)
    if model_type in OWN_CONFIGS:
        return OWN_CONFIGS[model_type](**value)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has model_type={model_type!r}, which is neither one of {sorted(OWN_CONFIGS)} nor known to this "
            "transformers: set `model_type` to the kind of model it describes."
        )
    return CONFIG_MAPPING[model_type](**value)


@auto_docstring(checkpoint="mmgpt")
@strict
class MMGPTConfig(PipelinesMixin, PreTrainedConfig):
    r"""
    text_config (`dict` or `PreTrainedConfig`, *optional*):
        The decoder: an [`MMGPTTextConfig`], or the config of any causal decoder of transformers, which is then used unchanged.
    vision_config (`dict` or `PreTrainedConfig`, *optional*):
        The vision encoder: any of transformers' that `AutoModel` builds, or an [`MMGPTPatchConfig`]. `None`: the model takes no images.
    audio_config (`dict` or `PreTrainedConfig`, *optional*):
        The audio encoder: one of the families of tower_families_mmgpt.py (of Whisper the encoder is used), or an
        [`MMGPTFrameConfig`]. `None`: the model takes no audio.
    image_token_id (`int`, *optional*):
        Token that stands in `input_ids` once for each image feature. Needed with `vision_config`.
    audio_token_id (`int`, *optional*):
        The same for audio features. Needed with `audio_config`.
    video_token_id (`int`, *optional*):
        The same for the features of a video's frames, which the vision encoder makes. `None`: the model takes no videos.
    fusion (`str`, *optional*, defaults to `"interleave"`):
        How media reach the decoder. `"interleave"`: each feature takes the place of a placeholder token (LLaVA, Liu et al. 2023).
        `"cross_attention"`: one placeholder for each chunk of media (an image, a tile, a frame, a window of audio), to whose
        features the text attends through gated blocks in the decoder (Flamingo, Alayrac et al. 2022), one before every
        `text_config.cross_attention_every`-th layer (default 1). Needs our own decoder as `text_config`.
    cross_attention_scope (`str`, *optional*, defaults to `"all"`):
        With `"cross_attention"`: a token attends to `"all"` media whose placeholders stand at or before it, or to the `"last"` of them
        (Flamingo, section 2.3). Media with no text between them count as one.
    vision_connector (`str`, *optional*, defaults to `"mlp"`):
        From the encoder's width to the decoder's: `"linear"` (one matrix), `"mlp"` (two with GELU between: LLaVA-1.5, Liu et al. 2023),
        `"pixel_shuffle"` (neighbouring patches merged into one token, then mlp: Chen et al. 2024, InternVL-1.5), `"resampler"`
        (learned queries that attend to the features: always the same number of tokens; Flamingo, section 2.1).
    vision_merge_size (`int`, *optional*):
        With `"pixel_shuffle"`: side of the square of patches that becomes one token (default 2: a quarter of the tokens).
    vision_num_queries (`int`, *optional*):
        With `"resampler"`: tokens that each image, or tile of one, becomes (default 64).
    vision_feature_layer (`int`, *optional*, defaults to -1):
        Which of the encoder's hidden states goes to the connector: -1 is its final output, after its last norm.
    vision_max_tiles (`int`, *optional*):
        Large images are cut into up to so many tiles, each as large as the encoder's images, and an overview behind them (Chen et
        al. 2024, InternVL-1.5); learned vectors tell the decoder each tile's row and column. `None`: an image is encoded whole.
    bidirectional_images (`bool`, *optional*, defaults to `False`):
        The tokens of an image attend to one another in both directions, those of text only backwards (PaliGemma, Beyer et al. 2024;
        Gemma 3). Images with no text between them count as one. Needs our own decoder as `text_config`.
    audio_connector (`str`, *optional*, defaults to `"mlp"`):
        `"linear"`, `"mlp"`, `"frame_stack"` (consecutive frames merged into one token, then mlp), or `"resampler"`.
    audio_merge_size (`int`, *optional*):
        With `"frame_stack"`: number of consecutive vectors of the encoder that become one token (default 2).
    audio_num_queries (`int`, *optional*):
        With `"resampler"`: tokens that each audio clip, or window of one, becomes (default 64).
    lm_head_bias (`bool`, *optional*):
        The b of softmax(W h + b). `None` follows a decoder of ours; a decoder of another family has it where its own head has one.
    """

    model_type = "mmgpt"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig, "audio_config": AutoConfig}
    keys_to_ignore_at_inference = [
        "past_key_values",
        "cache",
        "image_hidden_states",
        "audio_hidden_states",
        "video_hidden_states",
        "image_outputs",
        "audio_outputs",
        "video_outputs",
    ]
    _auto_class = "AutoConfig"

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    image_token_id: int | None = None
    audio_token_id: int | None = None
    video_token_id: int | None = None
    fusion: Literal["interleave", "cross_attention"] = "interleave"
    cross_attention_scope: Literal["all", "last"] = "all"
    vision_connector: Literal["linear", "mlp", "pixel_shuffle", "resampler"] = "mlp"
    vision_merge_size: int | None = None
    vision_num_queries: int | None = None
    vision_feature_layer: int = -1
    vision_max_tiles: int | None = None
    bidirectional_images: bool = False
    audio_connector: Literal["linear", "mlp", "frame_stack", "resampler"] = "mlp"
    audio_merge_size: int | None = None
    audio_num_queries: int | None = None
    lm_head_bias: bool | None = None
    tie_word_embeddings: bool | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        self.text_config = build_sub_config("text_config", {} if self.text_config is None else self.text_config)
        self.vision_config = build_sub_config("vision_config", self.vision_config)
        self.audio_config = build_sub_config("audio_config", self.audio_config)
        for tower, merging in MERGING.items():
            connector = getattr(self, f"{tower}_connector")
            if getattr(self, f"{tower}_merge_size") is None:
                setattr(self, f"{tower}_merge_size", 2 if connector == merging else 1)
            if getattr(self, f"{tower}_num_queries") is None and connector == "resampler":
                setattr(self, f"{tower}_num_queries", 64)
        is_ours = self.text_config.model_type == "mmgpt_text"
        if self.fusion == "cross_attention" and is_ours and self.text_config.cross_attention_every is None:
            text = {**self.text_config.to_dict(), "cross_attention_every": 1}
            self.text_config = build_sub_config("text_config", text)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
        if self.lm_head_bias is None:
            self.lm_head_bias = self.text_config.model_type == "mmgpt_text" and self.text_config.lm_head_bias
        if self.audio_config is not None and not hasattr(self.audio_config, "max_source_positions"):
            # vLLM reserves memory for the longest audio by the attribute that Whisper's config has. Encoders without a limit take
            # what the decoder can hold; where that has none either, as much as a common decoder.
            self.audio_config.max_source_positions = getattr(self.text_config, "max_position_embeddings", 4096)
        super().__post_init__(**kwargs)
        self.auto_map = {**AUTO_MAP, **(getattr(self, "auto_map", None) or {})}

    @property
    def num_hidden_layers(self) -> int:
        """The decoder's: transformers sets fewer while a draft exits early (`assistant_early_exit`)."""
        return self.text_config.num_hidden_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int):
        self.text_config.num_hidden_layers = value

    @property
    def is_mm_prefix_lm(self) -> bool:
        """vLLM's name for `bidirectional_images` (ModelArchConfig): it makes the masks for its attention kernels itself."""
        return self.bidirectional_images

    def validate_architecture(self):
        """Refuses encoders whose features no token stands for. `strict` runs each `validate_` method, in the order of their names."""
        for tower, token in (("vision_config", "image_token_id"), ("audio_config", "audio_token_id")):
            if getattr(self, tower) is not None and getattr(self, token) is None:
                raise ValueError(f"{tower} is set but {token} is None: name the token that stands for its features.")

    def validate_connectors(self):
        for tower, merging in MERGING.items():
            connector, merge_size = getattr(self, f"{tower}_connector"), getattr(self, f"{tower}_merge_size")
            if (connector == merging) != (merge_size > 1):
                raise ValueError(
                    f"{tower}_merge_size={merge_size} does not go with {tower}_connector={connector!r}: "
                    f"{merging!r} merges 2 or more, the others 1."
                )
            num_queries = getattr(self, f"{tower}_num_queries")
            if (connector == "resampler") != (num_queries is not None and num_queries > 0):
                raise ValueError(
                    f"{tower}_num_queries={num_queries} does not go with {tower}_connector={connector!r}: a resampler has at "
                    "least one query, the others have none."
                )

    def validate_vision(self):
        """Refuses tiles, layers and merges that the family of the vision encoder does not allow."""
        tower, tiles = self.vision_config, self.vision_max_tiles
        family = None if tower is None else vision_family(tower)
        if tiles is not None and (tiles < 1 or family is None or family.image_size is None):
            raise ValueError(
                f"vision_max_tiles={tiles} needs a vision_config with an image_size, and at least 1 tile: leave it out where the "
                "vision encoder takes any size."
            )
        if family is None:
            return
        if self.vision_feature_layer != -1 and family.convolutional:
            raise ValueError(
                f"vision_feature_layer={self.vision_feature_layer}: the stages of a {tower.model_type!r} encoder differ in size, and "
                "only the last one fits the connector: use -1."
            )
        if family.sizes == "any":
            return
        image_size, patch_size = family.image_size(tower), image_geometry(self)["patch_size"]
        patches = image_size // patch_size
        if not divides(self.vision_merge_size, patches):
            raise ValueError(
                f"vision_merge_size ({self.vision_merge_size}) must divide the {patches} patches along a side of the image "
                f"(image_size {image_size} / patch_size {patch_size})."
            )

    def validate_fusion(self):
        is_ours = self.text_config.model_type == "mmgpt_text"
        if self.bidirectional_images and (self.vision_config is None or not is_ours):
            raise ValueError(
                "bidirectional_images=True needs a vision_config, and text_config of model_type 'mmgpt_text'."
            )
        if self.fusion == "cross_attention" and not is_ours:
            raise ValueError(
                f"fusion='cross_attention' puts blocks into the decoder, and a {self.text_config.model_type!r} decoder is used as it "
                "is: convert its checkpoint to ours first (`mmgpt convert`), or use fusion='interleave'."
            )
        if self.fusion == "cross_attention" and self.bidirectional_images:
            raise ValueError(
                "bidirectional_images=True needs fusion='interleave': with cross-attention an image is one token of the text."
            )
        if self.fusion == "interleave" and is_ours and self.text_config.cross_attention_every is not None:
            raise ValueError(
                f"text_config.cross_attention_every={self.text_config.cross_attention_every} needs fusion='cross_attention': "
                "interleaved media never reach the gated blocks."
            )
        if self.fusion == "interleave" and self.cross_attention_scope != "all":
            raise ValueError(f"cross_attention_scope={self.cross_attention_scope!r} needs fusion='cross_attention'.")


# `transformers serve` decides by this table, which AutoModel.register does not fill, that a model takes images and audio; what has a
# tokenizer and no processor is a text model to it all the same. Models that are not in it must be transformers' own.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.setdefault("mmgpt", "MMGPTForConditionalGeneration")
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.setdefault("mmgpt_text", "MMGPTForCausalLM")

__all__ = ["MMGPTConfig", "MMGPTFrameConfig", "MMGPTPatchConfig", "MMGPTTextConfig"]
