r"""Random changes to training samples, as a wrapper around any collator.

Sounds are changed as waveforms, before the feature extractor, and spectrograms and images as tensors of the batch, so
that all of it works with any tower. Randomness is torch's global generator: Trainer seeds it and saves its state.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch


if TYPE_CHECKING:
    from training.recipe import AugmentationArguments


class AugmentingCollator:
    r"""
    collator (callable): rows to batch, such as MMGPTCollator.
    augment (`AugmentationArguments`): how much of each change; training/recipe.py documents the amounts.
    """

    def __init__(self, collator, augment: AugmentationArguments):
        self.collator = collator
        self.augment = augment
        self.changes_sounds = any((augment.audio_shift, augment.audio_speed, augment.audio_gain, augment.audio_noise))

    def __call__(self, rows: list[dict]) -> dict:
        batch = self.collator([self.augment_row(row) for row in rows])
        if batch.get("input_features") is not None:
            batch["input_features"] = self.augment_spectrograms(batch["input_features"])
        if batch.get("pixel_values") is not None:
            batch["pixel_values"] = self.augment_images(batch["pixel_values"])
        return batch

    def augment_row(self, row: dict) -> dict:
        if self.changes_sounds and row.get("audios"):
            row = {**row, "audios": [self.augment_sound(audio) for audio in row["audios"]]}
        return row

    def augment_sound(self, audio: dict) -> dict:
        """Another speed (and with it pitch), a later start, another level, and noise."""
        augment = self.augment
        wave, rate = read_sound(audio)
        if augment.audio_speed:
            wave = change_speed(wave, 1 + uniform(-augment.audio_speed, augment.audio_speed))
        if augment.audio_shift:
            wave = np.pad(wave, (round(uniform(0, augment.audio_shift) * rate), 0))
        if augment.audio_gain:
            wave = wave * 10 ** (uniform(-augment.audio_gain, augment.audio_gain) / 20)
        if augment.audio_noise:
            level = uniform(0, augment.audio_noise) * np.sqrt(np.mean(wave**2))
            wave = wave + level * torch.randn(len(wave)).numpy()
        return {"array": wave.astype(np.float32), "sampling_rate": rate}

    def augment_spectrograms(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Bands and spans, (N, mel bins, frames), overwritten with the spectrogram's mean (SpecAugment)."""
        augment = self.augment
        spectrograms = spectrograms.clone()
        for spectrogram in spectrograms:
            mean = spectrogram.mean()
            for _ in range(augment.spectrogram_bands):
                start, stop = random_stretch(spectrogram.shape[0], augment.spectrogram_band_width)
                spectrogram[start:stop] = mean
            for _ in range(augment.spectrogram_spans):
                start, stop = random_stretch(spectrogram.shape[1], augment.spectrogram_span_width)
                spectrogram[:, start:stop] = mean
        return spectrograms

    def augment_images(self, images: torch.Tensor) -> torch.Tensor:
        """Mirrored and moved images, (N, channels, height, width); what moves in repeats the edge."""
        changed = []
        for image in images:
            if self.augment.image_flip and uniform(0, 1) < 0.5:
                image = image.flip(-1)
            changed.append(move_image(image, self.augment.image_shift) if self.augment.image_shift else image)
        return torch.stack(changed)


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def random_stretch(length: int, longest: int) -> tuple[int, int]:
    """Start and stop of a stretch of 0 to `longest` places somewhere in `length`."""
    size = min(int(uniform(0, longest + 1)), length)
    start = int(uniform(0, length - size + 1))
    return start, start + size


def read_sound(audio: dict) -> tuple[np.ndarray, int]:
    """Samples and sampling rate of a sound in the sample format."""
    if audio.get("array") is not None:
        return np.asarray(audio["array"], dtype=np.float32), audio["sampling_rate"]
    source = io.BytesIO(audio["bytes"]) if audio.get("bytes") is not None else audio["path"]
    wave, rate = soundfile.read(source, dtype="float32")
    return (wave.mean(axis=-1) if wave.ndim == 2 else wave), rate  # channels are the last axis of a file


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """The wave played `factor` times as fast."""
    places = np.arange(0, len(wave) - 1, factor)
    return np.interp(places, np.arange(len(wave)), wave)


def move_image(image: torch.Tensor, furthest: int) -> torch.Tensor:
    """The image moved by -furthest to furthest pixels in each direction."""
    for dim in (1, 2):
        size = image.shape[dim]
        shift = round(uniform(-furthest, furthest))
        image = image.index_select(dim, (torch.arange(size) + shift).clamp(0, size - 1))
    return image
