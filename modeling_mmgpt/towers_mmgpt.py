"""The towers: transformers' own encoders, and two encoder-free ones that hand pixels and frames to the decoder as they are.

Shapes: N media items, T vectors of an item, C tower width (hidden_size), p patch size, f frame size.
"""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import auto_docstring, can_return_tuple

from .configuration_mmgpt import MMGPTFrameConfig, MMGPTPatchConfig
from .grids_mmgpt import patch_places
from .token_counts_mmgpt import CONVOLUTIONAL_TOWERS, NATIVE_TOWERS, convolutional_stride, takes_waveform


@auto_docstring(custom_intro="Encoder-free vision: each patch of pixels becomes one vector by one matrix (Fuyu).")
class MMGPTPatchTower(PreTrainedModel):
    config: MMGPTPatchConfig
    config_class = MMGPTPatchConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = (
        True  # it attends to nothing
    )

    def __init__(self, config: MMGPTPatchConfig):
        super().__init__(config)
        side = config.image_size // config.patch_size
        self.patch_embedding = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)
        self.row_embedding = nn.Embedding(side, config.hidden_size)
        self.column_embedding = nn.Embedding(side, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self, pixel_values: torch.FloatTensor, spatial_shapes: torch.LongTensor | None = None, **kwargs
    ) -> BaseModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_images, channels, height, width)` or `(num_images, num_patches, patch_size ** 2 * channels)`):
            Images of one size, or, with `spatial_shapes`, the patches of images of any shape, as SigLIP 2 (NaFlex) takes them.
        spatial_shapes (`torch.LongTensor` of shape `(num_images, 2)`, *optional*):
            Rows and columns of patches of each image.
        """
        if spatial_shapes is not None:
            return embedded(self.config, self.embed_patches(pixel_values, spatial_shapes), **kwargs)
        p = self.config.patch_size
        items, channels, height, width = pixel_values.shape
        rows, columns = height // p, width // p
        if max(height, width) > self.config.image_size or height % p or width % p:
            raise ValueError(
                f"pixel_values are {height} x {width} pixels, but the model takes up to {self.config.image_size} on a side, "
                f"in multiples of {p}: let the processor resize the images."
            )
        patches = pixel_values.view(items, channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(items, rows, columns, channels * p * p)
        hidden_states = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))  # (N, rows, columns, C)
        hidden_states = hidden_states + self.row_embedding.weight[:rows, None] + self.column_embedding.weight[:columns]
        return embedded(self.config, self.norm(hidden_states.flatten(1, 2)), **kwargs)  # (N, T, C)

    def embed_patches(self, patches: torch.Tensor, spatial_shapes: torch.Tensor) -> torch.Tensor:
        """The same of `(N, T, p * p * channels)`. An image of more rows or columns than have a vector shares them out evenly."""
        p = self.config.patch_size
        pixels = (
            patches.unflatten(-1, (p, p, -1)).movedim(-1, 2).flatten(2)
        )  # channels first, as in images of one size
        hidden_states = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype))
        places = patch_places(spatial_shapes, patches.shape[1])[:2]
        for place, size, embedding in zip(
            places, spatial_shapes.unbind(-1), (self.row_embedding, self.column_embedding), strict=True
        ):
            known = embedding.num_embeddings
            index = place * known // size.clamp(min=known)[:, None]
            hidden_states = hidden_states + embedding(index.clamp(max=known - 1))  # padding may lie outside
        return self.norm(hidden_states)


@auto_docstring(custom_intro="Encoder-free audio: each group of mel frames becomes one vector by one matrix.")
class MMGPTFrameTower(PreTrainedModel):
    config: MMGPTFrameConfig
    config_class = MMGPTFrameConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = (
        True  # it attends to nothing
    )

    def __init__(self, config: MMGPTFrameConfig):
        super().__init__(config)
        self.frame_embedding = nn.Linear(config.num_mel_bins * config.frame_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(self, input_features: torch.FloatTensor, **kwargs) -> BaseModelOutput:
        f = self.config.frame_size
        frames = nn.functional.pad(input_features, (0, -input_features.shape[-1] % f)).transpose(1, 2)
        frames = frames.reshape(frames.shape[0], -1, self.config.num_mel_bins * f)  # (N, T, mel * f)
        hidden_states = self.frame_embedding(frames.to(self.frame_embedding.weight.dtype))
        return embedded(self.config, self.norm(hidden_states), **kwargs)  # (N, T, C)


def embedded(config, hidden_states: torch.Tensor, output_hidden_states=None, output_attentions=None, **kwargs):
    """What a tower without layers gives: its embedding is the only hidden state, and there is no attention to show."""
    if output_hidden_states is None:
        output_hidden_states = config.output_hidden_states
    if output_attentions is None:
        output_attentions = config.output_attentions
    return BaseModelOutput(
        last_hidden_state=hidden_states,
        hidden_states=(hidden_states,) if output_hidden_states else None,
        attentions=() if output_attentions else None,
    )


# Whisper's config describes an encoder and a decoder; only the encoder hears.
TOWERS = {"mmgpt_patch": MMGPTPatchTower, "mmgpt_frame": MMGPTFrameTower, "whisper": WhisperEncoder}


def build_tower(config) -> PreTrainedModel:
    tower_class = TOWERS.get(config.model_type)
    tower = AutoModel.from_config(config) if tower_class is None else tower_class._from_config(config)
    return without_pooling(tower)


def without_pooling(tower: PreTrainedModel) -> PreTrainedModel:
    """CLIP's last norm serves only the pooled vector, which nobody reads: it would be a parameter without a gradient."""
    if tower.config.model_type == "clip_vision_model":
        tower.post_layernorm = nn.Identity()
    return tower


def tower_width(config) -> int:
    """Width of a tower's output: its hidden_size, unless its stages differ or a wav2vec 2.0 adapter stands behind the last layer."""
    if config.model_type in CONVOLUTIONAL_TOWERS:
        return config.hidden_sizes[-1]
    return config.output_hidden_size if getattr(config, "add_adapter", False) else config.hidden_size


def run_vision_tower(tower: PreTrainedModel, pixel_values: torch.Tensor, spatial_shapes, **kwargs):
    """The outputs of a vision tower; `spatial_shapes` `(N, 2)` where the images come as patches, each of a shape of its own."""
    if tower.config.model_type in CONVOLUTIONAL_TOWERS:
        return run_convolutional_tower(tower, pixel_values, **kwargs)
    if spatial_shapes is None:
        return tower(pixel_values, **kwargs)
    if tower.config.model_type in NATIVE_TOWERS:
        kwargs["pixel_attention_mask"] = patch_places(spatial_shapes, pixel_values.shape[1])[2].to(torch.int32)
    return tower(pixel_values, spatial_shapes=spatial_shapes, **kwargs)


def run_convolutional_tower(tower: PreTrainedModel, pixel_values: torch.Tensor, **kwargs):
    """The outputs of a tower of convolutions, its maps as rows of vectors, from the top left to the bottom right."""
    stride = convolutional_stride(tower.config)
    height, width = pixel_values.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"pixel_values are {height} x {width} pixels, but the tower takes multiples of {stride}: let the image processor "
            "resize the images."
        )
    outputs = tower(pixel_values, **kwargs)
    if outputs.last_hidden_state.ndim == 4:  # DINOv3's ConvNeXt gives rows itself
        outputs.last_hidden_state = outputs.last_hidden_state.flatten(2).transpose(
            1, 2
        )  # (N, C, rows, columns) -> (N, T, C)
    return outputs


def run_audio_tower(tower: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor | None, **kwargs):
    """The outputs of an audio tower, such that padding does not change what is heard.

    Spectrogram towers take silence for padding, as they were trained. Waveform towers take a mask; those with a norm over
    all samples (`feat_extract_norm="group"`) were trained without one, and hear each sound by itself."""
    if not takes_waveform(tower.config):
        return tower(inputs, **kwargs)
    if mask is None or mask.all():
        return tower(inputs, **kwargs)
    if tower.config.feat_extract_norm != "group":
        return tower(inputs, attention_mask=mask, **kwargs)
    sounds = [
        tower(sound[None, :length], **kwargs) for sound, length in zip(inputs, mask.sum(-1).tolist(), strict=True)
    ]
    return BaseModelOutput(
        last_hidden_state=pad_together([sound.last_hidden_state for sound in sounds]),
        hidden_states=pad_layers([sound.hidden_states for sound in sounds]),
        attentions=pad_layers([sound.attentions for sound in sounds]),
    )


def pad_layers(layers: list[tuple[torch.Tensor, ...] | None]) -> tuple[torch.Tensor, ...] | None:
    """One tensor for each layer, of each sound's own layers; `None` if they were not asked for."""
    return None if layers[0] is None else tuple(map(pad_together, zip(*layers, strict=True)))


def pad_together(states: list[torch.Tensor]) -> torch.Tensor:
    """States of sounds of several lengths, `(1, T, C)`, or their attention, `(1, heads, T, T)`, with zeros behind the shorter ones."""
    longest = [max(sizes) for sizes in zip(*(one.shape for one in states), strict=True)]
    padded = []
    for one in states:
        missing = [(0, most - size) for most, size in zip(longest, one.shape, strict=True)]
        padded.append(nn.functional.pad(one, [side for pair in reversed(missing) for side in pair]))
    return torch.cat(padded)


__all__ = [
    "MMGPTFrameTower",
    "MMGPTPatchTower",
    "build_tower",
    "run_audio_tower",
    "run_vision_tower",
    "tower_width",
    "without_pooling",
]
