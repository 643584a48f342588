"""The fusion: encoders -> connectors -> decoder -> head.

pixel_values, pixel_values_videos -> vision_tower -> vision_connector --+
                                                                        |  each feature takes the place of its
input_features                    -> audio_tower  -> audio_connector  --+  placeholder token, in order
                                                                        v
input_ids                         -> embed_tokens -------------> inputs_embeds -> language_model -> lm_head

With fusion="cross_attention" the features stay beside the text, one placeholder stands for each chunk of them, and gated blocks inside
the language model attend to them (cross_attention_mmgpt.py).

A chunk is what an encoder takes one of: an image or a tile, a frame of a video, a window of audio.

Shapes: B batch, L tokens, D width, V vocabulary; N chunks of a modality in the whole batch, in the order of their placeholders, T vectors
of a chunk, C width of the encoder.
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple, torch_compilable_check

from .configuration_mmgpt import MMGPTConfig
from .connectors_mmgpt import (
    MMGPTResampler,
    MMGPTTileEmbedding,
    build_connector,
    merge_frames,
    merge_native_patches,
    merge_patches,
)
from .cross_attention_mmgpt import MMGPTMedia, cached_media, gather_media, no_media
from .layers_mmgpt import CACHE, CHUNKED_PREFILL_TAKES_MEDIA, add_balancing_loss, takes_cache, true_first
from .media_features_mmgpt import (
    AUDIO_ARGS,
    CHUNK_COUNTS,
    EMBEDS,
    IMAGE_ARGS,
    MEDIA_ARGS,
    MEDIA_ARGUMENTS,
    MEDIA_INPUTS,
    VIDEO_ARGS,
    MediaCache,
    MMGPTCausalLMOutputWithPast,
    MMGPTMediaOutput,
    MMGPTModelOutputWithPast,
    pad_chunks,
    repeat_pieces,
    split_given,
    split_media,
)
from .modeling_mmgpt_text import (
    CACHE_ARGS,
    DecoderSupport,
    MMGPTGenerationMixin,
    MMGPTTextModel,
    keep_labelled,
    keep_last,
)
from .token_counts_mmgpt import (
    audio_geometry,
    audio_token_count,
    full_chunk_vectors,
    grid_token_count,
    tiles_per_image,
)
from .tower_families_mmgpt import audio_family, vision_family
from .towers_mmgpt import (
    build_tower,
    cut_patches,
    run_audio_tower,
    run_vision_tower,
    smallest_audio,
    smallest_image,
)
from .vllm_mmgpt import part_windows, refuse_in_engines, runs_in_vllm


@auto_docstring
class MMGPTPreTrainedModel(DecoderSupport, PreTrainedModel):
    config: MMGPTConfig
    input_modalities = ("image", "video", "audio", "text")

    def post_init(self):
        super().post_init()
        # transformers adds the classes that the encoders name, and accelerate's FSDP refuses one that no module is of: SigLIP names
        # the pooling head, which is left out, and parts of its text model.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = {name for name in self._no_split_modules if name in present}

    def initialize_weights(self):
        """Initialises each part by its own rules. Called as a part of remote code, transformers passes over modules that own no parameters,
        and so over what an encoder initialises there: SigLIP's attention, Whisper's table of positions."""
        for part in self.children():
            if isinstance(part, PreTrainedModel):
                part.initialize_weights()
        super().initialize_weights()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, MMGPTTileEmbedding):
            init.zeros_(module.row)
            init.zeros_(module.column)
        elif isinstance(module, MMGPTResampler):
            init.normal_(module.queries, mean=0.0, std=self.config.get_text_config().initializer_range)


@auto_docstring(custom_intro="Text, images, videos and audio in, hidden states of the decoder out.")
class MMGPTModel(MMGPTPreTrainedModel):
    def __init__(self, config: MMGPTConfig):
        super().__init__(config)
        refuse_in_engines(config)
        text, vision, audio = config.text_config, config.vision_config, config.audio_config
        # Parts that the model has not are None.
        self.vision_tower = self.vision_connector = self.tile_embedding = None
        self.audio_tower = self.audio_connector = None
        if vision is not None:
            family = vision_family(vision)
            self.patch_size, self.takes_only_patches = family.patch_size(vision), not family.pixels
            self.vision_tower = build_tower(vision)
            self.vision_connector = build_connector(config, "vision", family.width(vision))
            if config.vision_max_tiles is not None:
                self.tile_embedding = MMGPTTileEmbedding(config.vision_max_tiles, text.hidden_size)
        if audio is not None:
            self.audio_tower = build_tower(audio)
            self.audio_connector = build_connector(config, "audio", audio_family(audio).width(audio))
        # Decoders of other families are taken unchanged.
        is_ours = text.model_type == "mmgpt_text"
        self.language_model = MMGPTTextModel._from_config(text) if is_ours else AutoModel.from_config(text)
        self.cached_features: MediaCache | None = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    @contextmanager
    def media_cache(self, max_items: int = 32):
        """While this is open, images and audio that come again are not encoded again: each is found by its content.

        For conversations, which send all their media at every turn. Every pixel is looked at on the host, so it costs more than it saves
        where nothing comes twice. Training and calls with gradients do not use it.

        Args:
            max_items: images, tiles, frames and windows of audio whose features are kept; those not used for longest are dropped.
        """
        before, self.cached_features = self.cached_features, MediaCache(max_items)
        try:
            yield self.cached_features
        finally:
            self.cached_features = before

    def encode_images(self, pixel_values, tile_positions=None, spatial_shapes=None, **kwargs) -> MMGPTMediaOutput:
        """Vision encoder and connector on the chunks of images or videos. On a cache hit both are skipped."""
        if self.config.vision_config is None:
            raise ValueError("The model has no vision encoder, but pixel_values were given: leave the images out.")
        inputs = {"pixel_values": pixel_values, "tile_positions": tile_positions, "spatial_shapes": spatial_shapes}
        if self.cached_features is None or self.training or torch.is_grad_enabled():
            return self.run_vision(**inputs, **kwargs)
        return self.cached_features.look_up(inputs, partial(self.run_vision, **kwargs))

    def run_vision(self, pixel_values, tile_positions=None, spatial_shapes=None, **kwargs) -> MMGPTMediaOutput:
        config = self.config
        layer, merge_size = config.vision_feature_layer, config.vision_merge_size
        shows_states = kwargs.get("output_hidden_states")
        if shows_states is None:
            shows_states = config.vision_config.output_hidden_states
        if layer != -1:
            kwargs["output_hidden_states"] = True  # needed here, but shown only to who asked for them
        if spatial_shapes is None and self.takes_only_patches:
            pixel_values, spatial_shapes = cut_patches(pixel_values, self.patch_size)
        outputs = run_vision_tower(self.vision_tower, pixel_values, spatial_shapes, return_dict=True, **kwargs)
        last = features = outputs.last_hidden_state  # (N, T, C)
        if layer != -1:
            features = outputs.hidden_states[layer]
            last = last.detach()  # DistributedDataParallel waits for the gradients of whatever outputs lead to

        is_real = None
        if spatial_shapes is None:  # images of one size
            grid = pixel_values.shape[-2] // self.patch_size, pixel_values.shape[-1] // self.patch_size
            features = features[:, -grid[0] * grid[1] :]  # class and register tokens stand before the patches
            if merge_size > 1:
                features = merge_patches(features, grid, merge_size)
        else:
            if merge_size > 1:
                features = merge_native_patches(features, spatial_shapes, merge_size)
            counts = grid_token_count(*spatial_shapes.unbind(-1), merge_size)  # (N,)
            is_real = torch.arange(features.shape[1], device=counts.device) < counts[:, None]  # (N, T)
        features = self.vision_connector(features, is_real)  # (N, T or queries, D)
        if self.tile_embedding is not None:
            features = self.tile_embedding(features, tile_positions)
        has_padding = is_real is not None and config.vision_num_queries is None  # queries are none of padding
        return MMGPTMediaOutput(
            last_hidden_state=last,
            pooler_output=features,
            hidden_states=outputs.get("hidden_states") if shows_states else None,
            attentions=outputs.get("attentions"),
            attention_mask=is_real.long() if has_padding else None,
        )

    def encode_audio(self, input_features, input_features_mask=None, **kwargs) -> MMGPTMediaOutput:
        """Audio encoder and connector on windows of audio. On a cache hit both are skipped."""
        if self.config.audio_config is None:
            raise ValueError("The model has no audio encoder, but input_features were given: leave the audio out.")
        inputs = {"input_features": input_features, "input_features_mask": input_features_mask}
        if self.cached_features is None or self.training or torch.is_grad_enabled():
            return self.run_audio(**inputs, **kwargs)
        return self.cached_features.look_up(inputs, partial(self.run_audio, **kwargs))

    def run_audio(self, input_features, input_features_mask=None, **kwargs) -> MMGPTMediaOutput:
        outputs = run_audio_tower(self.audio_tower, input_features, input_features_mask, return_dict=True, **kwargs)
        features = outputs.last_hidden_state  # (N, T, C)
        if self.config.audio_merge_size > 1:
            features = merge_frames(features, self.config.audio_merge_size)
        if input_features_mask is None:
            input_features_mask = input_features.new_ones(input_features.shape[0], input_features.shape[-1])
        geometry = audio_geometry(self.config)
        lengths = input_features_mask.long().sum(-1)
        counts = audio_token_count(lengths, geometry["convolutions"], geometry["merge_size"])  # (N,)
        is_real = torch.arange(features.shape[1], device=counts.device) < counts[:, None]  # (N, T)
        return MMGPTMediaOutput(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=self.audio_connector(features, is_real),  # (N, T or queries, D)
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            attention_mask=is_real.long() if self.config.audio_num_queries is None else None,
        )

    def take_embeds(self, embeds, kind: str, media: torch.Tensor | None) -> MMGPTMediaOutput:
        """Features that were encoded before, as the encoder returns them. The media that they stand for must not be given as well."""
        if media is not None:
            name, given = MEDIA_INPUTS[kind][0], EMBEDS.get(kind, "mm_encoder_outputs")
            raise ValueError(f"Give the model {name} or {given}, their features, and not both.")
        # Padded as the encoder pads, so that sums run over as many terms and have the same bits.
        length = full_chunk_vectors(self.config, kind)
        return pad_chunks(split_given(embeds, length), length)

    def take_pieces(self, arguments: dict, kind: str) -> tuple[torch.Tensor, ...] | None:
        """The features of one kind of media, which is taken out of the arguments of `generate()` and encoded if it is not, in pieces that
        each belong to one sample: `(tokens, D)` of a medium or a chunk, or each vector of features that came as one tensor."""
        given, embeds = (arguments.get("mm_encoder_outputs") or {}).get(kind), arguments.pop(EMBEDS.get(kind), None)
        inputs = [arguments.pop(name, None) for name in MEDIA_INPUTS[kind]]
        if given is not None:  # by the caller, or by transformers, from pixels
            media = self.take_embeds(given.pooler_output, kind, inputs[0] if embeds is None else embeds)
        elif embeds is not None:
            is_one_piece = isinstance(embeds, torch.Tensor) and embeds.ndim == 2
            embeds = embeds.split(1) if is_one_piece and self.config.fusion == "interleave" else embeds
            media = self.take_embeds(embeds, kind, inputs[0])
        elif inputs[0] is None:
            return None
        else:
            media = self.encode_audio(*inputs) if kind == "audio" else self.encode_images(*inputs)
        return split_media(media, None).pooler_output

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes images: `pooler_output` holds one `(tokens, hidden_size)` tensor for each image.",
        custom_args=IMAGE_ARGS,
    )
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        tile_positions: torch.LongTensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        media = self.encode_images(pixel_values, tile_positions, spatial_shapes, **kwargs)
        return split_media(media, None if tile_positions is None else tiles_per_image(tile_positions))

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes videos: `pooler_output` holds one `(tokens, hidden_size)` tensor for each video.",
        custom_args=VIDEO_ARGS,
    )
    def get_video_features(
        self,
        pixel_values_videos: torch.FloatTensor,
        num_frames_per_video: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        kwargs.pop("video_grid_thw", None)  # vLLM splits the frames by it
        return split_media(self.encode_images(pixel_values_videos, **kwargs), num_frames_per_video)

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes audio: `pooler_output` holds one `(tokens, hidden_size)` tensor for each audio clip.",
        custom_args=AUDIO_ARGS,
    )
    def get_audio_features(
        self,
        input_features: torch.FloatTensor,
        input_features_mask: torch.Tensor | None = None,
        audio_windows: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        if not runs_in_vllm(self.config):
            return split_media(self.encode_audio(input_features, input_features_mask, **kwargs), audio_windows)
        windows, mask, audio_windows = part_windows(self.config, input_features, input_features_mask, audio_windows)
        found = split_media(self.encode_audio(windows, mask, **kwargs), audio_windows)
        found.pooler_output = torch.cat(found.pooler_output)  # vLLM splits it by its own counts
        return found

    def placeholder_mask(self, input_ids, inputs_embeds, token_id: int) -> torch.Tensor:
        if input_ids is not None:
            return input_ids == token_id  # (B, L)
        # Only embeddings were given: a placeholder is known by its own.
        placeholder = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(placeholder)).all(-1)

    def interleave(self, inputs_embeds, is_placeholder, features, num_features, kind: str) -> torch.Tensor:
        """Fusion in the sequence: the first `num_features` of `features` `(N * T, D)` take the places of the placeholders, in order."""
        check_counts(is_placeholder, num_features, kind, "features")
        return inputs_embeds.masked_scatter(is_placeholder[..., None], features.to(inputs_embeds.dtype))

    def lay_beside_text(
        self, encoded: dict, masks: dict, inputs_embeds, position_ids, past_key_values
    ) -> MMGPTMedia | None:
        """Fusion by cross-attention: all chunks beside the text, as the gated blocks of the decoder take them."""
        for kind, outputs in encoded.items():
            check_counts(masks[kind], outputs.pooler_output.shape[0], kind, "chunks")
        if encoded:
            parts = [(masks[kind], outputs) for kind, outputs in encoded.items()]
            scope = self.config.cross_attention_scope
            return gather_media(parts, position_ids, cached_media(past_key_values), scope)
        return no_media(inputs_embeds) if self.training and trains_distributed(self.language_model) else None

    def feed_idle_encoders(self, inputs_embeds, has_images: bool, has_audio: bool) -> torch.Tensor:
        """In distributed training, the smallest input for an encoder without media in this batch, whose features count with weight zero.

        Other processes may have media for it: DistributedDataParallel would fail and FSDP and ZeRO-3 would hang, waiting for its
        gradients (DeepSpeed#7170, trl#6617)."""
        idle = []
        if not has_images and trains_distributed(self.vision_tower, self.vision_connector, self.tile_embedding):
            idle.append(self.encode_images(inputs_embeds.new_zeros(smallest_image(self.config))))
        if not has_audio and trains_distributed(self.audio_tower, self.audio_connector):
            idle.append(self.encode_audio(inputs_embeds.new_zeros(smallest_audio(self.config))))
        for media in idle:
            inputs_embeds = inputs_embeds + 0.0 * media.pooler_output.mean().to(inputs_embeds.dtype)
        return inputs_embeds

    def image_blocks(self, is_image: torch.Tensor, past_key_values: Cache | None) -> torch.Tensor:
        """A number for each run of image tokens, -1 for all others and for what is cached: `(batch, cached + new)`."""
        if "flash" in self.config.text_config._attn_implementation:
            raise ValueError("bidirectional_images needs attn_implementation 'sdpa', 'eager' or 'flex_attention'.")
        is_start = is_image & ~nn.functional.pad(is_image, (1, 0))[:, :-1]
        blocks = torch.where(is_image, is_start.cumsum(-1) - 1, -1)  # (B, L)
        if past_key_values is None:
            return blocks
        length, past_length, is_sliding = blocks.shape[1], past_key_values.get_seq_length(), past_key_values.is_sliding
        if isinstance(past_length, int) or all(is_sliding):
            return nn.functional.pad(blocks, (int(past_length), 0), value=-1)
        # A static cache counts on the device; its full size is known here, so the host need not wait for a number.
        size = past_key_values.get_mask_sizes(length, is_sliding.index(False))[0]
        places = torch.arange(length, device=blocks.device) + past_length
        return blocks.new_full((blocks.shape[0], size), -1).index_copy(1, places, blocks)

    @takes_cache
    @can_return_tuple
    @auto_docstring(custom_args=CACHE_ARGS + MEDIA_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        tile_positions: torch.LongTensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        num_frames_per_video: torch.LongTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        audio_windows: torch.LongTensor | None = None,
        image_embeds: torch.FloatTensor | list[torch.FloatTensor] | tuple[torch.FloatTensor, ...] | None = None,
        audio_embeds: torch.FloatTensor | list[torch.FloatTensor] | tuple[torch.FloatTensor, ...] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMGPTModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the model exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)  # (B, L, D)
        config = self.config
        interleaves = config.fusion == "interleave"
        # generate() encodes the media of a prompt before it calls the model.
        given = {kind: media.pooler_output for kind, media in (mm_encoder_outputs or {}).items() if media is not None}
        image_embeds, audio_embeds = given.get("image", image_embeds), given.get("audio", audio_embeds)
        video_embeds = given.get("video")
        # The encoders return their states and attentions where the decoder does.
        shown = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if name in kwargs}
        if self.training:  # other processes may have media for an encoder that has none here
            has_images = pixel_values is not None or pixel_values_videos is not None
            inputs_embeds = self.feed_idle_encoders(inputs_embeds, has_images, input_features is not None)

        encoded = {}
        # Images: whole ones, tiles, or patches of images of any shape.
        if image_embeds is not None:
            encoded["image"] = self.take_embeds(image_embeds, "image", pixel_values)
        elif pixel_values is not None:
            encoded["image"] = self.encode_images(pixel_values, tile_positions, spatial_shapes, **shown)
        # Videos: each frame is an image.
        if video_embeds is not None:
            encoded["video"] = self.take_embeds(video_embeds, "video", pixel_values_videos)
        elif pixel_values_videos is not None:
            encoded["video"] = self.encode_images(pixel_values_videos, **shown)
        # Audio, in windows.
        if audio_embeds is not None:
            encoded["audio"] = self.take_embeds(audio_embeds, "audio", input_features)
        elif input_features is not None:
            encoded["audio"] = self.encode_audio(input_features, input_features_mask, **shown)

        masks, features = {}, {}
        for kind, outputs in encoded.items():
            token_id = getattr(config, f"{kind}_token_id")
            masks[kind] = self.placeholder_mask(input_ids, inputs_embeds, token_id)  # (B, L)
            features[kind], count = real_first(outputs)  # (N * T, D)
            if interleaves:
                inputs_embeds = self.interleave(inputs_embeds, masks[kind], features[kind], count, kind)
        if not interleaves:
            kwargs["media"] = self.lay_beside_text(encoded, masks, inputs_embeds, position_ids, past_key_values)
        # Frames of videos are images too: each run of them attends in both directions.
        if config.bidirectional_images and (images := [masks[kind] for kind in masks if kind != "audio"]):
            kwargs["block_sequence_ids"] = self.image_blocks(torch.stack(images).any(0), past_key_values)

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE: past_key_values},
            **kwargs,
        )
        return MMGPTModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE: outputs.get(CACHE)},  # GPT-1 keeps none
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.get("router_logits"),
            image_hidden_states=features.get("image"),
            audio_hidden_states=features.get("audio"),
            video_hidden_states=features.get("video"),
            image_outputs=encoded.get("image"),
            audio_outputs=encoded.get("audio"),
            video_outputs=encoded.get("video"),
        )


