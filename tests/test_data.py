"""Data adapters, mixtures and augmentation: rows of the one sample format, sampled as the recipe says."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageDraw

from training.data import ADAPTERS
from training.data.augmentation import AugmentingCollator, change_speed, move_image, random_stretch
from training.data.mixture import augmentations, describe_mixture, join_parts, load_mixture, load_source, weigh
from training.data.samples import FEATURES, answer_of, assistant_turn, make_dataset, text_of, user_turn
from training.recipe import AugmentationArguments, DataArguments, SourceArguments, build_recipe


DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def text_row(index: int) -> dict:
    return {"id": str(index), "task": "text", "messages": [user_turn(f"q{index}"), assistant_turn(f"a{index}")]}


def needs(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not at {DATA}")
    return DATA


class TestRows:
    def test_all_columns_are_there(self):
        rows = make_dataset([text_row(0)])
        assert rows.features == FEATURES
        assert rows[0]["images"] == [] and rows[0]["audios"] == []

    def test_text_and_answer(self):
        row = {"messages": [user_turn("which?", media=("image",)), assistant_turn(" this ")]}
        assert text_of(row["messages"][0]) == "which?"
        assert text_of({"role": "user", "content": "plain"}) == "plain"
        assert answer_of(row) == "this"

    def test_a_row_without_answer_is_named(self):
        with pytest.raises(ValueError, match="'7' ends with a user turn"):
            answer_of({"id": "7", "messages": [user_turn("which?")]})


class TestAdapters:
    @pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"boxes", "demo", "demo_course"}))  # these need no files
    def test_missing_data_names_the_way_out(self, name: str, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"data\.root=FOLDER"):
            ADAPTERS[name](tmp_path, "train")

    def test_fsdd(self):
        rows = ADAPTERS["fsdd"](needs("fsdd"), "test")
        assert len(rows) == 300
        assert Counter(answer_of(row) for row in rows) == {str(digit): 30 for digit in range(10)}
        row = rows[0]
        assert [item["type"] for item in row["messages"][0]["content"]] == ["audio", "text"]
        wave, rate = soundfile.read(io.BytesIO(row["audios"][0]["bytes"]))
        assert rate == 8000 and wave.ndim == 1

    def test_easy_vqa_asks_every_question_about_its_image(self):
        rows = ADAPTERS["easy_vqa"](needs("easy_vqa"), "validation")
        assert len(rows) == 3888
        for row in rows.select(range(20)):
            assert [item["type"] for item in row["messages"][0]["content"]] == ["image", "text"]
            assert len(row["messages"]) == 2 and len(row["images"]) == 1
        assert Image.open(io.BytesIO(rows[0]["images"][0]["bytes"])).size == (64, 64)
        without = ADAPTERS["easy_vqa"](DATA, "validation", open_only=True)
        assert {answer_of(row) for row in rows} - {answer_of(row) for row in without} == {"yes", "no"}


class TestMixture:
    @pytest.mark.parametrize(("weight", "count"), [(1.0, 10), (2.0, 20), (0.5, 5), (1.3, 13)])
    def test_weight_is_passes_per_epoch(self, weight: float, count: int):
        rows = weigh(make_dataset([text_row(index) for index in range(10)]), weight)
        assert len(rows) == count
        assert max(Counter(rows["id"]).values()) <= int(weight) + 1

    def test_weight_must_be_positive(self):
        with pytest.raises(ValueError, match="must be above 0"):
            weigh(make_dataset([text_row(0)]), 0.0)

    def test_unknown_adapter(self):
        with pytest.raises(ValueError, match="unknown format 'fsd'; the nearest valid name is 'fsdd'"):
            load_source(SourceArguments(format="fsd"), None)

    def test_sources_are_joined_and_limited(self):
        needs("fsdd"), needs("easy_vqa")
        sources = [SourceArguments("fsdd", "test", limit=5), SourceArguments("easy_vqa", "test", limit=7)]
        rows = load_mixture(sources, str(DATA))
        assert Counter(rows["task"]) == {"fsdd": 5, "easy_vqa": 7}
        assert rows["id"] == load_mixture(sources, str(DATA))["id"]


class TestBlocks:
    """Sources that alternate, so that a batch is of one of them."""

    def join(self, sizes: dict[str, int], spans: dict | None = None, weight: float = 2.0, block: int = 4) -> list[str]:
        sources = [
            SourceArguments("text", name=name, weight=weight, span=(spans or {}).get(name, [0, 1])) for name in sizes
        ]
        parts = [
            make_dataset([{**text_row(index), "task": name} for index in range(size)]) for name, size in sizes.items()
        ]
        return list(join_parts(parts, DataArguments(sources, block=block)))

    def test_each_block_is_of_one_source_and_sources_are_spread_evenly(self):
        rows = self.join({"a": 40, "b": 22})
        blocks = [rows[start : start + 4] for start in range(0, len(rows), 4)]
        assert all(len({row["task"] for row in block}) == 1 for block in blocks)
        order = "".join(block[0]["task"] for block in blocks)
        assert order.count("a") == 10 and order.count("b") == 5, "two rows of b do not fill a block"
        assert [order[start : start + 3].count("b") for start in range(0, 15, 3)] == [1] * 5
        assert sorted(int(row["id"]) for row in rows if row["task"] == "a") == list(range(40))

    def test_texts_of_a_block_are_alike_in_length_and_media_keep_their_order(self):
        long = [{**text_row(index), "messages": [assistant_turn("x" * (37 * index % 64))]} for index in range(64)]
        seen = [{**text_row(index), "images": [{"bytes": b"", "path": None}]} for index in range(8)]
        sources = [SourceArguments("text", name=name, weight=2.0) for name in "ab"]
        parts = [make_dataset(long), make_dataset(seen)]
        rows = list(join_parts(parts, DataArguments(sources, block=4)))
        assert [row["id"] for row in rows if row["images"]] == [str(index) for index in range(8)]
        lengths = [len(text_of(row["messages"][0])) for row in rows if not row["images"]]
        blocks = [lengths[start : start + 4] for start in range(0, 64, 4)]
        assert all(max(block) - min(block) == 3 for block in blocks) and blocks != sorted(blocks)

    def test_a_span_is_where_in_the_epoch_the_rows_come(self):
        order = [row["task"] for row in self.join({"first": 40, "all": 80}, {"first": [0, 0.25], "all": [0.25, 1]})]
        assert order == ["first"] * 40 + ["all"] * 80

    def test_a_single_pass_is_shuffled(self):
        ids = [row["id"] for row in self.join({"a": 40}, weight=1)]
        assert sorted(ids, key=int) == [str(index) for index in range(40)] != ids
        assert ids == [row["id"] for row in self.join({"a": 40}, weight=1)]

    def test_less_than_a_block_is_refused(self):
        with pytest.raises(ValueError, match=r"b has 3 rows, which do not fill data\.block=4"):
            self.join({"a": 4, "b": 3})


def test_the_mixture_is_described_with_its_licences():
    sources = [SourceArguments("fsdd", weight=2.0), SourceArguments("captions", dataset="me/pictures", license="mit")]
    fsdd, pictures = describe_mixture(sources, [600, 40])
    assert fsdd == {"source": "fsdd", "samples": 600, "weight": 2.0, "licence": "cc-by-sa-4.0"}
    assert pictures == {"source": "me/pictures", "samples": 40, "weight": 1.0, "licence": "mit"}
    assert [source["samples"] for source in describe_mixture(sources, None)] == [None, None]


class TestAugmentation:
    wave = np.sin(np.arange(1600) / 5).astype(np.float32)

    def collator(self, **changes) -> AugmentingCollator:
        return AugmentingCollator(dict, AugmentationArguments(**changes))

    def test_off_by_default(self):
        row = {"messages": [user_turn("q")], "audios": [{"array": self.wave, "sampling_rate": 8000}]}
        assert self.collator().augment_row(row) == row

    def test_shift_puts_silence_first(self):
        sound = self.collator(audio_shift=0.1).augment_sound({"array": self.wave, "sampling_rate": 8000})
        silence = len(sound["array"]) - len(self.wave)
        assert 0 <= silence <= 800 and sound["sampling_rate"] == 8000
        np.testing.assert_array_equal(sound["array"][silence:], self.wave)
        assert not sound["array"][:silence].any()

    def test_speed(self):
        assert len(change_speed(self.wave, 2.0)) == 800
        np.testing.assert_allclose(change_speed(self.wave, 1.0), self.wave[:-1])

    def test_file_bytes_are_decoded(self):
        file = io.BytesIO()
        soundfile.write(file, self.wave, 8000, format="WAV")
        sound = self.collator(audio_gain=1.0).augment_sound({"bytes": file.getvalue(), "path": None})
        assert sound["array"].dtype == np.float32 and sound["sampling_rate"] == 8000
        assert 0.8 < np.abs(sound["array"]).max() < 1.2

    def test_spectrogram_masks(self):
        spectrograms = torch.rand(8, 20, 30) + 1
        collator = self.collator(
            spectrogram_bands=1, spectrogram_band_width=4, spectrogram_spans=1, spectrogram_span_width=6
        )
        changed = collator.augment_spectrograms(spectrograms)
        masked = changed != spectrograms
        assert masked.any()
        for one in masked:
            bands, spans = one.all(dim=1).sum(), one.all(dim=0).sum()
            assert bands <= 4 and spans <= 6
            assert one.sum() == 30 * bands + 20 * spans - bands * spans

    def test_each_source_has_its_own_changes(self):
        """Sounds and spectrograms of a source, also in one batch with others and where a sound is cut into several windows."""
        sources = [{"format": "asr", "files": "calls/x.jsonl", "augment": {"audio_gain": 0.0, "spectrogram_bands": 1}}]
        sources[0]["augment"]["spectrogram_band_width"] = 9
        tree = {"model": {"preset": "nano"}, "data": {"train": [*sources, {"format": "fsdd"}]}}
        recipe = build_recipe({**tree, "augment": {"audio_gain": 6.0}}, "toy", "toy.yaml")
        rows = make_dataset([{**text_row(0), "task": "calls"}, {**text_row(1), "task": "fsdd"}])
        by_task = augmentations(recipe, rows)
        assert set(by_task) == {"calls"} and by_task["calls"].spectrogram_bands == 1

        spectrograms = torch.rand(4, 20, 30) + 1
        sound = {"array": self.wave, "sampling_rate": 8000}
        heard = []

        def collate(rows):
            heard.extend(row["audios"][0]["array"] for row in rows)
            return {"input_features": spectrograms, "audio_windows": torch.tensor([2, 1, 1])}

        torch.manual_seed(1)
        rows = [{"task": task, "audios": [sound]} for task in ("calls", "fsdd", "calls")]
        changed = AugmentingCollator(collate, recipe.augment, by_task)(rows)["input_features"]
        assert [np.array_equal(wave, self.wave) for wave in heard] == [True, False, True]
        assert [bool((one != other).any()) for one, other in zip(changed, spectrograms, strict=True)][2] is False
        assert (changed[[0, 1, 3]] != spectrograms[[0, 1, 3]]).any()
        with pytest.raises(ValueError, match="'calls' have other names"):
            augmentations(recipe, rows=make_dataset([text_row(0)]))

    def test_two_sources_of_one_name_change_alike(self):
        sources = [{"format": "fsdd", "augment": {"audio_gain": gain}} for gain in (1.0, 2.0)]
        recipe = build_recipe({"model": {"preset": "nano"}, "data": {"train": sources}}, "toy", "toy.yaml")
        with pytest.raises(ValueError, match="two sources are called 'fsdd'"):
            augmentations(recipe, None)

    def test_stretch_stays_inside(self):
        for _ in range(100):
            start, stop = random_stretch(5, 9)
            assert 0 <= start <= stop <= 5

    def test_crop_keeps_a_stretch(self):
        for seed in range(5):
            torch.manual_seed(seed)
            cropped = self.collator(audio_crop=0.5).augment_sound({"array": self.wave, "sampling_rate": 8000})["array"]
            assert 800 <= len(cropped) <= 1600
            assert any(np.array_equal(cropped, self.wave[at : at + len(cropped)]) for at in range(1601 - len(cropped)))

    def test_images_are_mirrored_before_anything_cuts_them(self):
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        image = Image.fromarray(pixels)
        collator = self.collator(image_flip=True)
        row = {"messages": [user_turn("q", ("image",))], "images": [image] * 50}
        seen = {np.asarray(one).tobytes() for one in collator.augment_row(row)["images"]}
        assert seen == {pixels.tobytes(), pixels[:, ::-1].tobytes()}
        assert row["images"] == [image] * 50

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
            self.collator(image_light=0.5).augment_image({"bytes": file.getvalue(), "path": None}) for _ in "abc"
        ]
        assert {image.size for image in images} == {(9, 5)} and len({image.getpixel((0, 0)) for image in images}) == 3

    def test_same_seed_same_changes(self):
        collator = self.collator(audio_noise=0.5, audio_speed=0.2)
        sound = {"array": self.wave, "sampling_rate": 8000}
        torch.manual_seed(3)
        first = collator.augment_sound(sound)["array"]
        torch.manual_seed(3)
        np.testing.assert_array_equal(collator.augment_sound(sound)["array"], first)
