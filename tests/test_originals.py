"""Conversion of originals: the very samples that were measured, or, where only some originals are at hand, those of them."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import yaml
from PIL import Image

from training.data.fetch import DATASETS, known_sets
from training.data.originals import CONVERTERS, describe_media, digest_of


SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
WHOLE = [
    "crows_pairs",
    "easy_vqa",
    "fashion_mnist_small",
    "gsm8k",
    "opennmt_ende",
    "squad2_devhalf",
    "tinyshakespeare",
]


def description_of(name: str) -> dict:
    return yaml.safe_load((DATASETS / f"{name}.yaml").read_text(encoding="utf-8"))


def originals_at(name: str, folder: Path) -> Path:
    """A folder for each origin, as fetching leaves them."""
    if not (SHARED / "originals" / name).is_dir():
        pytest.skip(f"the originals of {name} are not in {SHARED}")
    for key, origin in description_of(name)["origins"].items():
        (folder / key).symlink_to(SHARED / "originals" / name / origin["repository"] / origin["commit"])
    return folder


def shipped(name: str, file: str) -> list[dict]:
    path = SHARED / "data" / name / file
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def described(record: dict, decoded: bool) -> dict:
    return {
        key: describe_media(key, value, decoded) if isinstance(value, bytes) else value
        for key, value in record.items()
    }


def test_every_set_has_a_converter_and_every_recipe_a_set():
    assert set(CONVERTERS) == set(known_sets())
    for name in known_sets():
        description = description_of(name)
        assert (
            description["about"] and description["terms"] and description["license"] == description["license"].lower()
        )


@pytest.mark.parametrize("name", WHOLE)
def test_whole_originals_become_the_samples_that_were_measured(name, tmp_path):
    description = description_of(name)
    files = CONVERTERS[name](originals_at(name, tmp_path))
    assert set(files) == set(description["files"])
    for file, about in description["files"].items():
        assert len(files[file]) == about["samples"]
        assert digest_of(files[file], description["decoded"]) == about["sha256"]


@pytest.mark.parametrize(
    ("name", "column"),
    [("fsdd", "id"), ("nlvr", "id"), ("esc10", "id"), ("sign_digits", "id"), ("dialogsum", "fname")],
)
def test_some_originals_become_the_samples_of_them(name, column, tmp_path):
    description, count = description_of(name), 0
    for file, records in sample_of(name, originals_at(name, tmp_path)).items():
        right = {record[column]: record for record in shipped(name, file)}
        for record in records:
            count += 1
            assert list(record) == list(right[record[column]])
            assert described(record, description["decoded"]) == described(
                right[record[column]], description["decoded"]
            )
    assert count >= 10


def sample_of(name: str, originals: Path) -> dict[str, list[dict]]:
    """What can be made of the originals at hand: of NLVR's sentences those whose images are there, of DialogSum's, all."""
    if name != "nlvr":
        return CONVERTERS[name](originals)
    there = originals.parent / "there"
    (there / "origin").mkdir(parents=True)
    for part in ("dev", "test"):
        folder = originals / "origin" / "nlvr" / part
        lines = (folder / f"{part}.json").read_text(encoding="utf-8").splitlines()
        orders = {"dev": range(6), "test": range(1)}[part]
        kept = []
        for line in lines:
            record = json.loads(line)
            names = [f"{part}-{record['identifier']}-{order}.png" for order in orders]
            if all((folder / "images" / str(record["directory"]) / name).is_file() for name in names):
                kept.append(line)
        copy = there / "origin" / "nlvr" / part
        copy.mkdir(parents=True)
        (copy / f"{part}.json").write_text("\n".join(kept), encoding="utf-8")
        (copy / "images").symlink_to(folder / "images")
    return CONVERTERS[name](there)


def test_the_digest_sees_every_change_of_a_record_and_its_order():
    records = [{"id": 1, "text": "ä"}, {"id": 2, "text": "b"}]
    digests = {
        digest_of(changed, decoded=True)
        for changed in (
            records,
            records[::-1],
            records[:1],
            [{"id": "1", "text": "ä"}, records[1]],
            [{"id": 1, "text": "a"}, records[1]],
        )
    }
    assert len(digests) == 5


def test_the_digest_of_media_is_that_of_their_content(tmp_path):
    for number, (name, level) in enumerate((("a.png", 1), ("b.png", 9), ("c.png", 1))):
        Image.new("RGB", (4, 3), (number // 2, 0, 0)).save(tmp_path / name, compress_level=level)
    one, same, other = ([{"image": (tmp_path / f"{name}.png").read_bytes()}] for name in "abc")
    assert digest_of(one, decoded=True) == digest_of(same, decoded=True) != digest_of(other, decoded=True)
    assert digest_of(one, decoded=False) == digest_of(other, decoded=False)
