"""Loading: files of each kind, and the data sets at hand, through `datasets.load_dataset`; broken samples are left out."""

import gzip
import io
import json
import logging
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as parquet
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, Image, List, Value

from tests.conftest import make_image
from tests.test_media_loading import clip
from training.data import loading
from training.data.formats import BrokenSample, MissingColumn
from training.data.loading import load_source, stream_samples
from training.data.records import stream_records, streamed_files
from training.data.samples import FEATURES, LeftOut, answer_of, find_files, references_of, text_of
from training.data.synthetic.conversation import png_bytes, wav_bytes
from training.recipe import SourceArguments


DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
WAVE = np.sin(np.arange(800) / 5).astype(np.float32)
LABELLED = {"image": "image", "prompt": "What?"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def source(files: str, format: str = "labelled_media", split: str = "train", **fields) -> SourceArguments:
    return SourceArguments(format, split, files=files, **fields)


def write_labelled(path: Path, count: int = 4, broken: dict[int, bytes | None] | None = None) -> None:
    images = [(broken or {}).get(index, png_bytes(make_image(index))) for index in range(count)]
    Dataset.from_dict({"image": images, "label": list(range(count))}).to_parquet(path)


def samples_of(made, root, streaming):
    if not streaming:
        return make_samples(made, root)
    left_out = LeftOut()
    records = stream_records(made, root, streamed_files(made, root), left_out)
    return stream_samples(made, root, records, records.features, left_out)


def make_samples(made, root):
    return loading.make_samples(made, root, LeftOut()).select_columns(list(FEATURES))


@pytest.mark.parametrize("streaming", [False, True])
class TestFiles:
    """Every kind of file becomes the same samples, in memory and streamed."""

    def load(self, made, root, streaming):
        samples = samples_of(made, root, streaming)
        assert samples.features == FEATURES
        return list(samples)

    def test_parquet_with_bytes(self, tmp_path, streaming):
        write_labelled(tmp_path / "train.parquet")
        samples = self.load(source("{split}.parquet", options=LABELLED, metric="vqa_accuracy"), tmp_path, streaming)
        assert [answer_of(sample) for sample in samples] == ["0", "1", "2", "3"]
        assert samples[2]["images"] == [{"bytes": png_bytes(make_image(2)), "path": None}]
        assert [samples[2][key] for key in ("task", "id", "metric")] == ["{split}", "train-2", "vqa_accuracy"]

    def test_parquet_of_the_hub_with_image_and_class_features(self, tmp_path, streaming):
        features = Features({"images": List(Image()), "label": ClassLabel(names=["cat", "dog"])})
        images = [[make_image(0)], [make_image(1), make_image(2)]]
        Dataset.from_dict({"images": images, "label": [1, 0]}, features=features).to_parquet(tmp_path / "a.parquet")
        samples = self.load(source("a.parquet", options={**LABELLED, "image": "images"}), tmp_path, streaming)
        assert [answer_of(sample) for sample in samples] == ["dog", "cat"]
        assert [len(sample["images"]) for sample in samples] == [1, 2]
        assert all(image["bytes"] for sample in samples for image in sample["images"])

    @pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "train.json"])
    def test_json(self, tmp_path, streaming, name):
        records = [{"question": f"{index}?", "answer": str(index)} for index in range(3)]
        text = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
        opened = gzip.open if name.endswith(".gz") else open
        with opened(tmp_path / name, "wt") as file:
            file.write(text)
        made = source(name, "prompt_answer", options={"prompt": "{question}", "answer": "answer"})
        samples = self.load(made, tmp_path, streaming)
        assert [(text_of(sample["messages"][0]), answer_of(sample)) for sample in samples] == [
            ("0?", "0"),
            ("1?", "1"),
            ("2?", "2"),
        ]

    def test_csv_pattern_in_order(self, tmp_path, streaming):
        for index in (1, 0):
            (tmp_path / f"train-{index}.csv").write_text(f"en,de\n{index},{index}\n")
        samples = self.load(source("{split}-*.csv", "translation"), tmp_path, streaming)
        assert [answer_of(sample) for sample in samples] == ["0", "1"]

    def test_text(self, tmp_path, streaming):
        (tmp_path / "train.txt").write_text("one\ntwo\n\nthree\n")
        whole = source("train.txt", "text", load={"sample_by": "document"})
        lines = source("train.txt", "text", load={"sample_by": "paragraph"})
        for made, texts in ((whole, ["one\ntwo\n\nthree\n"]), (lines, ["one\ntwo", "three\n"])):
            samples = self.load(made, tmp_path, streaming)
            assert [text_of(sample["messages"][0]) for sample in samples] == texts
            assert all(sample["metric"] == "perplexity" for sample in samples)

    def test_webdataset_shards(self, tmp_path, streaming):
        for shard in range(2):
            with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
                for index in (2 * shard, 2 * shard + 1):
                    members = {"png": png_bytes(make_image(index)), "json": json.dumps({"text": f"c{index}"}).encode()}
                    for ending, data in members.items():
                        info = tarfile.TarInfo(f"{index:03}.{ending}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        made = source("shard-*.tar", "captions", options={"image": "png", "answer": "json.text"})
        samples = self.load(made, tmp_path, streaming)
        assert [answer_of(sample) for sample in samples] == ["c0", "c1", "c2", "c3"]
        assert samples[3]["images"][0]["bytes"] == png_bytes(make_image(3))
        assert "003" in samples[3]["id"]

    def test_folder_of_images_by_class(self, tmp_path, streaming):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / name).mkdir(parents=True)
            make_image(1).save(tmp_path / "pets" / name / "1.png")
        samples = self.load(source("pets", options=LABELLED, name="pets"), tmp_path, streaming)
        assert sorted(answer_of(sample) for sample in samples) == ["cat", "dog"]

    def test_folder_of_audio_by_class(self, tmp_path, streaming):
        for name in ("cat", "dog"):
            (tmp_path / "train" / name).mkdir(parents=True)
            (tmp_path / "train" / name / "1.wav").write_bytes(wav_bytes(WAVE, 8000))
        samples = self.load(source("{split}", options={"audio": "audio", "prompt": "Who?"}), tmp_path, streaming)
        assert [answer_of(sample) for sample in samples] == ["cat", "dog"]
        assert samples[0]["audios"] == [{"bytes": None, "path": str(tmp_path / "train" / "cat" / "1.wav")}]

    def test_parquet_of_the_hub_with_an_audio_feature(self, tmp_path, streaming):
        clips = Dataset.from_dict({"audio": [{"bytes": wav_bytes(WAVE, 8000), "path": "1.wav"}], "text": ["hello"]})
        features = Features({"audio": Audio(), "text": Value("string")})
        metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
        parquet.write_table(clips.data.table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
        (sample,) = self.load(source("a.parquet", "asr"), tmp_path, streaming)
        assert sample["audios"] == [{"bytes": wav_bytes(WAVE, 8000), "path": "1.wav"}]

    def test_folder_of_audio_with_metadata(self, tmp_path, streaming):
        folder = tmp_path / "speech"
        folder.mkdir()
        (folder / "a.wav").write_bytes(wav_bytes(WAVE, 8000))
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", "text": "hello"}))
        options = {"audio": "file_name", "media_folder": "speech"}
        (sample,) = self.load(source("speech/metadata.jsonl", "asr", options=options), tmp_path, streaming)
        assert answer_of(sample) == "hello"
        with pytest.raises(ValueError, match=r"metadata\.jsonl.*media_folder"):
            samples_of(source("speech", "asr"), tmp_path, streaming)

    def test_media_beside_a_json_file(self, tmp_path, streaming):
        (tmp_path / "photos").mkdir()
        make_image(1).save(tmp_path / "photos" / "1.png")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
        (tmp_path / "llava.json").write_text(json.dumps([{"id": "x", "image": "1.png", "conversations": turns}]))
        made = source("llava.json", "llava", options={"media_folder": "photos"})
        (sample,) = self.load(made, tmp_path, streaming)
        assert sample["id"] == "x" and sample["images"][0]["path"] == str(tmp_path / "photos" / "1.png")


EMPTY_WAV = io.BytesIO()
soundfile.write(EMPTY_WAV, np.zeros(0), 8000, format="WAV")


class TestBrokenSamples:
    broken = {1: b"no image", 3: None, 4: png_bytes(make_image(4))[:200]}

    @pytest.mark.parametrize("streaming", [False, True])
    def test_are_left_out_and_named(self, tmp_path, caplog, streaming):
        write_labelled(tmp_path / "train.parquet", 6, self.broken)
        made = source("train.parquet", name="mine", options=LABELLED)
        for _ in range(2):  # the second time from the cache of `datasets`: named all the same
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert [answer_of(sample) for sample in samples_of(made, tmp_path, streaming)] == ["0", "2", "5"]
            for index in self.broken:
                assert f"sample 'train-{index}' of mine, split train" in caplog.text
            assert "column 'image' is empty" in caplog.text
        if not streaming:
            assert "3 of 6 samples are broken" in caplog.text

    @pytest.mark.parametrize("streaming", [False, True])
    def test_strict(self, tmp_path, streaming):
        write_labelled(tmp_path / "train.parquet", 6, self.broken)
        made = source("train.parquet", name="mine", strict=True, options=LABELLED)
        with pytest.raises(BrokenSample, match=r"'train-1' of mine, split train: image 0 is not an image"):
            list(samples_of(made, tmp_path, streaming))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (EMPTY_WAV.getvalue(), "no samples"),
            (b"RIFF", "is not audio that can be read"),
            (wav_bytes(WAVE, 8000)[:20], "is not audio that can be read"),
        ],
    )
    def test_audio(self, tmp_path, data, message):
        Dataset.from_dict({"audio": [data], "text": ["hello"]}).to_parquet(tmp_path / "train.parquet")
        with pytest.raises(BrokenSample, match=message):
            make_samples(source("train.parquet", "asr", strict=True), tmp_path)

    def test_videos(self, tmp_path):
        videos = [clip("mp4", "mpeg4"), b"no film"]
        Dataset.from_dict({"film": videos, "label": ["rise", "fall"]}).to_parquet(tmp_path / "train.parquet")
        options = {"video": "film", "prompt": "What happens?"}
        (sample,) = make_samples(source("train.parquet", "labelled_media", options=options), tmp_path)
        assert sample["videos"] == [{"bytes": videos[0], "path": None}] and answer_of(sample) == "rise"
        with pytest.raises(BrokenSample, match="video 0 is not a video that can be read"):
            make_samples(source("train.parquet", "labelled_media", strict=True, options=options), tmp_path)

    def test_many_are_counted_rather_than_listed(self, tmp_path, caplog):
        write_labelled(tmp_path / "train.parquet", 40, dict.fromkeys(range(39), b"no image"))
        with caplog.at_level(logging.WARNING):
            assert len(make_samples(source("train.parquet", options=LABELLED), tmp_path)) == 1
        assert caplog.text.count("left out: ") == 5 and "39 of 40" in caplog.text

    def test_nothing_left_is_an_error(self, tmp_path):
        write_labelled(tmp_path / "train.parquet", 2, {0: b"", 1: b""})
        with pytest.raises(ValueError, match="no sample can be used"):
            make_samples(source("train.parquet", options=LABELLED), tmp_path)


