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
    def forward(self, pixel_values: torch.FloatTensor, **kwargs) -> BaseModelOutput:
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
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states.flatten(1, 2)))  # (N, T, C)


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
        frames = frames.reshape(len(frames), -1, self.config.num_mel_bins * f)  # (N, T, mel * f)
        hidden_states = self.frame_embedding(frames.to(self.frame_embedding.weight.dtype))
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))  # (N, T, C)


# Whisper's config describes an encoder and a decoder; only the encoder hears.
TOWERS = {"mmgpt_patch": MMGPTPatchTower, "mmgpt_frame": MMGPTFrameTower, "whisper": WhisperEncoder}


def build_tower(config) -> PreTrainedModel:
    tower_class = TOWERS.get(config.model_type)
    return AutoModel.from_config(config) if tower_class is None else tower_class._from_config(config)


__all__ = ["MMGPTFrameTower", "MMGPTPatchTower", "build_tower"]
