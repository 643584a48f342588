r"""Random changes to training samples, as a wrapper around any collator.

Images and audio are changed before they are cut into tiles, patches or windows, and spectrograms as tensors of the batch, so that
all of it works with any encoder. Videos stay as they are. Changes depend on nothing but the places of a batch's samples, the
pass over the data and the seed of the run: they are the same after a restart, with any number of workers and processes.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch
from torchvision.transforms import v2

from modeling_mmgpt.audio_loading_mmgpt import read_audio
from modeling_mmgpt.media_loading_mmgpt import load_image
from modeling_mmgpt.tools.packing import open_packs


if TYPE_CHECKING:
    from training.recipe import AugmentationArguments


class AugmentingCollator:
    r"""
    collator (callable): samples to batch, such as MMGPTCollator.
    augment (`AugmentationArguments`): how much of each change.
    seed (`int`): of the run.
    by_task (`dict[str, AugmentationArguments]`): those of the samples of a task, in place of `augment`.

    `epoch`, the pass over the data, is set from outside.
    """

    def __init__(self, collator, augment: AugmentationArguments, seed: int, by_task: dict[str, AugmentationArguments]):
        self.collator, self.augment, self.seed, self.by_task = collator, augment, seed, by_task
        self.epoch = 0

    def __call__(self, samples: list[dict]) -> dict:
        samples = open_packs(samples)
        each = [self.by_task.get(sample.get("task"), self.augment) for sample in samples]
        places = [sample.get("place", sample.get("id")) for sample in samples]
        with torch.random.fork_rng(devices=[]):  # dropout draws from the same generator
            torch.manual_seed(zlib.crc32(repr((self.seed, self.epoch, places)).encode()))
            batch = self.collator([augment_sample(one, augment) for one, augment in zip(samples, each, strict=True)])
            if batch.get("input_features") is not None:
                windows = batch.get("audio_windows")  # of each clip; without them a clip is one spectrogram
                of_clips = [
                    augment for one, augment in zip(samples, each, strict=True) for _ in one.get("audios") or []
                ]
                clips = batch["input_features"].split([1] * len(of_clips) if windows is None else windows.tolist())
                changed = [augment_spectrograms(*both) for both in zip(clips, of_clips, strict=True)]
                batch["input_features"] = torch.cat(changed)
            return batch


def augment_sample(sample: dict, augment: AugmentationArguments) -> dict:
    changed = {name.partition("_")[0] for name, amount in dataclasses.asdict(augment).items() if amount}
    if "audio" in changed and sample.get("audios"):
        sample = {**sample, "audios": [augment_audio(audio, augment) for audio in sample["audios"]]}
    if "image" in changed and sample.get("images"):
        sample = {**sample, "images": [augment_image(image, augment) for image in sample["images"]]}
    return sample


def augment_audio(audio: dict, augment: AugmentationArguments) -> dict:
    """Cropped, played at another speed (and with it pitch), delayed, at another level, with noise."""
    wave, rate = read_audio(audio)
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


def augment_spectrograms(spectrograms: torch.Tensor, augment: AugmentationArguments) -> torch.Tensor:
    """Bands and spans, (N, mel bins, frames), overwritten with the spectrogram's mean (SpecAugment)."""
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


def augment_image(image, augment: AugmentationArguments) -> PIL.Image.Image:
    """Mirrored, rotated, scaled, moved, and in another light."""
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