def real_first(media: MMGPTMediaOutput) -> tuple[torch.Tensor, int | torch.Tensor]:
    """All features `(N * T, D)`, those of media first, in their order, and padding last; and how many are of media.

    That number stays on the device."""
    features = media.pooler_output.flatten(0, 1)
    if media.attention_mask is None:
        return features, features.shape[0]
    is_real = media.attention_mask.bool()
    return features[true_first(is_real)], is_real.sum()


def check_counts(is_placeholder: torch.Tensor, given, kind: str, unit: str) -> None:
    num_placeholders = is_placeholder.sum()
    torch_compilable_check(
        num_placeholders == given,
        lambda: (
            f"The text has {int(num_placeholders)} {kind} tokens but the {kind} inputs yield {int(given)} {unit} "
            f"(in each sample: {is_placeholder.sum(-1).tolist()} {kind} tokens). Let the processor place them, "
            "do not truncate its output, and give no media again that a cache holds."
        ),
    )


def trains_distributed(*parts: nn.Module | None) -> bool:
    """Whether gradients of `parts` are about to be computed here and gathered from other processes."""
    distributed = torch.distributed
    return (
        torch.is_grad_enabled()
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
        and any(parameter.requires_grad for part in parts if part is not None for parameter in part.parameters())
    )


