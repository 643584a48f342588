"""The fusion, told on one screen: towers -> connectors -> decoder -> head.

pixel_values   -> vision_tower -> vision_connector --+
                                                     |  each feature takes the place of its
input_features -> audio_tower  -> audio_connector  --+  placeholder token, in order
                                                     v
input_ids      -> embed_tokens -------------> inputs_embeds -> language_model -> lm_head

Shapes: B batch, L tokens, D width, V vocabulary; N media items of the whole batch, in the order of their placeholders;
T vectors of an item.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple, torch_compilable_check

from .configuration_mmgpt import MMGPTConfig
from .connectors_mmgpt import MMGPTConnector, merge_frames, merge_patches
from .lengths_mmgpt import audio_geometry, audio_token_count, image_geometry
from .modeling_mmgpt_text import MMGPTTextModel, keep_last, refuse_too_long
from .saving_mmgpt import CompleteFolderMixin
from .towers_mmgpt import build_tower


@auto_docstring(custom_intro="Hidden states of the decoder, and the media features that went into it.")
@dataclass
class MMGPTModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Features of all images of the batch after the connector, one row for each placeholder.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        The same for sounds.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None


@auto_docstring(custom_intro="Logits and loss, and the media features that went into the decoder.")
@dataclass
class MMGPTCausalLMOutputWithPast(CausalLMOutputWithPast):
    r"""
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Features of all images of the batch after the connector, one row for each placeholder.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        The same for sounds.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None


