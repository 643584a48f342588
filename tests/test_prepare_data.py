"""Preparing: each rule finds what it is for and nothing else, the report says why, the recipe reads the result."""

import io
import json
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
from training.data.cleaning.filters import judge_images, judge_language, judge_length, judge_repetition, judge_sounds
from training.data.mixture import load_mixture
from training.data.samples import FEATURES, assistant_turn, complete_sample, medium, user_turn
from training.data.synthetic.conversation import png_bytes, wav_bytes
from training.prepare_data import prepare
from training.recipe import CONFIGURATION, RecipeError, SourceArguments, build_recipe, load_recipe


DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
WAVE = np.sin(np.arange(800) / 5).astype(np.float32)
SENTENCE = "the quick brown fox jumps over the lazy dog while a small red bird sings in the old tree by the river"


def scene(seed: int) -> Image.Image:
    """A smooth picture, as photographs are: noise at random would have no perceptual hash to speak of."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=70)
    return buffer.getvalue()


def text_row(text: str) -> dict:
    return complete_sample({"messages": [assistant_turn(text)]})


def image_row(*images: bytes, answer: str = "red") -> dict:
    turns = [user_turn("What is it?", ("image",) * len(images)), assistant_turn(answer)]
    return complete_sample({"messages": turns, "images": [medium(data) for data in images]})


class TestFilters:
    def test_length(self):
        assert judge_length("  abc ", 3, 3) is None
        assert judge_length("  ab ", 3, None).reason == "too short"
        assert judge_length("abcd", 1, 3) == ("too long", "4 characters")

    def test_repetition(self):
        assert judge_repetition(SENTENCE, 0.0) is None
        assert judge_repetition("ha " * 19, 0.3) is None, "too short to say"
        objection = judge_repetition(f"{SENTENCE} " + "buy it now at our shop " * 20, 0.3)
        assert objection.reason == "repeats itself" and "buy it now" in objection.detail
        assert judge_repetition(f"{SENTENCE} {SENTENCE}", 0.5) is None  # 17 of 38 runs

    def test_blank_media(self):
        plain = medium(png_bytes(Image.new("RGB", (8, 8), (7, 7, 9))))
        assert judge_images([medium(png_bytes(make_image(1))), plain]) == (
            "blank image",
            "image 1 is all of one colour, RGB (7, 7, 9)",
        )
        assert judge_images([medium(png_bytes(scene(1)))]) is None
        assert judge_sounds([medium(wav_bytes(WAVE, 8000))]) is None
        assert judge_sounds([medium(wav_bytes(WAVE * 0, 8000))]).reason == "silent sound"

    def test_language(self):
        german = "Das Ergebnis der Wahl in den beiden Ländern war am Abend noch nicht bekannt."
        assert judge_language(german, []) is None and judge_language(german, ["de"]) is None
        assert judge_language(german, ["en"]).reason == "other language"
        assert judge_language("kurz", ["en"]) is None, "too short to say"

    def test_language_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "py3langid", None)
        with pytest.raises(ImportError, match=r"mmgpt\[prepare\]"):
            judge_language(SENTENCE, ["en"])


class TestDuplicates:
    def find(self, first: dict, second: dict):
        finder = DuplicateFinder(similarity=0.8, distance=4)
        finder.add("first", take_fingerprint(first))
        print_ = take_fingerprint(second)
        if finder.same_as(print_):
            return "same"
        return "near" if finder.nearly_same_as(print_) else None

    def test_texts(self):
        words = (SENTENCE + " " + SENTENCE[::-1] + " " + " ".join(map(str, range(60)))).split()
        text = " ".join(words)
        assert self.find(text_row(text), text_row(text)) == "same"
        assert self.find(text_row(text), text_row(text.upper() + "!")) == "near"
        assert self.find(text_row(text), text_row(" ".join([*words[:50], "other", *words[51:]]))) == "near"
        assert self.find(text_row(text), text_row(" ".join(words[: len(words) // 2]))) is None
        assert self.find(text_row("a cat"), text_row("a dog")) is None

    def test_images(self):
        original = png_bytes(scene(1))
        smaller = jpeg(scene(1).resize((64, 64)))
        assert self.find(image_row(original), image_row(original)) == "same"
        assert self.find(image_row(original), image_row(smaller)) == "near"
        assert self.find(image_row(original), image_row(png_bytes(scene(2)))) is None
        assert self.find(image_row(original), image_row(smaller, answer="blue")) is None, "another question"
        assert self.find(image_row(original), image_row(smaller, png_bytes(scene(2)))) is None

    def test_sounds(self):
        def row(wave):
            turns = [user_turn("What?", ("audio",)), assistant_turn("a bell")]
            return complete_sample({"messages": turns, "audios": [medium(wav_bytes(wave, 8000))]})

        assert self.find(row(WAVE), row(WAVE)) == "same"
        assert self.find(row(WAVE), row(WAVE[::-1])) is None


class TestContamination:
    def find(self, evaluation: dict, row: dict, copies: int = 1) -> str | None:
        from training.data.cleaning.filters import whole_text

        index = EvaluationIndex(words=13, distance=4)
        for copy in range(copies):
            index.add(f"test-{copy}", whole_text(evaluation), take_fingerprint(evaluation))
        return index.find(whole_text(row), take_fingerprint(row))

    def test_texts(self):
        said = f"He said: {SENTENCE.upper()}, and went home."
        assert "'the quick brown fox" in self.find(text_row(SENTENCE), text_row(said))
        words = SENTENCE.split()
        assert self.find(text_row(SENTENCE), text_row(" ".join(words[:12]))) is None
        assert self.find(text_row(" ".join(words[:9])), text_row(SENTENCE)) is not None, "a whole evaluation text"
        assert self.find(text_row("Yes, it is."), text_row("Yes, it is.")) is None, "too short to tell"
        assert self.find(text_row(SENTENCE), text_row(SENTENCE), copies=11) is None, "the words of a prompt"

    def test_media(self):
        found = self.find(image_row(png_bytes(scene(1))), image_row(jpeg(scene(1)), answer="another question"))
        assert found == "an image like that of test-0"
        assert self.find(image_row(png_bytes(scene(1))), image_row(png_bytes(scene(2)))) is None


@pytest.fixture
def recipe(tmp_path):
    """Nine pictures, of which one is good alone; three texts, of which one stands in the test set."""
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
        Dataset.from_dict(columns).to_parquet(tmp_path / "data" / f"pictures-{split}.parquet")
    texts = {"train": [f"so {SENTENCE} still", "short", " ".join(map(str, range(30)))], "test": [SENTENCE]}
    for split, lines in texts.items():
        (tmp_path / "data" / f"texts-{split}.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in lines))
    (tmp_path / "data" / "lone.jsonl").write_text(json.dumps({"image": "lone.png", "label": "y"}))
    options = {"image": "image", "prompt": "What is it?"}
    pictures = {
        "format": "labelled_media",
        "files": "pictures-{split}.parquet",
        "name": "pictures",
        "options": options,
    }
    written = {"format": "text", "files": "texts-{split}.jsonl", "name": "texts"}
    lone = {**pictures, "files": "lone.jsonl", "name": "lone", "options": {**options, "media_folder": "."}}
    tree = {
        "model": {"preset": "nano"},
        "data": {"root": str(tmp_path / "data"), "train": [pictures, written, lone], "test": [pictures, written]},
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
        assert report["compared_with"] == {"pictures, split test": 1, "texts, split test": 1}
        assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
        text = (tmp_path / "out" / "report.md").read_text()
        assert "3 of 10 samples" in text and "- leak of pictures: it has an image like that of 'leak'" in text

    def test_a_recipe_reads_the_result(self, recipe, tmp_path):
        prepare(recipe, tmp_path / "out")
        made = SourceArguments("rows", "train", files=str(tmp_path / "out" / "*.parquet"))
        rows = load_mixture([made], None)
        assert rows.features == FEATURES
        assert [(row["id"], row["task"], row["metric"]) for row in rows] == [
            ("good", "pictures", None),
            ("train-2", "texts", "perplexity"),
            ("train-0", "lone", None),
        ]
        assert rows[2]["images"][0]["bytes"] == png_bytes(scene(5)), "media of their own files are inside"
        assert rows[0]["messages"] == load_mixture(recipe.data.train[:1], recipe.data.root)[0]["messages"]

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
        monkeypatch.setattr(prepare_data, "ROWS_OF_A_FILE", 2)
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
        assert report["read"] == 10_000 and counts == {"duplicate": 39, "near duplicate": 8, "repeats itself": 6}

    def test_command_line(self, tmp_path):
        (tmp_path / "texts.txt").write_text(f"{SENTENCE}\n{SENTENCE}\nanother text\n")
        recipe = {"model": {"preset": "nano"}, "data": {"train": [{"format": "text", "files": "texts.txt"}]}}
        (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
        script = Path(__file__).resolve().parent.parent / "training" / "prepare_data.py"
        command = [sys.executable, str(script), "mine.yaml", "--output", "out", "data.root=."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "2 of 3 samples are in out" in done.stdout and "1 duplicate" in done.stdout
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert again.returncode == 2 and "is there already" in again.stderr