def media_tokens(config: MMGPTConfig) -> dict[str, int]:
    """The placeholder of each kind of media that the model has one for."""
    tokens = {kind: getattr(config, f"{kind}_token_id") for kind in ("image", "video", "audio")}
    return {kind: token for kind, token in tokens.items() if token is not None}


def finish_logits(logits: torch.Tensor, config) -> torch.Tensor:
    """What decoders of some other families do to the logits after the head."""
    if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (bound := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = nn.functional.tanh(logits / bound) * bound
    return logits


HEAD_ARGS = r"""
skip_logits (`bool`, *optional*, defaults to `False`):
    With `labels`: compute the loss alone, from the logits of the labelled tokens, and return no logits. Prompts, media and padding then
    cost no time or memory in the head.
"""


@auto_docstring(custom_intro="MMGPT with its language-modelling head: text, images, videos and audio in, text out.")
class MMGPTForConditionalGeneration(MMGPTPreTrainedModel, MMGPTGenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MMGPTConfig):
        super().__init__(config)
        self.model = MMGPTModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=config.lm_head_bias)
        # Which parameter a tied head shares, under the decoder's own name for it.
        embeddings = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        # A placeholder in an answer would stand for no media. What is saved with the checkpoint may say otherwise.
        self.generation_config.suppress_tokens = list(media_tokens(config).values()) or None
        self.post_init()
        # Tensor parallelism cuts head and embeddings that are one parameter alike; a decoder without a plan is not cut at all.
        if "lm_head.weight" in self.all_tied_weights_keys and name not in self._tp_plan:
            if text.base_model_tp_plan:
                self._tp_plan = {**self._tp_plan, name: "embedding_rowwise"}
            else:
                self._tp_plan = {key: cut for key, cut in self._tp_plan.items() if "lm_head" not in key}

    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs):
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_video_features(self, pixel_values_videos: torch.FloatTensor, **kwargs):
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    def get_audio_features(self, input_features: torch.FloatTensor, input_features_mask=None, **kwargs):
        return self.model.get_audio_features(input_features, input_features_mask, **kwargs)

    def media_cache(self, max_items: int = 32):
        """See [`MMGPTModel.media_cache`]."""
        return self.model.media_cache(max_items)

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        if is_first_iteration and kwargs.get("next_sequence_length") is not None and kwargs.get("mm_encoder_outputs"):
            self.refuse_cached_media(input_ids, kwargs["next_sequence_length"], kwargs["mm_encoder_outputs"])
        # Media go in with the prompt only. transformers drops pixel_values and input_features after the first step, but not features
        # under our own names, nor mm_encoder_outputs before 5.18.
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in ("mm_encoder_outputs", *EMBEDS.values()):
                kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )

    def refuse_cached_media(self, input_ids: torch.Tensor, num_new: int, encoded: dict) -> None:
        """For a prompt of which only the last `num_new` tokens are not in the cache."""
        for kind, media in encoded.items():
            is_placeholder = input_ids == media_tokens(self.config)[kind]  # (B, cached + new)
            given = sum(len(one) if self.config.fusion == "interleave" else 1 for one in media.pooler_output)
            total, new = int(is_placeholder.sum()), int(is_placeholder[:, -num_new:].sum())
            if given == total != new:
                raise ValueError(
                    f"The cache already holds {total - new} of the {total} {kind} tokens of this prompt, and their media were given again: "
                    f"give generate() the media of the last {num_new} tokens alone."
                )

    def _supports_mm_encoder_outputs(self) -> bool:
        """Whether `generate()` encodes images and videos before it reads the prompt (transformers 5.18 and later). It expects a placeholder
        for each feature, which cross-attention does not have."""
        return self.config.fusion == "interleave"

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Encodes the media of a prompt, once: for beams and several answers the features are repeated with the samples that they belong to.

        transformers from 5.18 on has encoded images and videos before. It repeats tensors entry by entry, which is right only with one
        chunk in each sample, and before 5.24 no audio."""
        has_ids = input_ids is not None and input_ids.shape[1] > 0
        embeds, encoded = model_kwargs.get("inputs_embeds"), {}
        for kind, token in media_tokens(self.config).items():
            if pieces := self.model.take_pieces(model_kwargs, kind):
                if expand_size > 1:
                    mask = self.model.placeholder_mask(input_ids if has_ids else None, embeds, token)
                    sizes = [len(one) if self.config.fusion == "interleave" else 1 for one in pieces]
                    pieces = repeat_pieces(pieces, sizes, mask.sum(-1), expand_size)
                encoded[kind] = BaseModelOutputWithPooling(pooler_output=pieces)
        for name in ("mm_encoder_outputs", *CHUNK_COUNTS.values()):
            model_kwargs.pop(name, None)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, "mm_encoder_outputs": encoded} if encoded else model_kwargs

    def _get_candidate_generator(self, *, model_kwargs, **kwargs):
        """Assisted decoding: an assistant drafts from the text alone, for it may have no encoders, or others than this model."""
        text = {name: value for name, value in model_kwargs.items() if name not in MEDIA_ARGUMENTS}
        return super()._get_candidate_generator(model_kwargs=text, **kwargs)

    def _prefill(self, input_ids, generation_config, model_kwargs, *args, **kwargs):
        """Refuses `prefill_chunk_size` for a prompt with media where its chunks would not get theirs."""
        reason = None
        if self.config.fusion == "cross_attention":
            reason = "fusion='cross_attention' keeps media beside the text"
        elif self.config.bidirectional_images:
            reason = "bidirectional_images needs whole images"
        elif not CHUNKED_PREFILL_TAKES_MEDIA:
            reason = "transformers before 5.23 loses media"
        if generation_config.prefill_chunk_size is not None and reason is not None:
            media = [model_kwargs.get(name) for name in MEDIA_ARGUMENTS]
            if any(one is not None and len(one) for one in media):
                raise ValueError(f"prefill_chunk_size cannot cut a prompt with media here: {reason}. Leave it out.")
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)

    def generate_batch(self, inputs, *args, **kwargs):
        """Continuous batching, of text alone: transformers hands no media on."""
        media = {name for name in MEDIA_ARGUMENTS if kwargs.get(name) is not None}
        for kind, token in media_tokens(self.config).items():
            if any(token in torch.as_tensor(ids) for ids in inputs):
                media.add(f"{kind} tokens")
        if media:
            raise ValueError(
                f"generate_batch() takes text alone, but got {', '.join(sorted(media))}: call generate()."
            )
        return super().generate_batch(inputs, *args, **kwargs)

    def _get_stopping_criteria(self, *args, tokenizer=None, **kwargs):
        """`transformers serve` passes the processor in place of the tokenizer, which stop strings are looked up in."""
        return super()._get_stopping_criteria(*args, tokenizer=getattr(tokenizer, "tokenizer", tokenizer), **kwargs)

    @staticmethod
    def create_masks_for_generate(config, attention_mask, is_first_iteration=False, **kwargs):
        if config.bidirectional_images and is_first_iteration:
            return attention_mask  # forward knows which tokens are images, and makes the masks of the prompt
        return create_masks_for_generate(config=config, attention_mask=attention_mask, **kwargs)

    @takes_cache
    @can_return_tuple
    @auto_docstring(custom_args=CACHE_ARGS + MEDIA_ARGS + HEAD_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        tile_positions: torch.LongTensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        num_frames_per_video: torch.LongTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        audio_windows: torch.LongTensor | None = None,
        image_embeds: torch.FloatTensor | list[torch.FloatTensor] | tuple[torch.FloatTensor, ...] | None = None,
        audio_embeds: torch.FloatTensor | list[torch.FloatTensor] | tuple[torch.FloatTensor, ...] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMGPTCausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            tile_positions=tile_positions,
            spatial_shapes=spatial_shapes,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            input_features_mask=input_features_mask,
            image_embeds=image_embeds,
            audio_embeds=audio_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: past_key_values},
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        text = self.config.text_config
        hidden_states = keep_last(outputs.last_hidden_state, logits_to_keep)
        skip_logits = skip_logits and labels is not None
        if skip_logits:
            hidden_states, kwargs["shift_labels"] = keep_labelled(hidden_states, labels, kwargs.get("shift_labels"))
        logits = finish_logits(self.lm_head(hidden_states), text)  # (B, L or kept, V), or (labelled tokens, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=text.vocab_size, **kwargs)
        # Other families' routers have other settings: their loss stays without a balance.
        router_logits = outputs.router_logits if text.model_type == "mmgpt_text" else None
        loss, aux_loss = add_balancing_loss(loss, router_logits, text, attention_mask, labels, **kwargs)
        passed_on = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        logits = None if skip_logits else logits
        return MMGPTCausalLMOutputWithPast(loss=loss, aux_loss=aux_loss, logits=logits, **passed_on)


__all__ = ["MMGPTForConditionalGeneration", "MMGPTModel", "MMGPTPreTrainedModel"]
