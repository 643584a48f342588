r"""From the originals of a data set, as its authors publish them, to the very samples that the recipes were measured on.

A converter is a function `convert(originals: Path) -> {file of the set: its records}`; a record is a dict of columns, media as file
bytes; a text file is one record with the column `text`. `originals` has one folder for each origin in configuration/datasets.
`digest_of` says whether the samples are the right ones.
"""

import ast
import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from scipy.signal import resample_poly


Records = list[dict]
Splits = dict[str, Records]
SPLITS = ("train", "validation", "test")
RATE = 16_000  # Hz, of ESC-10 here
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CREDIT = re.compile(r"- \*\*\[(.+?)\.ogg\].*?clip derived from \[(.*)\]\((\S+?)\) by \*(.*)\* \(\[(.+?)\]\(")
RESTRICTED = "CC-Sampling+"  # clips of ESC-10 under this licence are left out


def parquet_files(splits: dict[str, Records]) -> Splits:
    return {f"{split}.parquet": records for split, records in splits.items()}


def json_files(splits: dict[str, Records]) -> Splits:
    return {f"{split}.jsonl.gz": records for split, records in splits.items()}


def read_json_lines(path: Path) -> Records:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def fsdd(originals: Path) -> Splits:
    """Recordings 0 to 4 of each speaker and digit are the test, as the authors say; 5 to 9 validation."""
    splits = {split: [] for split in SPLITS}
    for path in sorted((originals / "origin" / "recordings").glob("*.wav"), key=lambda path: path.name):
        label, speaker, index = path.stem.split("_")
        split = "test" if int(index) < 5 else "validation" if int(index) < 10 else "train"
        audio = path.read_bytes()
        seconds = round(soundfile.info(io.BytesIO(audio)).frames / 8000, 4)
        named = {"id": path.stem, "audio": audio, "label": int(label), "speaker": speaker, "index": int(index)}
        splits[split].append({**named, "duration_s": seconds})
    return parquet_files(splits)


def easy_vqa(originals: Path) -> Splits:
    """The authors' test; of their training images 3600 to 3999 are validation."""
    folder = originals / "origin" / "easy_vqa" / "data"
    files: Splits = {"answers.txt": [{"text": (folder / "answers.txt").read_text(encoding="utf-8")}]}
    for part, firsts in (("train", {"train": 0, "validation": 3600}), ("test", {"test": 0})):
        asked = json.loads((folder / part / "questions.json").read_text(encoding="utf-8"))
        images = sorted((int(path.stem), path) for path in (folder / part / "images").glob("*.png"))
        for split, first in firsts.items():
            last = 3600 if split == "train" else 4000

            def belongs(image_id: int, first: int = first, last: int = last) -> bool:
                return first <= image_id < last

            files[f"images_{split}.parquet"] = [
                {"image_id": number, "image": path.read_bytes()} for number, path in images if belongs(number)
            ]
            files[f"questions_{split}.parquet"] = [
                {"image_id": number, "question": question, "answer": answer}
                for question, answer, number in asked
                if belongs(number)
            ]
    return files


def esc10(originals: Path) -> Splits:
    """Folds 1 to 3 are training, 4 validation, 5 test: no recording is in two of the authors' folds."""
    folder = originals / "origin"
    credits = {}
    for line in (folder / "README.md").read_text(encoding="utf-8").split("\n"):
        if found := CREDIT.match(line):
            credits[found[1]] = dict(
                zip(("source_title", "source_url", "author", "clip_licence"), found.groups()[1:], strict=True)
            )
    splits = {split: [] for split in SPLITS}
    for path in sorted(folder.glob("*/*.ogg"), key=str):
        credit = credits[path.stem]
        if credit["clip_licence"] == RESTRICTED:
            continue
        number, _, category = path.parent.name.partition(" - ")
        fold = int(path.name[0])
        audio, samples = at_16_khz(path)
        record = {
            "id": path.stem,
            "audio": audio,
            "label": int(number) - 1,
            "category": category.lower(),
            "fold": fold,
        }
        split = "train" if fold < 4 else "validation" if fold == 4 else "test"
        splits[split].append({**record, "duration_s": round(samples / RATE, 3), **credit})
    return parquet_files(splits)


