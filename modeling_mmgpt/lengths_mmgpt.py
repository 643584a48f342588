"""How many tokens an image or a sound becomes. Processor, model and collator ask here and nowhere else.

The counts hold for Python integers and, element-wise, for integer tensors.
"""

# (kernel, stride, padding) of the convolutions at the entrance of Whisper's encoder (Radford et al. 2022, section 2.2).
WHISPER_CONVOLUTIONS = [[3, 1, 1], [3, 2, 1]]


def image_token_count(height: int, width: int, patch_size: int, merge_size: int) -> int:
    """Tokens of an image of `height` x `width` pixels: its patches, `merge_size` x `merge_size` of them to a token."""
    side = patch_size * merge_size
    return (height // side) * (width // side)


def audio_token_count(num_frames, convolutions: list, merge_size: int):
    """Tokens of `num_frames` spectrogram frames: through the tower's convolutions, then `merge_size` to a token.

    The last token may stand for fewer frames than the others."""
    for kernel, stride, padding in convolutions:
        num_frames = (num_frames + 2 * padding - kernel) // stride + 1
    return (num_frames + merge_size - 1) // merge_size


def image_geometry(config) -> dict:
    """The arguments of [`image_token_count`] that an MMGPTConfig fixes; empty without a vision tower."""
    if config.vision_config is None:
        return {}
    return {"patch_size": config.vision_config.patch_size, "merge_size": config.vision_merge_size}


def audio_geometry(config) -> dict:
    """The arguments of [`audio_token_count`] that an MMGPTConfig fixes; empty without an audio tower."""
    if config.audio_config is None:
        return {}
    if config.audio_config.model_type == "mmgpt_frame":
        return {"convolutions": [], "merge_size": config.audio_config.frame_size * config.audio_merge_size}
    return {"convolutions": WHISPER_CONVOLUTIONS, "merge_size": config.audio_merge_size}