class TestMistakes:
    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"data\.root=FOLDER"):
            make_samples(source("none/{split}.parquet"), tmp_path)
        with pytest.raises(FileNotFoundError):
            find_files("none-*.parquet", tmp_path)

    def test_column_that_is_not_there(self, tmp_path):
        write_labelled(tmp_path / "train.parquet")
        with pytest.raises(
            MissingColumn, match=r"split train: there is no column 'lable'; the nearest is \['label'\]"
        ):
            make_samples(source("train.parquet", options={**LABELLED, "answer": "lable"}), tmp_path)


# The data sets at hand, each as a recipe names it: (source, number of samples of a split, question and answer of the first).
AT_HAND = {
    "sign_digits": (
        source("sign_digits/{split}.parquet", options={"image": "image", "prompt": "Which digit?"}),
        ("test", 200, "Which digit?", "0"),
    ),
    "esc10": (
        source("esc10/{split}.parquet", options={"audio": "audio", "answer": "category", "prompt": "What is heard?"}),
        ("test", 80, "What is heard?", "dog bark"),
    ),
    "fashion_mnist_small": (
        source("fashion_mnist_small/{split}.parquet", options={**LABELLED, "answer": "label_name"}),
        ("test", 1770, "What?", "Ankle boot"),
    ),
    "nlvr": (
        source(
            "nlvr/{split}.parquet",
            options={"image": "image", "prompt": "{sentence} True or false?", "words": ["false", "true"]},
        ),
        ("validation", 163, "There is a blue item closely touching right wall of a box. True or false?", "true"),
    ),
    "ljspeech_100": (
        source("ljspeech_100/{split}.parquet", "asr"),
        (
            "validation",
            15,
            "Transcribe the speech.",
            "Most of Caxton's own types are of an earlier character, though they also much resemble Flemish or Cologne letter.",
        ),
    ),
    "opennmt_ende": (
        source("opennmt_ende/{split}.jsonl.gz", "translation", options={"detokenise": {"en": "en", "de": "de"}}),
        (
            "test",
            1500,
            "Translate en to de: The result: between those two wars, 150 female soldiers have died - two thirds of them "
            "during combat situations.",
            "Das Ergebnis: zwischen diesen zwei Kriegen starben 150 Soldatinnen, zwei Drittel von ihnen in Kampfhandlungen.",
        ),
    ),
    "squad2_devhalf": (
        source(
            "squad2_devhalf/{split}.jsonl.gz", "extractive_qa", options={"answer": "answers", "prompt": "{question}"}
        ),
        ("train", 4425, "When did the 1973 oil crisis begin?", "October 1973"),
    ),
    "self_instruct_human": (
        source(
            "self_instruct_human/{split}.jsonl.gz", "instructions", options={"answer": "instruction", "input": None}
        ),
        ("train", 175, None, None),
    ),
    "gsm8k": (
        source("gsm8k/{split}.jsonl.gz", "prompt_answer", options={"prompt": "{question}", "answer": "answer"}),
        ("validation", 473, None, None),
    ),
}


@pytest.mark.parametrize("name", AT_HAND)
def test_data_sets_at_hand_need_only_a_source(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not at {DATA}")
    made, (split, count, question, answer) = AT_HAND[name]
    made = SourceArguments(**{**vars(made), "split": split})
    samples = load_source(made, str(DATA))
    assert len(samples) == count and set(samples["task"]) == {name}
    if question is not None:
        assert text_of(samples[0]["messages"][0]) == question
        assert answer_of(samples[0]) == answer


def test_dialogsum_is_judged_by_three_references():
    if not (DATA / "dialogsum").is_dir():
        pytest.skip(f"the data set dialogsum is not at {DATA}")
    options = {
        "prompt": "{dialogue}",
        "answer": "summary1",
        "references": ["summary1", "summary2", "summary3"],
        "id": "fname",
    }
    samples = load_source(source("dialogsum/{split}.jsonl.gz", "summarization", "test", options=options), str(DATA))
    assert Counter(len(references_of(sample)) for sample in samples) == {3: 500}
    assert samples[7]["id"] == "test_7"
