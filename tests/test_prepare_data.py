"""Preparing: each rule finds what it is for and nothing else, the report says why, a recipe reads the result."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset
from PIL import Image

from tests.conftest import make_image
from training import prepare_data
from training.data.cleaning.contamination import EvaluationIndex
from training.data.cleaning.duplicates import DuplicateFinder, take_fingerprint
from training.data.cleaning.filters import check_audio, check_images, check_language, check_length, check_repetition
from training.data.samples import FEATURES, assistant_turn, complete_sample, medium, user_turn, whole_text
from training.data.synthetic.conversation import png_bytes, wav_bytes
from training.data.training_set import load_mixture
from training.prepare_data import prepare
from training.recipe import CONFIGURATION, RecipeError, SourceArguments, build_recipe, load_recipe


CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT.parent / "shared" / "data"
WAVE = np.sin(np.arange(800) / 5).astype(np.float32)
SENTENCE = "the quick brown fox jumps over the lazy dog while a small red bird sings in the old tree by the river"


def scene(seed: int) -> Image.Image:
    """A smooth image, like a photograph: the perceptual hash of random noise would say nothing."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=70)
    return buffer.getvalue()


def text_sample(text: str) -> dict:
    return complete_sample({"messages": [assistant_turn(text)]})


def image_sample(*images: bytes, answer: str = "red") -> dict:
    turns = [user_turn("What is it?", ("image",) * len(images)), assistant_turn(answer)]
    return complete_sample({"messages": turns, "images": [medium(data) for data in images]})


class TestFilters:
    def test_length(self):
        assert check_length("  abc ", 3, 3) is None
        assert check_length("  ab ", 3, None).reason == "too short"
        assert check_length("abcd", 1, 3) == ("too long", "4 characters")

    def test_repetition(self):
        assert check_repetition(SENTENCE, 0.0) is None
        assert check_repetition("ha " * 19, 0.3) is None, "too short to say"
        rejection = check_repetition(f"{SENTENCE} " + "buy it now at our shop " * 20, 0.3)
        assert rejection.reason == "repetitive" and "buy it now" in rejection.detail
        assert check_repetition(f"{SENTENCE} {SENTENCE}", 0.5) is None  # 17 of 38 runs

    def test_blank_media(self):
        plain = medium(png_bytes(Image.new("RGB", (8, 8), (7, 7, 9))))
        assert check_images([medium(png_bytes(make_image(1))), plain]) == (
            "blank image",
            "image 1 is all of one colour, RGB (7, 7, 9)",
        )
        assert check_images([medium(png_bytes(scene(1)))]) is None
        assert check_audio([medium(wav_bytes(WAVE, 8000))]) is None
        assert check_audio([medium(wav_bytes(WAVE * 0, 8000))]).reason == "silent audio"

    def test_language(self):
        german = "Das Ergebnis der Wahl in den beiden Ländern war am Abend noch nicht bekannt."
        assert check_language(german, []) is None and check_language(german, ["de"]) is None
        assert check_language(german, ["en"]).reason == "other language"
        assert check_language("kurz", ["en"]) is None, "too short to say"

    def test_language_names_the_packages(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "py3langid", None)
        with pytest.raises(
            ImportError, match=r"prepare\.languages needs py3langid: pip install datasketch imagehash py3langid"
        ):
            check_language(SENTENCE, ["en"])


