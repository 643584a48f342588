r"""A batch as a person sees it: its tokens as text, with what is learnt and what is masked, and its media as the encoders get them.

Shapes: N chunks of media, H and W their height and width, M mel bins, F frames of a spectrogram.
"""

from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from modeling_mmgpt import MMGPTProcessor
from training.evaluation.pages import spectrogram


class Piece(NamedTuple):
    r"""
    kind (`str`): "learnt", "masked", or that of a medium: "image", "video", "audio".
    text (`str`): of one token, or of those that share a character; of a medium, of how many tokens it has.
    tokens (`int`): how many.
    """

    kind: str
    text: str
    tokens: int


def pieces_of(
    ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase, media: dict[int, str]
) -> list[Piece]:
    r"""The tokens of one sequence, in order.

    media (`dict[int, str]`): the ids of placeholders, and their kinds."""
    pieces, waiting = [], []
    kinds = [
        media.get(token) or ("masked" if label == -100 else "learnt") for token, label in zip(ids, labels, strict=True)
    ]
    for place, (token, kind) in enumerate(zip(ids, kinds, strict=True)):
        waiting.append(token)
        is_last = place + 1 == len(ids) or kinds[place + 1] != kind
        if kind in media.values():
            if is_last:
                pieces.append(Piece(kind, f"[{kind}: {len(waiting)} tokens]", len(waiting)))
                waiting = []
            continue
        text = tokenizer.decode(waiting)
        if is_last or not text.endswith("\ufffd"):  # else its last character goes on in the next token
            pieces.append(Piece(kind, text, len(waiting)))
            waiting = []
    return pieces


def images_of(batch: dict, processor: MMGPTProcessor) -> list[Image.Image]:
    """Images or their tiles, and frames of videos, resized and cut as the vision encoder gets them; normalising is undone."""
    images = []
    if "spatial_shapes" in batch:
        side = processor.image_processor.patch_size
        for patches, (rows, columns) in zip(batch["pixel_values"], batch["spatial_shapes"].tolist(), strict=True):
            grid = patches[: rows * columns].reshape(rows, columns, side, side, -1)  # (rows, columns, side, side, 3)
            pixels = grid.permute(4, 0, 2, 1, 3).reshape(-1, rows * side, columns * side)  # (3, H, W)
            images.append(as_image(pixels, processor.image_processor))
    elif "pixel_values" in batch:  # (N, 3, H, W)
        images += [as_image(pixels, processor.image_processor) for pixels in batch["pixel_values"]]
    if "pixel_values_videos" in batch:
        images += [as_image(pixels, processor.video_processor) for pixels in batch["pixel_values_videos"]]
    return images


def as_image(pixels: torch.Tensor, image_processor) -> Image.Image:
    mean, std = image_processor.image_mean, image_processor.image_std
    if getattr(image_processor, "do_normalize", True) and mean is not None:
        pixels = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def spectrograms_of(batch: dict, processor: MMGPTProcessor) -> list[Image.Image]:
    """Windows of audio as the audio encoder gets them: time to the right, frequency upwards, padding cut off; of a waveform its spectrogram."""
    pictures = []
    for features, mask in zip(batch.get("input_features", ()), batch.get("input_features_mask", ()), strict=True):
        features = features[..., mask.bool()].float().numpy()  # (M, F), or (samples,)
        if features.ndim == 1:
            pictures.append(spectrogram(features, processor.feature_extractor.sampling_rate))
            continue
        low, high = features.min(), features.max()
        brightness = (features - low) / max(high - low, 1e-6)
        pictures.append(Image.fromarray(matplotlib.colormaps["magma"](np.flipud(brightness), bytes=True)[..., :3]))
    return pictures
