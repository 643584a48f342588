"""Random changes: what each one does, to whose samples, and that they depend on the sample's place, the pass and the seed alone."""

import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageDraw

from training.data.augmentation import (
    AugmentingCollator,
    augment_audio,
    augment_image,
    augment_sample,
    augment_spectrograms,
    change_speed,
    move_image,
    random_stretch,
)
from training.data.samples import user_turn
from training.recipe import AugmentationArguments


NONE = AugmentationArguments()


def draw(seed=0, epoch=0, samples=({"place": 1}, {"place": 2})) -> list[float]:
    collator = AugmentingCollator(lambda samples: {"drawn": torch.rand(3).tolist()}, NONE, seed, by_task={})
    collator.epoch = epoch
    return collator(list(samples))["drawn"]


def test_the_same_sample_in_the_same_pass_is_changed_alike():
    before = draw()
    torch.rand(5)
    assert draw() == before
    assert before not in (draw(epoch=1), draw(seed=1), draw(samples=({"place": 1}, {"place": 3})))


def test_nobody_else_notices_the_draws():
    state = torch.get_rng_state()
    draw()
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_of_a_pack_are_opened_first():
    collator = AugmentingCollator(lambda samples: {"samples": samples}, NONE, seed=0, by_task={})
    seen = collator([{"packed": [{"id": 1}, {"id": 2}], "place": 0}, {"id": 3}])["samples"]
    assert seen == [{"id": 1, "pack": 0}, {"id": 2, "pack": 0}, {"id": 3}]


class TestAugmentation:
    wave = np.sin(np.arange(1600) / 5).astype(np.float32)

    def test_off_by_default(self):
        sample = {"messages": [user_turn("q")], "audios": [{"array": self.wave, "sampling_rate": 8000}]}
        assert augment_sample(sample, NONE) == sample

    def test_shift_puts_silence_first(self):
        clip = augment_audio({"array": self.wave, "sampling_rate": 8000}, AugmentationArguments(audio_shift=0.1))
        silence = len(clip["array"]) - len(self.wave)
        assert 0 <= silence <= 800 and clip["sampling_rate"] == 8000
        np.testing.assert_array_equal(clip["array"][silence:], self.wave)
        assert not clip["array"][:silence].any()

    def test_speed(self):
        assert len(change_speed(self.wave, 2.0)) == 800
        np.testing.assert_allclose(change_speed(self.wave, 1.0), self.wave[:-1])

    def test_file_bytes_are_decoded(self):
        file = io.BytesIO()
        soundfile.write(file, self.wave, 8000, format="WAV")
        clip = augment_audio({"bytes": file.getvalue(), "path": None}, AugmentationArguments(audio_gain=1.0))
        assert clip["array"].dtype == np.float32 and clip["sampling_rate"] == 8000
        assert 0.8 < np.abs(clip["array"]).max() < 1.2

    def test_spectrogram_masks(self):
        spectrograms = torch.rand(8, 20, 30) + 1
        changes = AugmentationArguments(
            spectrogram_bands=1, spectrogram_band_width=4, spectrogram_spans=1, spectrogram_span_width=6
        )
        changed = augment_spectrograms(spectrograms, changes)
        masked = changed != spectrograms
        assert masked.any()
        for one in masked:
            bands, spans = one.all(dim=1).sum(), one.all(dim=0).sum()
            assert bands <= 4 and spans <= 6
            assert one.sum() == 30 * bands + 20 * spans - bands * spans

    def test_each_task_has_its_own_changes(self):
        """Audio and spectrograms of a source, also in one batch with others and where a clip is cut into several windows."""
        calls = AugmentationArguments(spectrogram_bands=1, spectrogram_band_width=9)
        spectrograms = torch.rand(4, 20, 30) + 1
        audio = {"array": self.wave, "sampling_rate": 8000}
        waves = []

        def collate(samples):
            waves.extend(sample["audios"][0]["array"] for sample in samples)
            return {"input_features": spectrograms, "audio_windows": torch.tensor([2, 1, 1])}

        samples = [{"task": task, "audios": [audio]} for task in ("calls", "fsdd", "calls")]
        collator = AugmentingCollator(collate, AugmentationArguments(audio_gain=6.0), 1, {"calls": calls})
        changed = collator(samples)["input_features"]
        assert [np.array_equal(wave, self.wave) for wave in waves] == [True, False, True]
        assert [bool((one != other).any()) for one, other in zip(changed, spectrograms, strict=True)][2] is False
        assert (changed[[0, 1, 3]] != spectrograms[[0, 1, 3]]).any()

    def test_stretch_stays_inside(self):
        for _ in range(100):
            start, stop = random_stretch(5, 9)
            assert 0 <= start <= stop <= 5

    def test_crop_keeps_a_stretch(self):
        for seed in range(5):
            torch.manual_seed(seed)
            cropped = augment_audio(
                {"array": self.wave, "sampling_rate": 8000}, AugmentationArguments(audio_crop=0.5)
            )["array"]
            assert 800 <= len(cropped) <= 1600
            assert any(np.array_equal(cropped, self.wave[at : at + len(cropped)]) for at in range(1601 - len(cropped)))

    def test_images_are_mirrored_before_anything_cuts_them(self):
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        image = Image.fromarray(pixels)
        changes = AugmentationArguments(image_flip=True)
        sample = {"messages": [user_turn("q", ("image",))], "images": [image] * 50}
        seen = {np.asarray(one).tobytes() for one in augment_sample(sample, changes)["images"]}
        assert seen == {pixels.tobytes(), pixels[:, ::-1].tobytes()}
        assert sample["images"] == [image] * 50

    def test_what_moves_in_repeats_the_edge(self):
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        image = Image.fromarray(pixels)
        assert move_image(image, [0, 0]) is image
        moved = np.asarray(move_image(image, [1, -2]))
        np.testing.assert_array_equal(moved, np.pad(pixels, ((0, 2), (1, 0), (0, 0)), mode="edge")[2:, :4])

    def test_images_turn_and_grow_about_their_centre(self):
        image = Image.new("RGB", (41, 21), "white")
        ImageDraw.Draw(image).rectangle((10, 8, 30, 12), fill="black")
        turned = np.asarray(move_image(image, [0, 0], angle=90.0).convert("L"))
        assert turned.shape == (21, 41) and turned[:, 20].max() < 60, "the bar stands upright"
        assert turned[10, 10] > 200 and turned[10, 30] > 200 and turned[[0, 0, 20, 20], [0, 40, 0, 40]].min() == 255
        grown = np.asarray(move_image(image, [0, 0], scale=1.5).convert("L"))
        assert (grown[10] < 128).sum() == pytest.approx(31, abs=2)

    def test_light_changes_images_of_any_source(self):
        file = io.BytesIO()
        Image.new("RGB", (9, 5), (90, 120, 150)).save(file, format="PNG")
        images = [
            augment_image({"bytes": file.getvalue(), "path": None}, AugmentationArguments(image_light=0.5))
            for _ in "abc"
        ]
        assert {image.size for image in images} == {(9, 5)} and len({image.getpixel((0, 0)) for image in images}) == 3

    def test_same_seed_same_changes(self):
        changes = AugmentationArguments(audio_noise=0.5, audio_speed=0.2)
        clip = {"array": self.wave, "sampling_rate": 8000}
        torch.manual_seed(3)
        first = augment_audio(clip, changes)["array"]
        torch.manual_seed(3)
        np.testing.assert_array_equal(augment_audio(clip, changes)["array"], first)
