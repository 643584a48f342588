"""From pixels and spectrograms to features: what MMGPTModel does before anything meets the text.

Shapes: B batch, L tokens, D decoder width; N rows of media of the whole batch (images or their tiles, windows of sounds, frames of
videos), T vectors of a row, C tower width.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import auto_docstring

from .connectors_mmgpt import connect, merge_frames, merge_patches
from .grids_mmgpt import merge_native_patches, split_media
from .idle_towers_mmgpt import trains_with_others, with_zero_weight
from .media_cache_mmgpt import MediaCache
from .media_features_mmgpt import pad_rows, split_rows
from .token_counts_mmgpt import (
    audio_geometry,
    audio_token_count,
    full_chunk_vectors,
    grid_token_count,
    image_geometry,
    takes_only_patches,
)
from .towers_mmgpt import cut_patches, run_audio_tower, run_vision_tower, smallest_audio, smallest_image


@auto_docstring(
    custom_intro="What a tower and its connector made of the rows of one modality: images, tiles, frames or windows."
)
@dataclass
class MMGPTMediaOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_rows, tower_length, tower_hidden_size)`, *optional*):
        The tower's own output. It is `None`, as are its hidden states and attentions, where features came encoded.
    pooler_output (`torch.FloatTensor` of shape `(num_rows, num_tokens, hidden_size)`):
        Features of each row after the connector.
    attention_mask (`torch.LongTensor` of shape `(num_rows, num_tokens)`, *optional*):
        1 for features of media, 0 for padding behind those of a shorter row. `None`: there is no padding.
    """

    attention_mask: torch.LongTensor | None = None

    @property
    def is_real(self) -> torch.Tensor | None:
        return None if self.attention_mask is None else self.attention_mask.bool()


def media_output(features, is_real, **tower) -> MMGPTMediaOutput:
    """`features` `(N, T, D)`, `is_real` `(N, T)` or `None`, and what else of the tower's outputs is to be shown."""
    mask = None if is_real is None else is_real.long()
    return MMGPTMediaOutput(pooler_output=features, attention_mask=mask, **tower)


