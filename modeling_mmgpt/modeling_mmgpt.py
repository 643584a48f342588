"""The fusion, told on one screen: towers -> connectors -> decoder -> head.

pixel_values, pixel_values_videos -> vision_tower -> vision_connector --+
                                                                        |  each feature takes the place of its
input_features                    -> audio_tower  -> audio_connector  --+  placeholder token, in order
                                                                        v
input_ids                         -> embed_tokens -------------> inputs_embeds -> language_model -> lm_head

With fusion="cross_attention" the features stay beside the text, one placeholder stands for each row of them, and gated blocks inside
the language model look at them (cross_attention_mmgpt.py).

Shapes: B batch, L tokens, D width, V vocabulary; N rows of media of the whole batch, in the order of their placeholders: images or
their tiles, windows of sounds, frames of videos; T vectors of a row.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MoeCausalLMOutputWithPast,
    MoeModelOutputWithPast,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple, torch_compilable_check

from .configuration_mmgpt import MMGPTConfig
from .connectors_mmgpt import MMGPTResampler, build_connector
from .cross_attention_mmgpt import MMGPTMedia, MMGPTMediaPart, cached_media, gather_media, no_media
from .decoders_mmgpt import build_decoder, finish_logits, tied_head
from .encoding_mmgpt import MediaEncoderMixin, MMGPTMediaOutput
from .experts_mmgpt import add_balancing_loss, balancing_loss
from .grids_mmgpt import MMGPTTileEmbedding, first_wanted
from .idle_towers_mmgpt import trains_with_others
from .media_features_mmgpt import EMBEDS, repeat_media
from .modeling_mmgpt_text import check_generation, keep_labelled, keep_last
from .releases_mmgpt import CACHE, takes_cache
from .saving_mmgpt import CompleteFolderMixin
from .token_counts_mmgpt import tiles_per_image
from .towers_mmgpt import build_tower, tower_width
from .vllm_mmgpt import part_windows, refuse_in_engines, runs_in_vllm


@auto_docstring(custom_intro="Hidden states of the decoder, and the media features that went into it.")
@dataclass
class MMGPTModelOutputWithPast(MoeModelOutputWithPast):
    r"""
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Features of all images of the batch after the connector, in the order of their placeholders.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        The same for sounds.
    video_hidden_states (`torch.FloatTensor` of shape `(num_video_tokens, hidden_size)`, *optional*):
        The same for videos.
    image_outputs (`MMGPTMediaOutput`, *optional*):
        What the vision tower and its connector made of the images, row by row, a row being an image or a tile.
    audio_outputs (`MMGPTMediaOutput`, *optional*):
        The same for sounds, a row being a window.
    video_outputs (`MMGPTMediaOutput`, *optional*):
        The same for videos, a row being a frame.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None
    video_hidden_states: torch.FloatTensor | None = None
    image_outputs: MMGPTMediaOutput | None = None
    audio_outputs: MMGPTMediaOutput | None = None
    video_outputs: MMGPTMediaOutput | None = None