@auto_docstring
class MMGPTPreTrainedModel(CompleteFolderMixin, PreTrainedModel):
    config: MMGPTConfig
    config_class = MMGPTConfig
    base_model_prefix = "model"
    input_modalities = ("image", "audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMGPTDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def initialize_weights(self):
        """Each part by its own rules. Called as a part of remote code, transformers passes over a tower's modules that own no
        parameters, and so over what starts there: SigLIP's attention, Whisper's table of positions."""
        for part in self.children():
            if isinstance(part, PreTrainedModel):
                part.initialize_weights()
        super().initialize_weights()


@auto_docstring(custom_intro="Text, images and sounds in, hidden states of the decoder out.")
class MMGPTModel(MMGPTPreTrainedModel):
    def __init__(self, config: MMGPTConfig):
        super().__init__(config)
        text, vision, audio = config.text_config, config.vision_config, config.audio_config
        width = text.hidden_size
        if vision is not None:
            self.vision_tower = build_tower(vision)
            merged_width = vision.hidden_size * config.vision_merge_size**2
            self.vision_connector = MMGPTConnector(config.vision_connector, merged_width, width)
        if audio is not None:
            self.audio_tower = build_tower(audio)
            merged_width = audio.hidden_size * config.audio_merge_size
            self.audio_connector = MMGPTConnector(config.audio_connector, merged_width, width)
        is_ours = text.model_type == "mmgpt_text"
        self.language_model = MMGPTTextModel._from_config(text) if is_ours else AutoModel.from_config(text)
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
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        if self.config.vision_config is None:
            raise ValueError("The model has no vision tower, but pixel_values were given: leave the images out.")
        layer = self.config.vision_feature_layer
        if layer != -1:
            kwargs["output_hidden_states"] = True
        kwargs["return_dict"] = True
        outputs = self.vision_tower(pixel_values, **kwargs)
        features = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        patch_size, merge_size = image_geometry(self.config).values()
        grid = pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size
        features = features[:, -grid[0] * grid[1] :]  # class and register tokens stand before the patches
        if merge_size > 1:
            features = merge_patches(features, grid, merge_size)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,  # (N, tower's tokens, C)
            pooler_output=self.vision_connector(features).unbind(),  # N tensors (T, D)
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes sounds: `pooler_output` holds one `(tokens, hidden_size)` tensor for each sound."
    )
    def get_audio_features(
        self,
        input_features: torch.FloatTensor,
        input_features_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of the sound, 0 for padding. `None`: every frame is sound.
        """
        outputs, features, is_sound = self.encode_audio(input_features, input_features_mask, **kwargs)
        sounds = [vectors[mask] for vectors, mask in zip(features, is_sound, strict=True)]
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=sounds,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def encode_audio(self, input_features, input_features_mask=None, **kwargs):
        """The tower's outputs, the features `(N, T, D)`, and which of them are sound, not padding: `(N, T)`."""
        if self.config.audio_config is None:
            raise ValueError("The model has no audio tower, but input_features were given: leave the sounds out.")
        kwargs["return_dict"] = True
        outputs = self.audio_tower(input_features, **kwargs)
        features = outputs.last_hidden_state
        if self.config.audio_merge_size > 1:
            features = merge_frames(features, self.config.audio_merge_size)
        features = self.audio_connector(features)  # (N, T, D)
        if input_features_mask is None:
            input_features_mask = torch.ones_like(input_features[:, 0], dtype=torch.long)
        counts = audio_token_count(input_features_mask.long().sum(-1), **audio_geometry(self.config))  # (N,)
        return outputs, features, torch.arange(features.shape[1], device=counts.device) < counts[:, None]

    def placeholder_mask(self, input_ids, inputs_embeds, token_id: int) -> torch.Tensor:
        if input_ids is not None:
            return input_ids == token_id  # (B, L)
        placeholder = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(placeholder)).all(-1)

    def fuse(self, inputs_embeds, is_placeholder, features, num_features, kind: str) -> torch.Tensor:
        """Puts the first `num_features` rows of `features` in the places of the placeholders, in order."""
        num_placeholders = is_placeholder.sum()
        torch_compilable_check(
            num_placeholders == num_features,
            lambda: (
                f"The text has {int(num_placeholders)} {kind} tokens but the {kind} inputs give {int(num_features)} "
                f"features (in each sample: {is_placeholder.sum(-1).tolist()} {kind} tokens). Let the processor place them, "
                "and do not truncate its output."
            ),
        )
        return inputs_embeds.masked_scatter(is_placeholder[..., None], features.to(inputs_embeds.dtype))

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMGPTModelOutputWithPast:
        r"""
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of the sound, 0 for padding. `None`: every frame is sound.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the model exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)  # (B, L, D)

        image_features = audio_features = None
        if pixel_values is not None:
            images = self.get_image_features(pixel_values, return_dict=True).pooler_output
            image_features = torch.cat(images)  # (image tokens, D)
            is_image = self.placeholder_mask(input_ids, inputs_embeds, self.config.image_token_id)
            inputs_embeds = self.fuse(inputs_embeds, is_image, image_features, len(image_features), "image")
        if input_features is not None:
            _, padded_features, is_sound = self.encode_audio(input_features, input_features_mask)
            # Sound before padding, each in its order: the wanted rows come first without their number leaving the device.
            sound_first = (~is_sound).flatten().to(torch.uint8).argsort(stable=True)
            audio_features = padded_features.flatten(0, 1)[sound_first]
            is_audio = self.placeholder_mask(input_ids, inputs_embeds, self.config.audio_token_id)
            inputs_embeds = self.fuse(inputs_embeds, is_audio, audio_features, is_sound.sum(), "audio")

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return MMGPTModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_features,
            audio_hidden_states=audio_features,
        )


@auto_docstring(custom_intro="MMGPT with its language-modelling head: text, images and sounds in, text out.")
class MMGPTForConditionalGeneration(MMGPTPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MMGPTConfig):
        super().__init__(config)
        self.model = MMGPTModel(config)
        text = config.text_config
        has_bias = text.lm_head_bias if text.model_type == "mmgpt_text" else False
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=has_bias)
        self.post_init()

    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs):
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_audio_features(self, input_features: torch.FloatTensor, input_features_mask=None, **kwargs):
        return self.model.get_audio_features(input_features, input_features_mask, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, **kwargs):
        # Media go in with the prompt only: transformers drops pixel_values and input_features after the first step.
        refuse_too_long(self.config.text_config, input_ids.shape[1])
        return super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMGPTCausalLMOutputWithPast:
        r"""
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of the sound, 0 for padding. `None`: every frame is sound.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(keep_last(outputs.last_hidden_state, logits_to_keep))  # (B, L or kept, V)
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return MMGPTCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
        )


__all__ = ["MMGPTForConditionalGeneration", "MMGPTModel", "MMGPTPreTrainedModel"]