def at_16_khz(path: Path) -> tuple[bytes, int]:
    """A clip of 44.1 kHz as Ogg Vorbis of 16 kHz, and its samples."""
    wave, _ = soundfile.read(path, dtype="float32")
    wave = resample_poly(wave, 160, 441)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="OGG", subtype="VORBIS", compression_level=0.5)
    return buffer.getvalue(), len(wave)


def sign_digits(originals: Path) -> Splits:
    """Blocks of ten photographs, by number, which mostly show one signer: of each ten blocks one is validation, one test."""
    splits = {split: [] for split in SPLITS}
    for digit in range(10):
        for place, path in enumerate(sorted((originals / "origin" / "Dataset" / str(digit)).glob("*.JPG"))):
            split = {8: "validation", 9: "test"}.get(place // 10 % 10, "train")
            image = Image.open(path).convert("RGB")
            if image.size != (100, 100):  # three came as the camera took them
                image = image.resize((100, 100), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=95)  # without what the camera wrote about itself
            splits[split].append({"id": f"{digit}/{path.stem}", "image": buffer.getvalue(), "label": digit})
    return parquet_files(splits)


def fashion_mnist_small(originals: Path) -> Splits:
    """The leading images: the files that hold them are cut, and end in the midst of one."""

    def read(part: str) -> Records:
        labels = (originals / "labels" / "data" / "fashion" / f"{part}-labels-idx1-ubyte.gz").read_bytes()
        labels = gzip.decompress(labels)[8:]
        packed = (originals / "images" / "data" / "FashionMNIST" / "raw" / f"{part}-images-idx3-ubyte.gz").read_bytes()
        pixels = zlib.decompressobj(31).decompress(packed)[16:]
        images = np.frombuffer(pixels[: len(pixels) // 784 * 784], np.uint8).reshape(-1, 28, 28)
        return [
            {"id": place, "image": png_of(Image.fromarray(image)), "label": label, "label_name": GARMENTS[label]}
            for place, (image, label) in enumerate(zip(images, labels, strict=False))
        ]

    train = read("train")
    return parquet_files({"train": train[:1600], "validation": train[1600:], "test": read("t10k")})


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def nlvr(originals: Path) -> Splits:
    """The authors' development folders 0 to 4, in all six orders of the boxes, are training; 5 is validation; their test is the test."""
    folder = originals / "origin" / "nlvr"
    splits = {split: [] for split in SPLITS}
    for part in ("dev", "test"):
        for record in sorted(read_json_lines(folder / part / f"{part}.json"), key=lambda record: record["identifier"]):
            directory, identifier = str(record["directory"]), record["identifier"]
            split = "test" if part == "test" else "validation" if directory == "5" else "train"
            for order in range(6 if split == "train" else 1):
                name = f"{part}-{identifier}-{order}"
                image = Image.open(folder / part / "images" / directory / f"{name}.png").convert("RGB")
                splits[split].append(
                    {
                        "id": name,
                        "identifier": identifier,
                        "permutation": order,
                        "sentence": record["sentence"],
                        "label": record["label"] == "true",
                        "image": png_of(image),
                    }
                )
    return parquet_files(splits)


def tinyshakespeare(originals: Path) -> Splits:
    """The first nine tenths are training, as in nanoGPT."""
    text = (originals / "origin" / "data" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    end = int(0.9 * len(text))
    return {"train.txt": [{"text": text[:end]}], "validation.txt": [{"text": text[end:]}]}


def opennmt_ende(originals: Path) -> Splits:
    """Half of the authors' validation is the test."""

    def read(origin: str, part: str) -> Records:
        files = (originals / origin / "data" / f"{side}-{part}.txt" for side in ("src", "tgt"))
        lines = [path.read_text(encoding="utf-8").removesuffix("\n").split("\n") for path in files]
        return [{"en": english, "de": german} for english, german in zip(*lines, strict=True)]

    held_out = read("held_out", "val")
    half = len(held_out) // 2
    return json_files({"train": read("train", "train"), "validation": held_out[:half], "test": held_out[half:]})


def dialogsum(originals: Path) -> Splits:
    """Training as first published, since then in a file of Python literals; the rest as it is now."""
    with zipfile.ZipFile(originals / "train" / "DialogSum_Data.zip") as archive:
        lines = archive.read("DialogSum_Data/dialogsum.train.jsonl").decode().split("\n")
    held_out = originals / "held_out" / "DialogSum_Data"
    return json_files(
        {
            "train": [ast.literal_eval(line) for line in lines if line],
            "validation": read_json_lines(held_out / "dialogsum.dev.jsonl"),
            "test": read_json_lines(held_out / "dialogsum.test.jsonl"),
        }
    )


def squad2_devhalf(originals: Path) -> Splits:
    """By article, in the order of their titles."""
    path = originals / "origin" / "data" / "dev-v2.0.json"
    articles = sorted(json.loads(path.read_text(encoding="utf-8"))["data"], key=lambda article: article["title"])
    splits = {split: [] for split in SPLITS}
    for place, article in enumerate(articles):
        split = {3: "validation", 7: "test"}.get(place % 8, "train")
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                splits[split].append(
                    {
                        "id": question["id"],
                        "title": article["title"],
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": [answer["text"] for answer in question["answers"]],
                        "answer_starts": [answer["answer_start"] for answer in question["answers"]],
                        "is_impossible": question["is_impossible"],
                    }
                )
    return json_files(splits)


def gsm8k(originals: Path) -> Splits:
    """The authors' test; the last 473 problems of their training are validation."""
    folder = originals / "origin" / "grade_school_math" / "data"
    train = read_json_lines(folder / "train.jsonl")
    return json_files(
        {"train": train[:7000], "validation": train[7000:], "test": read_json_lines(folder / "test.jsonl")}
    )


def crows_pairs(originals: Path) -> Splits:
    path = originals / "origin" / "data" / "crows_pairs_anonymized.csv"
    columns = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
    with path.open(encoding="utf-8", newline="") as file:
        pairs = [{"id": int(row[""]), **{name: row[name] for name in columns}} for row in csv.DictReader(file)]
    return json_files({"test": pairs})


CONVERTERS: dict[str, Callable[[Path], Splits]] = {
    converter.__name__: converter
    for converter in (
        crows_pairs, dialogsum, easy_vqa, esc10, fashion_mnist_small, fsdd, gsm8k, nlvr, opennmt_ende, sign_digits,
        squad2_devhalf, tinyshakespeare,
    )
}  # fmt: skip


def digest_of(records: Records, decoded: bool) -> str:
    r"""SHA-256 over a line of JSON for each record, keys sorted.

    decoded (`bool`): media count by what they decode to; else, where they were compressed anew, which another version of a library does
    otherwise, by their size or length."""
    digest = hashlib.sha256()
    for record in records:
        plain = {
            name: describe_media(name, value, decoded) if isinstance(value, bytes) else value
            for name, value in record.items()
        }
        line = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def describe_media(kind: str, data: bytes, decoded: bool) -> dict:
    if kind == "audio":
        wave, rate = soundfile.read(io.BytesIO(data), dtype="int16")
        described, content = {"rate": rate, "samples": len(wave)}, wave.astype("<i2").tobytes()
    else:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        described, content = {"width": image.width, "height": image.height}, image.tobytes()
    return described | ({"sha256": hashlib.sha256(content).hexdigest()} if decoded else {})
