"""Training with several processes, one of which has no image, or no sound, in its batch.

Its tower would get no gradient there while the other processes wait for it: DistributedDataParallel fails, FSDP and ZeRO-3 hang
(DeepSpeed#7170, trl#6617). The cure is the smallest input that the tower takes, whose features are added with weight zero: every
parameter then gets a gradient, of zero.
"""

import torch
from torch import nn

from .token_counts_mmgpt import (
    ANY_SIZE_TOWERS,
    NATIVE_TOWERS,
    image_geometry,
    shortest_sound,
    side,
    takes_fixed_window,
    takes_waveform,
    tower_convolutions,
    window_frames,
)


def trains_with_others(*parts: nn.Module) -> bool:
    """Whether gradients of `parts` are about to be computed here and gathered from other processes."""
    distributed = torch.distributed
    return (
        torch.is_grad_enabled()
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
        and any(parameter.requires_grad for part in parts for parameter in part.parameters())
    )


def smallest_image(config) -> tuple[int, ...]:
    """Shape of the smallest `pixel_values` that an MMGPTConfig's vision tower takes."""
    tower, geometry = config.vision_config, image_geometry(config)
    if tower.model_type in (*ANY_SIZE_TOWERS, *NATIVE_TOWERS, "mmgpt_patch"):
        size = geometry["patch_size"] * geometry["merge_size"]
    else:
        size = side(tower.image_size)
    return 1, tower.num_channels, size, size


def smallest_sound(config) -> tuple[int, ...]:
    """Shape of the smallest `input_features` that an MMGPTConfig's audio tower takes in training."""
    tower = config.audio_config
    if takes_waveform(tower):
        # wav2vec 2.0 masks spans of what it hears in training, and refuses sounds that are shorter than a span.
        return 1, max(16000, shortest_sound(tower_convolutions(tower)))
    frames = window_frames(tower) if takes_fixed_window(tower) else tower.frame_size
    return 1, tower.num_mel_bins, frames


def with_zero_weight(features: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
    return inputs_embeds + 0.0 * features.mean().to(inputs_embeds.dtype)


__all__ = ["smallest_image", "smallest_sound", "trains_with_others", "with_zero_weight"]