@auto_docstring(custom_intro="Logits and loss, and the media features that went into the decoder.")
@dataclass
class MMGPTCausalLMOutputWithPast(MoeCausalLMOutputWithPast):
    r"""
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Features of all images of the batch after the connector, in the order of their placeholders.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        The same for sounds.
    video_hidden_states (`torch.FloatTensor` of shape `(num_video_tokens, hidden_size)`, *optional*):
        The same for videos.
    image_outputs (`MMGPTMediaOutput`, *optional*):
        What the vision tower and its connector made of the images, row by row, a row being an image or a tile.
    audio_outputs (`MMGPTMediaOutput`, *optional*):
        The same for sounds, a row being a window.
    video_outputs (`MMGPTMediaOutput`, *optional*):
        The same for videos, a row being a frame.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None
    video_hidden_states: torch.FloatTensor | None = None
    image_outputs: MMGPTMediaOutput | None = None
    audio_outputs: MMGPTMediaOutput | None = None
    video_outputs: MMGPTMediaOutput | None = None


@auto_docstring
class MMGPTPreTrainedModel(CompleteFolderMixin, PreTrainedModel):
    config: MMGPTConfig
    config_class = MMGPTConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMGPTDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def post_init(self):
        super().post_init()
        # transformers adds what the towers' classes name, and accelerate's FSDP refuses a class that no module is of: SigLIP names
        # the pooling head, which is left out, and parts of its text model.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = {name for name in self._no_split_modules if name in present}

    def initialize_weights(self):
        """Each part by its own rules. Called as a part of remote code, transformers passes over a tower's modules that own no
        parameters, and so over what starts there: SigLIP's attention, Whisper's table of positions."""
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


@auto_docstring(custom_intro="Text, images, videos and sounds in, hidden states of the decoder out.")
class MMGPTModel(MediaEncoderMixin, MMGPTPreTrainedModel):
    def __init__(self, config: MMGPTConfig):
        super().__init__(config)
        refuse_in_engines(config)
        text, vision, audio = config.text_config, config.vision_config, config.audio_config
        width = text.hidden_size
        if vision is not None:
            self.vision_tower = build_tower(vision)
            merged_width = tower_width(vision) * config.vision_merge_size**2
            self.vision_connector = build_connector(
                config.vision_connector, merged_width, width, config.vision_num_queries
            )
            self.tile_embedding = None
            if config.vision_max_tiles is not None:
                self.tile_embedding = MMGPTTileEmbedding(config.vision_max_tiles, width)
        if audio is not None:
            self.audio_tower = build_tower(audio)
            merged_width = tower_width(audio) * config.audio_merge_size
            self.audio_connector = build_connector(
                config.audio_connector, merged_width, width, config.audio_num_queries
            )
        self.language_model = build_decoder(text)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes images: `pooler_output` holds one `(tokens, hidden_size)` tensor for each image."
    )
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        tile_positions: torch.LongTensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        tile_positions (`torch.LongTensor` of shape `(num_tiles, 2)`, *optional*):
            Row and column, counted from 1, of each tile in its image; (0, 0): the overview, with which each image ends.
        spatial_shapes (`torch.LongTensor` of shape `(num_images, 2)`, *optional*):
            Rows and columns of patches, where `pixel_values` are patches of images of any shape.
        """
        encoded = self.encode_images(pixel_values, tile_positions, spatial_shapes, **kwargs)
        return self.features_of_media(encoded, None if tile_positions is None else tiles_per_image(tile_positions))

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes videos: `pooler_output` holds one `(tokens, hidden_size)` tensor for each video."
    )
    def get_video_features(
        self,
        pixel_values_videos: torch.FloatTensor,
        num_frames_per_video: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        pixel_values_videos (`torch.FloatTensor` of shape `(num_frames, channels, height, width)`):
            The frames of all videos, one after the other.
        num_frames_per_video (`torch.LongTensor` of shape `(num_videos,)`, *optional*):
            Number of frames of each video. `None`: each is of one.
        """
        kwargs.pop("video_grid_thw", None)  # vLLM splits the frames by it
        return self.features_of_media(self.encode_images(pixel_values_videos, **kwargs), num_frames_per_video)

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes sounds: `pooler_output` holds one `(tokens, hidden_size)` tensor for each sound."
    )
    def get_audio_features(
        self,
        input_features: torch.FloatTensor,
        input_features_mask: torch.Tensor | None = None,
        audio_windows: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        input_features_mask (`torch.Tensor` of shape `(num_windows, num_frames)`, *optional*):
            1 for frames of the sound, 0 for padding. `None`: every frame is sound.
        audio_windows (`torch.LongTensor` of shape `(num_audios,)`, *optional*):
            Number of windows that each sound was cut into. `None`: each is whole.
        """
        if not runs_in_vllm(self.config):
            encoded = self.encode_audio(input_features, input_features_mask, **kwargs)
            return self.features_of_media(encoded, audio_windows)
        rows, mask, audio_windows = part_windows(self.config, input_features, input_features_mask, audio_windows)
        found = self.features_of_media(self.encode_audio(rows, mask, **kwargs), audio_windows)
        found.pooler_output = torch.cat(found.pooler_output)  # vLLM splits it by its own counts
        return found

    def placeholder_mask(self, input_ids, inputs_embeds, token_id: int) -> torch.Tensor:
        if input_ids is not None:
            return input_ids == token_id  # (B, L)
        placeholder = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(placeholder)).all(-1)

    def interleave(
        self, inputs_embeds, is_placeholder, features, is_real, kind: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts the real ones of `features` `(N, T, D)` in the places of the placeholders, in order; and all in that order."""
        features, num_features = first_wanted(features, is_real)  # (N * T, D)
        self.check_counts(is_placeholder, num_features, kind, "features")
        return inputs_embeds.masked_scatter(is_placeholder[..., None], features.to(inputs_embeds.dtype)), features

    def lay_out(
        self, parts: dict[str, MMGPTMediaPart], inputs_embeds, position_ids, past_key_values
    ) -> MMGPTMedia | None:
        """The rows of all modalities beside the text, as the decoder's gated blocks take them."""
        for kind, part in parts.items():
            self.check_counts(part.is_placeholder, part.features.shape[0], kind, "rows")
        if parts:
            scope = self.config.cross_attention_scope
            return gather_media(list(parts.values()), position_ids, cached_media(past_key_values), scope)
        return no_media(inputs_embeds) if self.training and trains_with_others(self.language_model) else None

    @staticmethod
    def check_counts(is_placeholder, given, kind: str, unit: str) -> None:
        num_placeholders = is_placeholder.sum()
        torch_compilable_check(
            num_placeholders == given,
            lambda: (
                f"The text has {int(num_placeholders)} {kind} tokens but the {kind} inputs give {int(given)} {unit} "
                f"(in each sample: {is_placeholder.sum(-1).tolist()} {kind} tokens). Let the processor place them, "
                "and do not truncate its output."
            ),
        )

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
        # A static cache counts on the device, and its full size is known here: no number has to come back.
        size = past_key_values.get_mask_sizes(length, is_sliding.index(False))[0]
        places = torch.arange(length, device=blocks.device) + past_length
        return blocks.new_full((blocks.shape[0], size), -1).index_copy(1, places, blocks)

    @takes_cache
    @can_return_tuple
    @auto_docstring
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMGPTModelOutputWithPast:
        r"""
        past_key_values (`Cache`, *optional*):
            Keys and values of earlier tokens; also taken as `cache`, its name from transformers 5.24 on.
        tile_positions (`torch.LongTensor` of shape `(num_tiles, 2)`, *optional*):
            Row and column, counted from 1, of each tile in its image; (0, 0): the overview, with which each image ends.
        spatial_shapes (`torch.LongTensor` of shape `(num_images, 2)`, *optional*):
            Rows and columns of patches, where `pixel_values` are patches of images of any shape.
        pixel_values_videos (`torch.FloatTensor` of shape `(num_frames, channels, height, width)`, *optional*):
            The frames of all videos, one after the other.
        num_frames_per_video (`torch.LongTensor` of shape `(num_videos,)`, *optional*):
            Frames of each video. Not needed here; `get_video_features` tells videos apart by them.
        input_features_mask (`torch.Tensor` of shape `(num_windows, num_frames)`, *optional*):
            1 for frames of the sound, 0 for padding. `None`: every frame is sound.
        audio_windows (`torch.LongTensor` of shape `(num_audios,)`, *optional*):
            Windows of each sound. Not needed here; `get_audio_features` tells sounds apart by them.
        image_embeds (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)` or one such tensor for each image, *optional*):
            In the place of `pixel_values`: the `pooler_output` of `get_image_features`, so that several questions about an
            image encode it once.
        audio_embeds (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)` or one such tensor for each sound, *optional*):
            In the place of `input_features`: the `pooler_output` of `get_audio_features`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the model exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)  # (B, L, D)

        images = {"pixel_values": pixel_values, "tile_positions": tile_positions, "spatial_shapes": spatial_shapes}
        sounds = {"input_features": input_features, "input_features_mask": input_features_mask}
        videos = {"pixel_values": pixel_values_videos}
        shown = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if name in kwargs}
        encoded = {
            "image": self.encode_or_take("image", self.encode_images, images, image_embeds, **shown),
            "video": self.encode_or_take("image", self.encode_images, videos, None, **shown),
            "audio": self.encode_or_take("audio", self.encode_audio, sounds, audio_embeds, **shown),
        }
        if self.training:
            sees = pixel_values is not None or pixel_values_videos is not None
            inputs_embeds = self.feed_idle_towers(inputs_embeds, sees, input_features is not None)
        is_placeholder = {
            kind: self.placeholder_mask(input_ids, inputs_embeds, getattr(self.config, f"{kind}_token_id"))
            for kind, media in encoded.items()
            if media is not None
        }  # each (B, L)

        hidden = {kind: None for kind in encoded}
        if self.config.fusion == "cross_attention":
            parts = {
                kind: MMGPTMediaPart(mask, encoded[kind].pooler_output, encoded[kind].is_real)
                for kind, mask in is_placeholder.items()
            }
            kwargs["media"] = self.lay_out(parts, inputs_embeds, position_ids, past_key_values)
        for kind in is_placeholder:
            features, is_real = encoded[kind].pooler_output, encoded[kind].is_real
            if self.config.fusion == "interleave":
                inputs_embeds, hidden[kind] = self.interleave(
                    inputs_embeds, is_placeholder[kind], features, is_real, kind
                )
            else:
                hidden[kind] = first_wanted(features, is_real)[0]
        if self.config.bidirectional_images and is_placeholder.keys() & {"image", "video"}:
            is_seen = sum(is_placeholder[kind] for kind in is_placeholder if kind != "audio") > 0
            kwargs["block_sequence_ids"] = self.image_blocks(is_seen, past_key_values)

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
            image_hidden_states=hidden["image"],
            audio_hidden_states=hidden["audio"],
            video_hidden_states=hidden["video"],
            image_outputs=encoded["image"],
            audio_outputs=encoded["audio"],
            video_outputs=encoded["video"],
        )


def media_tokens(config: MMGPTConfig) -> dict[str, int]:
    """The placeholder of each kind of media that the model has one for."""
    tokens = {kind: getattr(config, f"{kind}_token_id") for kind in ("image", "video", "audio")}
    return {kind: token for kind, token in tokens.items() if token is not None}


@auto_docstring(custom_intro="MMGPT with its language-modelling head: text, images, videos and sounds in, text out.")
class MMGPTForConditionalGeneration(MMGPTPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MMGPTConfig):
        super().__init__(config)
        self.model = MMGPTModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=config.lm_head_bias)
        self._tied_weights_keys = tied_head(self)
        # A placeholder in an answer would stand for no medium. What is saved with the checkpoint may say otherwise.
        self.generation_config.suppress_tokens = list(media_tokens(config).values()) or None
        self.post_init()

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
        # Media go in with the prompt only: transformers drops pixel_values and input_features after the first step, but not
        # what is encoded already, which not all of its models take in the place of pixels.
        check_generation(self.config.text_config, input_ids, inputs_embeds, is_first_iteration)
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in EMBEDS.values():
                kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )

    def _get_stopping_criteria(self, *args, tokenizer=None, **kwargs):
        """`transformers serve` gives the processor in the place of the tokenizer, which stop strings are looked up in."""
        return super()._get_stopping_criteria(*args, tokenizer=getattr(tokenizer, "tokenizer", tokenizer), **kwargs)

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Beams and several answers for each prompt: media are repeated with the samples that they belong to."""
        media = {}
        if expand_size > 1:
            has_ids = input_ids is not None and input_ids.shape[1] > 0
            embeds = model_kwargs.get("inputs_embeds")
            placeholders = {
                kind: self.model.placeholder_mask(input_ids if has_ids else None, embeds, token)
                for kind, token in media_tokens(self.config).items()
            }
            media = repeat_media(model_kwargs, self.config, placeholders, expand_size)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | media

    @staticmethod
    def create_masks_for_generate(config, attention_mask, is_first_iteration=False, **kwargs):
        if config.bidirectional_images and is_first_iteration:
            return attention_mask  # forward knows which tokens are images, and makes the masks of the prompt
        return create_masks_for_generate(config=config, attention_mask=attention_mask, **kwargs)

    @takes_cache
    @can_return_tuple
    @auto_docstring
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMGPTCausalLMOutputWithPast:
        r"""
        past_key_values (`Cache`, *optional*):
            Keys and values of earlier tokens; also taken as `cache`, its name from transformers 5.24 on.
        tile_positions (`torch.LongTensor` of shape `(num_tiles, 2)`, *optional*):
            Row and column, counted from 1, of each tile in its image; (0, 0): the overview, with which each image ends.
        spatial_shapes (`torch.LongTensor` of shape `(num_images, 2)`, *optional*):
            Rows and columns of patches, where `pixel_values` are patches of images of any shape.
        pixel_values_videos (`torch.FloatTensor` of shape `(num_frames, channels, height, width)`, *optional*):
            The frames of all videos, one after the other.
        num_frames_per_video (`torch.LongTensor` of shape `(num_videos,)`, *optional*):
            Frames of each video. Not needed here; `get_video_features` tells videos apart by them.
        input_features_mask (`torch.Tensor` of shape `(num_windows, num_frames)`, *optional*):
            1 for frames of the sound, 0 for padding. `None`: every frame is sound.
        audio_windows (`torch.LongTensor` of shape `(num_audios,)`, *optional*):
            Windows of each sound. Not needed here; `get_audio_features` tells sounds apart by them.
        image_embeds (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)` or one such tensor for each image, *optional*):
            In the place of `pixel_values`: the `pooler_output` of `get_image_features`, so that several questions about an
            image encode it once.
        audio_embeds (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)` or one such tensor for each sound, *optional*):
            In the place of `input_features`: the `pooler_output` of `get_audio_features`.
        skip_logits (`bool`, *optional*, defaults to `False`):
            With `labels`: work out the loss alone, from the logits of the tokens to be learnt, and return none. Prompts, media
            and padding then cost no time or memory in the head.
        """
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
            **kwargs,
        )
        text = self.config.text_config
        hidden_states = keep_last(outputs.last_hidden_state, logits_to_keep)
        skip_logits = skip_logits and labels is not None
        if skip_logits:
            hidden_states, kwargs["shift_labels"] = keep_labelled(hidden_states, labels, kwargs.get("shift_labels"))
        logits = finish_logits(self.lm_head(hidden_states), text)  # (B, L or kept, V), or (labelled tokens, V)
        loss = aux_loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=text.vocab_size, **kwargs)
        if outputs.router_logits and text.model_type == "mmgpt_text":
            aux_loss = balancing_loss(outputs.router_logits, text, attention_mask)
            if loss is not None:
                loss = add_balancing_loss(loss, aux_loss, text, labels, **kwargs)
        return MMGPTCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=None if skip_logits else logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            image_hidden_states=outputs.image_hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
            video_hidden_states=outputs.video_hidden_states,
            image_outputs=outputs.image_outputs,
            audio_outputs=outputs.audio_outputs,
            video_outputs=outputs.video_outputs,
        )


__all__ = ["MMGPTForConditionalGeneration", "MMGPTModel", "MMGPTPreTrainedModel"]
