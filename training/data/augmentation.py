r"""Random changes to training samples, as a wrapper around any collator.

Images and sounds are changed as people see and hear them, before they are cut into tiles, patches or windows, and spectrograms as
tensors of the batch, so that all of it works with any tower. Videos stay as they are. Randomness is torch's global generator:
Trainer seeds it and saves its state.
"""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import soundfile
import torch
from torchvision.transforms import v2

from modeling_mmgpt.media_loading_mmgpt import load_image


if TYPE_CHECKING:
    from training.recipe import AugmentationArguments


class AugmentingCollator:
    r"""
    collator (callable): rows to batch, such as MMGPTCollator.
    augment (`AugmentationArguments`): how much of each change; training/recipe.py documents the amounts.
    by_task (`dict[str, AugmentationArguments]`, *optional*): those of the rows of a task, in place of `augment`.
    """

    def __init__(
        self, collator, augment: AugmentationArguments, by_task: dict[str, AugmentationArguments] | None = None
    ):
        self.collator = collator
        self.augment = augment
        self.by_task = {task: AugmentingCollator(collator, changes) for task, changes in (by_task or {}).items()}
        amounts = {kind: [] for kind in ("audio", "image", "spectrogram")}
        for name, amount in dataclasses.asdict(augment).items():
            amounts[name.partition("_")[0]].append(amount)
        self.changes_sounds, self.changes_images = any(amounts["audio"]), any(amounts["image"])

    def __call__(self, rows: list[dict]) -> dict:
        each = [self.by_task.get(row.get("task"), self) for row in rows]
        batch = self.collator([one.augment_row(row) for one, row in zip(each, rows, strict=True)])
        if batch.get("input_features") is None:
            return batch
        if len(set(each)) == 1:
            batch["input_features"] = each[0].augment_spectrograms(batch["input_features"])
            return batch
        windows = batch.get("audio_windows")  # of each sound; without them a sound is one spectrogram
        of_sounds = [one for one, row in zip(each, rows, strict=True) for _ in row.get("audios") or []]
        counts = [1] * len(of_sounds) if windows is None else windows.tolist()
        pieces = batch["input_features"].split(counts)
        changed = [one.augment_spectrograms(piece) for one, piece in zip(of_sounds, pieces, strict=True)]
        batch["input_features"] = torch.cat(changed)
        return batch

    def augment_row(self, row: dict) -> dict:
        if self.changes_sounds and row.get("audios"):
            row = {**row, "audios": [self.augment_sound(audio) for audio in row["audios"]]}
        if self.changes_images and row.get("images"):
            row = {**row, "images": [self.augment_image(image) for image in row["images"]]}
        return row

    def augment_sound(self, audio: dict) -> dict:
        """A stretch of it, another speed (and with it pitch), a later start, another level, and noise."""
        augment = self.augment
        wave, rate = read_sound(audio)
        if augment.audio_crop:
            length = max(1, round(len(wave) * (1 - uniform(0, augment.audio_crop))))
            start = int(uniform(0, len(wave) - length + 1))
            wave = wave[start : start + length]
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

    def augment_image(self, image) -> PIL.Image.Image:
        """Mirrored, turned, nearer or farther, moved, and in another light."""
        augment = self.augment
        image = load_image(image)
        if augment.image_flip and uniform(0, 1) < 0.5:
            image = v2.functional.horizontal_flip(image)
        shift = [round(uniform(-augment.image_shift, augment.image_shift)) for _ in ("sideways", "up or down")]
        angle = uniform(-augment.image_rotation, augment.image_rotation)
        scale = 1 + uniform(-augment.image_scale, augment.image_scale)
        image = move_image(image, shift, angle, scale)
        light = augment.image_light
        return v2.ColorJitter(brightness=light, contrast=light, saturation=light)(image) if light else image


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


def move_image(image: PIL.Image.Image, shift: list[int], angle: float = 0.0, scale: float = 1.0) -> PIL.Image.Image:
    """The image moved by so many pixels to the right and down, turned by `angle` degrees and enlarged about its centre. What moves
    in repeats the edge."""
    turns = bool(angle) or scale != 1
    margin = max(map(abs, shift)) + (max(image.size) // 2 if turns else 0)
    if not margin:
        return image
    wide = v2.functional.pad(image, margin, padding_mode="edge")
    moved = v2.functional.affine(
        wide, angle, shift, scale, shear=[0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR
    )
    return v2.functional.center_crop(moved, [image.height, image.width])
