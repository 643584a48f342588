r"""Random changes to training samples, as a wrapper around any collator.

Images and audio are changed before they are cut into tiles, patches or windows, and spectrograms as tensors of the batch, so that
all of it works with any encoder. Videos stay as they are. `AugmentingCollator` draws from torch's global generator;
`SeededCollator` seeds it for each batch, so that changes depend on nothing but the places of its samples, the pass over the data
and the seed of the run: they are the same after a restart, with any number of workers and processes.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import soundfile
import torch
from torchvision.transforms import v2

from modeling_mmgpt.media_loading_mmgpt import load_image
from modeling_mmgpt.tools.packing import open_packs


if TYPE_CHECKING:
    from training.recipe import AugmentationArguments


class SeededCollator:
    r"""
    collator (callable): a collator that draws from torch's global generator, such as AugmentingCollator.
    seed (`int`): of the run.
    """

    def __init__(self, collator, seed: int):
        self.collator = collator
        self.seed = seed
        self.epoch = 0

    def __call__(self, samples: list[dict]) -> dict:
        samples = open_packs(samples)
        places = [sample.get("place", sample.get("id")) for sample in samples]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(repr((self.seed, self.epoch, places)).encode()))
            return self.collator(samples)


class AugmentingCollator:
    r"""
    collator (callable): samples to batch, such as MMGPTCollator.
    augment (`AugmentationArguments`): how much of each change; training/recipe_sections.py documents the amounts.
    by_task (`dict[str, AugmentationArguments]`, *optional*): those of the samples of a task, in place of `augment`.
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
        self.changes_audio, self.changes_images = any(amounts["audio"]), any(amounts["image"])

    def __call__(self, samples: list[dict]) -> dict:
        each = [self.by_task.get(sample.get("task"), self) for sample in samples]
        batch = self.collator([one.augment_sample(sample) for one, sample in zip(each, samples, strict=True)])
        if batch.get("input_features") is None:
            return batch
        if len(set(each)) == 1:
            batch["input_features"] = each[0].augment_spectrograms(batch["input_features"])
            return batch
        windows = batch.get("audio_windows")  # of each clip; without them a clip is one spectrogram
        of_clips = [one for one, sample in zip(each, samples, strict=True) for _ in sample.get("audios") or []]
        counts = [1] * len(of_clips) if windows is None else windows.tolist()
        clips = batch["input_features"].split(counts)
        changed = [one.augment_spectrograms(clip) for one, clip in zip(of_clips, clips, strict=True)]
        batch["input_features"] = torch.cat(changed)
        return batch

    def augment_sample(self, sample: dict) -> dict:
        if self.changes_audio and sample.get("audios"):
            sample = {**sample, "audios": [self.augment_audio(audio) for audio in sample["audios"]]}
        if self.changes_images and sample.get("images"):
            sample = {**sample, "images": [self.augment_image(image) for image in sample["images"]]}
        return sample

    def augment_audio(self, audio: dict) -> dict:
        """Cropped, played at another speed (and with it pitch), delayed, at another level, with noise."""
        augment = self.augment
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
        """Mirrored, rotated, scaled, moved, and in another light."""
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


def read_audio(audio: dict) -> tuple[np.ndarray, int]:
    """Wave and sampling rate of audio in the sample format."""
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
