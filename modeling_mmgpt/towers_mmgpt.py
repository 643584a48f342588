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
from .lengths_mmgpt import takes_waveform


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
        frames = frames.reshape(frames.shape[0], -1, self.config.num_mel_bins * f)  # (N, T, mel * f)
        hidden_states = self.frame_embedding(frames.to(self.frame_embedding.weight.dtype))
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))  # (N, T, C)


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
    if config.model_type == "dinov3_convnext":
        return config.hidden_sizes[-1]
    return config.output_hidden_size if getattr(config, "add_adapter", False) else config.hidden_size


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
        tower(sound[None, :length], **kwargs).last_hidden_state[0]
        for sound, length in zip(inputs, mask.sum(-1).tolist(), strict=True)
    ]
    return BaseModelOutput(last_hidden_state=nn.utils.rnn.pad_sequence(sounds, batch_first=True))


__all__ = ["MMGPTFrameTower", "MMGPTPatchTower", "build_tower", "run_audio_tower", "tower_width", "without_pooling"]