class MediaEncoderMixin:
    """The part of [`MMGPTModel`] that uses its towers and connectors."""

    encoded_media: MediaCache | None = None

    def encode_images(self, pixel_values, tile_positions=None, spatial_shapes=None, **kwargs) -> MMGPTMediaOutput:
        if self.config.vision_config is None:
            raise ValueError("The model has no vision tower, but pixel_values were given: leave the images out.")
        layer = self.config.vision_feature_layer
        shows_states = kwargs.get("output_hidden_states")
        if shows_states is None:
            shows_states = self.config.vision_config.output_hidden_states
        if layer != -1:
            kwargs["output_hidden_states"] = True
        kwargs["return_dict"] = True
        geometry = image_geometry(self.config)
        patch_size, merge_size = geometry["patch_size"], geometry["merge_size"]
        if spatial_shapes is None and takes_only_patches(self.config.vision_config):
            pixel_values, spatial_shapes = cut_patches(pixel_values, patch_size)
        outputs = run_vision_tower(self.vision_tower, pixel_values, spatial_shapes, **kwargs)
        last = features = outputs.last_hidden_state
        if layer != -1:
            features = outputs.hidden_states[layer]
            last = last.detach()  # DistributedDataParallel waits for the gradients of whatever outputs lead to
        is_image = None
        if spatial_shapes is None:
            grid = pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size
            features = features[:, -grid[0] * grid[1] :]  # class and register tokens stand before the patches
            if merge_size > 1:
                features = merge_patches(features, grid, merge_size)
        else:
            if merge_size > 1:
                features = merge_native_patches(features, spatial_shapes, merge_size)
            counts = grid_token_count(*spatial_shapes.unbind(-1), merge_size)  # (N,)
            is_image = torch.arange(features.shape[1], device=counts.device) < counts[:, None]
        features, is_image = connect(self.vision_connector, features, is_image)  # (N, T, D)
        if self.tile_embedding is not None:
            features = self.tile_embedding(features, tile_positions)
        return media_output(
            features,
            is_image,
            last_hidden_state=last,
            hidden_states=outputs.get("hidden_states") if shows_states else None,
            attentions=outputs.get("attentions"),
        )

    def encode_audio(self, input_features, input_features_mask=None, **kwargs) -> MMGPTMediaOutput:
        if self.config.audio_config is None:
            raise ValueError("The model has no audio tower, but input_features were given: leave the sounds out.")
        kwargs["return_dict"] = True
        outputs = run_audio_tower(self.audio_tower, input_features, input_features_mask, **kwargs)
        features = outputs.last_hidden_state
        if self.config.audio_merge_size > 1:
            features = merge_frames(features, self.config.audio_merge_size)
        if input_features_mask is None:
            input_features_mask = input_features.new_ones(input_features.shape[0], input_features.shape[-1])
        geometry = audio_geometry(self.config)
        lengths = input_features_mask.long().sum(-1)
        counts = audio_token_count(lengths, geometry["convolutions"], geometry["merge_size"])  # (N,)
        is_sound = torch.arange(features.shape[1], device=counts.device) < counts[:, None]
        return media_output(
            *connect(self.audio_connector, features, is_sound),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    @staticmethod
    def features_of_media(encoded: MMGPTMediaOutput, rows) -> BaseModelOutputWithPooling:
        features = split_media(encoded.pooler_output, encoded.is_real, rows)
        return BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,  # (N, tower's tokens, C)
            pooler_output=features,  # of each medium (its tokens, D)
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def encode_or_take(self, kind: str, encoder, inputs: dict, embeds, **kwargs) -> MMGPTMediaOutput | None:
        """What the encoder makes of one modality; `None` without media of it.

        `inputs` are the encoder's, its first one the media; `embeds` are features that it gave before; `kwargs` are the tower's."""
        name, media = next(iter(inputs.items()))
        if embeds is not None:
            if media is not None:
                raise ValueError(f"Give the model {name} or {kind}_embeds, their features, and not both.")
            # Padded as the encoder pads, so that sums run over as many terms and give the same bits.
            length = full_chunk_vectors(self.config, kind) if self.config.fusion == "cross_attention" else None
            return media_output(*pad_rows(split_rows(embeds, self.config, kind), length))
        if media is None:
            return None
        if self.encoded_media is not None and not self.training and not torch.is_grad_enabled():
            return media_output(*self.encoded_media.encode(kind, encoder, inputs))
        return encoder(**inputs, **kwargs)

    @contextmanager
    def media_cache(self, max_items: int = 32):
        """While this is open, images and sounds that come again are not encoded again: each is found by its content.

        For conversations, which send all their media at every turn; every pixel is looked at on the host, so it costs more than
        it saves where nothing comes twice. Training and calls with gradients pass it by.

        Args:
            max_items: images, tiles, frames and windows of sound whose features are kept; the ones not used for longest go.
        """
        before, self.encoded_media = self.encoded_media, MediaCache(max_items)
        try:
            yield self.encoded_media
        finally:
            self.encoded_media = before

    def feed_idle_towers(self, inputs_embeds, sees: bool, hears: bool) -> torch.Tensor:
        """In distributed training: something for the tower that has nothing to do in this batch (idle_towers_mmgpt.py)."""
        if self.config.vision_config is not None and not sees:
            parts = [
                part for part in (self.vision_tower, self.vision_connector, self.tile_embedding) if part is not None
            ]
            if trains_with_others(*parts):
                pixels = inputs_embeds.new_zeros(smallest_image(self.config))
                inputs_embeds = with_zero_weight(self.encode_images(pixels).pooler_output, inputs_embeds)
        if (
            self.config.audio_config is not None
            and not hears
            and trains_with_others(self.audio_tower, self.audio_connector)
        ):
            sound = inputs_embeds.new_zeros(smallest_audio(self.config))
            inputs_embeds = with_zero_weight(self.encode_audio(sound).pooler_output, inputs_embeds)
        return inputs_embeds


__all__ = ["MMGPTMediaOutput", "MediaEncoderMixin"]
