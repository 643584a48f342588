"""The smallest inputs of each encoder: in distributed training they stand for media that a batch does not have."""

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


__all__ = ["smallest_image", "smallest_sound"]