class TestDuplicates:
    def find(self, first: dict, second: dict):
        finder = DuplicateFinder(similarity=0.8, distance=4)
        finder.add("first", take_fingerprint(first))
        fingerprint = take_fingerprint(second)
        if finder.same_as(fingerprint):
            return "same"
        return "near" if finder.nearly_same_as(fingerprint) else None

    def test_texts(self):
        words = (SENTENCE + " " + SENTENCE[::-1] + " " + " ".join(map(str, range(60)))).split()
        text = " ".join(words)
        assert self.find(text_sample(text), text_sample(text)) == "same"
        assert self.find(text_sample(text), text_sample(text.upper() + "!")) == "near"
        assert self.find(text_sample(text), text_sample(" ".join([*words[:50], "other", *words[51:]]))) == "near"
        assert self.find(text_sample(text), text_sample(" ".join(words[: len(words) // 2]))) is None
        assert self.find(text_sample("a cat"), text_sample("a dog")) is None

    def test_images(self):
        original = png_bytes(scene(1))
        smaller = jpeg(scene(1).resize((64, 64)))
        assert self.find(image_sample(original), image_sample(original)) == "same"
        assert self.find(image_sample(original), image_sample(smaller)) == "near"
        assert self.find(image_sample(original), image_sample(png_bytes(scene(2)))) is None
        assert self.find(image_sample(original), image_sample(smaller, answer="blue")) is None, "another question"
        assert self.find(image_sample(original), image_sample(smaller, png_bytes(scene(2)))) is None

    def test_audio(self):
        def sample(wave):
            turns = [user_turn("What?", ("audio",)), assistant_turn("a bell")]
            return complete_sample({"messages": turns, "audios": [medium(wav_bytes(wave, 8000))]})

        assert self.find(sample(WAVE), sample(WAVE)) == "same"
        assert self.find(sample(WAVE), sample(WAVE[::-1])) is None


class TestContamination:
    def find(self, evaluation: dict, sample: dict, copies: int = 1) -> str | None:
        index = EvaluationIndex(words=13, distance=4)
        for copy in range(copies):
            index.add(f"test-{copy}", whole_text(evaluation), take_fingerprint(evaluation))
        return index.find(whole_text(sample), take_fingerprint(sample))

    def test_texts(self):
        quoted = f"He said: {SENTENCE.upper()}, and went home."
        assert "'the quick brown fox" in self.find(text_sample(SENTENCE), text_sample(quoted))
        words = SENTENCE.split()
        assert self.find(text_sample(SENTENCE), text_sample(" ".join(words[:12]))) is None
        assert self.find(text_sample(" ".join(words[:9])), text_sample(SENTENCE)) is not None, (
            "a whole evaluation text"
        )
        assert self.find(text_sample("Yes, it is."), text_sample("Yes, it is.")) is None, "too short to tell"
        assert self.find(text_sample(SENTENCE), text_sample(SENTENCE), copies=11) is None, "the words of a prompt"

    def test_media(self):
        found = self.find(image_sample(png_bytes(scene(1))), image_sample(jpeg(scene(1)), answer="another question"))
        assert found == "an image like that of test-0"
        assert self.find(image_sample(png_bytes(scene(1))), image_sample(png_bytes(scene(2)))) is None


@pytest.fixture
def recipe(tmp_path):
    """Seven images, of which two are good, and three texts, of which one is in the test set."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lone.png").write_bytes(png_bytes(scene(5)))
    images = {
        "good": png_bytes(scene(1)),
        "same": png_bytes(scene(1)),
        "near": jpeg(scene(1)),
        "torn": png_bytes(scene(2))[:90],
        "grey": png_bytes(Image.new("RGB", (32, 32), (128, 128, 128))),
        "leak": jpeg(scene(3)),
    }
    for split, names in (("train", list(images)), ("test", ["leak"])):
        columns = {"id": names, "image": [images[name] for name in names], "label": ["x"] * len(names)}
        Dataset.from_dict(columns).to_parquet(tmp_path / "data" / f"photos-{split}.parquet")
    texts = {"train": [f"so {SENTENCE} still", "short", " ".join(map(str, range(30)))], "test": [SENTENCE]}
    for split, lines in texts.items():
        (tmp_path / "data" / f"texts-{split}.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in lines))
    (tmp_path / "data" / "lone.jsonl").write_text(json.dumps({"image": "lone.png", "label": "y"}))
    options = {"image": "image", "prompt": "What is it?"}
    photos = {
        "format": "labelled_media",
        "files": "photos-{split}.parquet",
        "name": "photos",
        "options": options,
    }
    texts_source = {"format": "text", "files": "texts-{split}.jsonl", "name": "texts"}
    lone = {**photos, "files": "lone.jsonl", "name": "lone", "options": {**options, "media_folder": "."}}
    tree = {
        "model": {"preset": "nano"},
        "data": {
            "root": str(tmp_path / "data"),
            "train": [photos, texts_source, lone],
            "test": [photos, texts_source],
        },
        "prepare": {"min_characters": 10},
    }
    return build_recipe(tree, "mine", "mine.yaml")


class TestPrepare:
    @pytest.mark.parametrize("processes", [None, 2])
    def test_each_sample_is_kept_or_named_with_its_reason(self, recipe, tmp_path, processes):
        report = prepare(recipe, tmp_path / "out", processes)
        reasons = {
            "broken": ["torn"],
            "blank image": ["grey"],
            "duplicate": ["same"],
            "near duplicate": ["near"],
            "contaminated": ["leak", "train-0"],
            "too short": ["train-1"],
        }
        found = {why: [one["id"] for one in dropped["examples"]] for why, dropped in report["dropped"].items()}
        assert found == reasons
        assert report["read"] == 10 and report["kept"] == 3
        assert report["sources"]["texts"] == {"read": 3, "kept": 1, "contaminated": 1, "too short": 1}
        assert report["compared_with"] == {"photos, split test": 1, "texts, split test": 1}
        assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
        text = (tmp_path / "out" / "report.md").read_text()
        assert "3 of 10 samples kept" in text and "- leak of photos: it has an image like that of 'leak'" in text

    def test_a_recipe_reads_the_result(self, recipe, tmp_path):
        prepare(recipe, tmp_path / "out")
        made = SourceArguments("samples", "train", files=str(tmp_path / "out" / "*.parquet"))
        samples = load_mixture([made], None)
        assert samples.features == FEATURES
        assert [(one["id"], one["task"], one["metric"]) for one in samples] == [
            ("good", "photos", None),
            ("train-2", "texts", "perplexity"),
            ("train-0", "lone", None),
        ]
        assert samples[2]["images"][0]["bytes"] == png_bytes(scene(5)), "the bytes of media files are inside"
        assert samples[0]["messages"] == load_mixture(recipe.data.train[:1], recipe.data.root)[0]["messages"]

    def test_nothing_is_half_written(self, recipe, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(prepare_data, "as_text", fail)
        with pytest.raises(OSError, match="disk full"):
            prepare(recipe, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        (tmp_path / "out").mkdir()
        with pytest.raises(RecipeError, match="is there already"):
            prepare(recipe, tmp_path / "out")

    def test_several_files(self, recipe, tmp_path, monkeypatch):
        monkeypatch.setattr(prepare_data, "SAMPLES_OF_A_FILE", 2)
        prepare(recipe, tmp_path / "out")
        files = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
        assert files == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
        assert sum(parquet.read_metadata(tmp_path / "out" / name).num_rows for name in files) == 3

    def test_the_figures_of_the_readme(self, tmp_path):
        if not (DATA / "opennmt_ende").is_dir():
            pytest.skip(f"the data set opennmt_ende is not at {DATA}")
        report = prepare(
            load_recipe(CONFIGURATION / "recipes" / "opennmt_ende.yaml", [f"data.root={DATA}"]), tmp_path / "out"
        )
        counts = {reason: dropped["count"] for reason, dropped in report["dropped"].items()}
        assert report["read"] == 10_000 and counts == {"duplicate": 39, "near duplicate": 8, "repetitive": 6}

    def test_command_line(self, tmp_path):
        (tmp_path / "texts.txt").write_text(f"{SENTENCE}\n{SENTENCE}\nanother text\n")
        recipe = {"model": {"preset": "nano"}, "data": {"train": [{"format": "text", "files": "texts.txt"}]}}
        (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "training.prepare_data", "mine.yaml", "--output", "out", "data.root=."]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "2 of 3 samples are in out" in done.stdout and "1 duplicate" in done.stdout
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert again.returncode == 2 and "is there already" in again.stderr
