"""Preparing: each rule finds what it is for and nothing else, the report says why, a recipe reads the result."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset
from PIL import Image

from tests.toy_training import toy_texts
from training import prepare_data
from training.data.formats import OWN_DATA, OwnData
from training.data.samples import FEATURES, assistant_turn, complete_sample, medium, user_turn, whole_text
from training.data.synthetic.conversation import png_bytes
from training.data.training_set import load_mixture
from training.prepare_data import load_samples, prepare
from training.recipe import (
    CONFIGURATION,
    DataArguments,
    PrepareArguments,
    Recipe,
    RecipeError,
    SourceArguments,
    build_recipe,
    load_recipe,
)


CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT.parent / "shared" / "data"
WAVE = np.sin(np.arange(800) / 5).astype(np.float32)
SENTENCE = "the quick brown fox jumps over the lazy dog while a small red bird sings in the old tree by the river"


def smooth_image(seed: int) -> Image.Image:
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


@pytest.fixture
def recipe(tmp_path):
    """Seven images, of which two are good, and three texts, of which one is in the test set."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lone.png").write_bytes(png_bytes(smooth_image(5)))
    images = {
        "good": png_bytes(smooth_image(1)),
        "same": png_bytes(smooth_image(1)),
        "near": jpeg(smooth_image(1)),
        "torn": png_bytes(smooth_image(2))[:90],
        "grey": png_bytes(Image.new("RGB", (32, 32), (128, 128, 128))),
        "leak": jpeg(smooth_image(3)),
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


def text_recipe(folder: Path, lines: list[str], **prepare) -> Recipe:
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    source = {"format": "text", "files": "texts.jsonl", "name": "letters"}
    tree = {"model": {"preset": "nano"}, "data": {"root": str(folder), "train": [source]}, "prepare": prepare}
    return build_recipe(tree, "mine", "mine.yaml")


def texts_in(folder: Path) -> list[str]:
    made = SourceArguments("samples", "train", files=str(folder / "*.parquet"))
    return [whole_text(sample) for sample in load_mixture([made], None)]


class TestPersonalData:
    LINES = [
        "Write to ann@example.org or bob@example.org, or call +44 20 7946 0958.",
        "My account is DE89 3704 0044 0532 0130 00, and that is all I have to say about it today.",
        SENTENCE,
    ]

    def test_samples_with_any_are_dropped_and_named_without_them(self, tmp_path):
        report = prepare(text_recipe(tmp_path, self.LINES, personal_data="drop"), tmp_path / "out")
        details = [(one["id"], one["detail"]) for one in report["dropped"]["personal data"]["examples"]]
        assert details == [("train-0", "2 email, 1 phone"), ("train-1", "1 iban")] and report["masked"] == {}
        assert texts_in(tmp_path / "out") == [SENTENCE]
        assert not re.search("example|3704|7946", (tmp_path / "out" / "report.md").read_text())

    def test_or_masked_and_counted(self, tmp_path):
        report = prepare(text_recipe(tmp_path, self.LINES, personal_data="mask"), tmp_path / "out")
        assert texts_in(tmp_path / "out") == [
            "Write to [email] or [email], or call [phone].",
            "My account is [iban], and that is all I have to say about it today.",
            SENTENCE,
        ]
        name = "'train-0' of letters"
        assert report["masked"] == {
            "email": {"count": 2, "samples": 1, "examples": [name]},
            "phone": {"count": 1, "samples": 1, "examples": [name]},
            "iban": {"count": 1, "samples": 1, "examples": ["'train-1' of letters"]},
        }
        text = (tmp_path / "out" / "report.md").read_text()
        assert f"## masked: 2 email in 1 samples\n\n- {name}\n" in text and "example.org" not in text

    def test_what_differs_in_nothing_else_is_a_duplicate(self, tmp_path):
        lines = [f"{SENTENCE}, writes {name}@example.org" for name in ("ann", "bob")]
        report = prepare(text_recipe(tmp_path, lines, personal_data="mask"), tmp_path / "out")
        assert report["dropped"]["duplicate"]["count"] == 1 and report["masked"]["email"]["count"] == 1

    def test_only_the_kinds_that_are_asked_for(self, tmp_path):
        recipe = text_recipe(tmp_path, self.LINES, personal_data="mask", personal_data_kinds=["iban"])
        assert list(prepare(recipe, tmp_path / "out")["masked"]) == ["iban"]
        with pytest.raises(
            RecipeError, match=r"unknown personal_data_kinds: 'e-mail'; the nearest valid name is 'email'"
        ):
            text_recipe(tmp_path, self.LINES, personal_data_kinds=["e-mail"])
        with pytest.raises(
            RecipeError, match=r"`prepare\.personal_data` is 'hide'; it must be 'drop' or 'mask' or null"
        ):
            text_recipe(tmp_path, self.LINES, personal_data="hide")


class TestClassifiers:
    def test_what_a_classifier_finds_is_left_out(self, tmp_path, toxic_words):
        lines = ["it was a lovely day and", "it was a filthy day and", "the awful day", "awful"]
        classifier = {"model": str(toxic_words), "label": "toxic"}
        recipe = text_recipe(tmp_path, lines, classifiers=[classifier], min_characters=6)
        report = prepare(recipe, tmp_path / "out")
        found = report["dropped"]["classified as toxic"]
        assert [one["id"] for one in found["examples"]] == ["train-1", "train-2"]
        assert found["examples"][0]["detail"].endswith(f"by {toxic_words}, at least 0.5")
        assert report["dropped"]["too short"]["count"] == 1, "the filters come first"
        assert report["settings"]["classifiers"] == [{**classifier, "threshold": 0.5}]
        assert texts_in(tmp_path / "out") == lines[:1]

    def test_a_threshold_of_its_own(self, tmp_path, toxic_words):
        classifier = {"model": str(toxic_words), "label": "fine", "threshold": 0.5}
        recipe = text_recipe(tmp_path, ["a lovely day", "stupid day"], classifiers=[classifier])
        assert prepare(recipe, tmp_path / "out")["kept"] == 1 and texts_in(tmp_path / "out") == ["stupid day"]

    @pytest.mark.parametrize(
        ("classifiers", "message"),
        [
            ([{"model": "x"}], r"`prepare\.classifiers\.0\.label` is missing"),
            (
                [{"model": "x", "label": "y", "threshold": 2}],
                r"`prepare\.classifiers\.0\.threshold` is 2; .*from 0 to 1",
            ),
            ([{"model": "x", "label": "y", "cut": 2}], r"unknown key `prepare\.classifiers\.0\.cut`"),
            ({"model": "x"}, r"`prepare\.classifiers` is .*; it must be a list"),
        ],
    )
    def test_mistakes_are_named_with_their_place(self, tmp_path, classifiers, message):
        with pytest.raises(RecipeError, match=message):
            text_recipe(tmp_path, ["a"], classifiers=classifiers)

    def test_the_resolved_recipe_resolves_to_itself(self, tmp_path):
        recipe = text_recipe(tmp_path, ["a"], classifiers=[{"model": "x", "label": "y"}], personal_data="mask")
        recipe.write(tmp_path / "again.yaml")
        assert load_recipe(tmp_path / "again.yaml").prepare == recipe.prepare

    def test_a_classifier_that_is_not_there_is_one_line(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "mine.yaml").write_text(
            json.dumps({"model": {"preset": "nano"}, "data": {"train": [{"format": "text", "files": "t.txt"}]}})
        )
        (tmp_path / "t.txt").write_text(SENTENCE)
        monkeypatch.chdir(tmp_path)
        options = ["--output", "out", "data.root=.", "prepare.classifiers=[{model: ./no, label: toxic}]"]
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", "mine.yaml", *options])
        with pytest.raises(SystemExit):
            prepare_data.main()
        assert "the classifier ./no cannot be loaded" in capsys.readouterr().err and not (tmp_path / "out").exists()


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
        assert samples[2]["images"][0]["bytes"] == png_bytes(smooth_image(5)), "the bytes of media files are inside"
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

    def test_a_limit_draws_what_training_draws(self, recipe, tmp_path):
        """And names all that is broken, which training passes over before it draws."""
        photos, texts, lone = recipe.data.train
        sources = [dataclasses.replace(photos, limit=2), dataclasses.replace(texts, limit=1), lone]
        limited = dataclasses.replace(
            recipe, data=DataArguments(sources, root=recipe.data.root), prepare=PrepareArguments(similarity=None)
        )
        report = prepare(limited, tmp_path / "out")
        assert {task: counts["read"] for task, counts in report["sources"].items()} == {
            "photos": 3,
            "texts": 1,
            "lone": 1,
        }
        assert report["dropped"]["broken"]["examples"][0]["id"] == "torn"
        drawn = {(one["task"], one["id"]) for one in load_mixture(sources, recipe.data.root)}
        made = SourceArguments("samples", "train", files=str(tmp_path / "out" / "*.parquet"))
        kept = {(one["task"], one["id"]) for one in load_mixture([made], None)}
        dropped = [one for name in report["dropped"] for one in report["dropped"][name]["examples"]]
        assert kept | {(one["source"], one["id"]) for one in dropped if one["id"] != "torn"} == drawn
        assert len(drawn) == 4

    def test_a_limit_counts_for_data_that_bring_their_own_files(self, tmp_path, monkeypatch):
        monkeypatch.setitem(OWN_DATA, "toy_texts", OwnData(toy_texts))
        source = SourceArguments("toy_texts", "train", limit=3)
        assert (
            len(load_samples(source, None)) == 3
            and len(load_samples(SourceArguments("toy_texts", "train"), None)) == 20
        )

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
