"""The training set: what a recipe's sources become, and what they cannot be."""

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import byte_tokenizer
from tests.toy_training import TOY_DATA, toy_samples, toy_texts, toy_tree
from training.data.formats import OWN_DATA
from training.data.training_set import NumberedSamples, TrainingSet, load_mixture, make_blocks
from training.recipe import SourceArguments, build_recipe


DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path)


def training_set(tree: dict) -> TrainingSet:
    return TrainingSet(build_recipe(tree, "toy", "toy.yaml"))


def test_sources_are_joined_and_limited():
    if not (DATA / "fsdd").is_dir() or not (DATA / "easy_vqa").is_dir():
        pytest.skip(f"the data sets fsdd and easy_vqa are not at {DATA}")
    sources = [SourceArguments("fsdd", "test", limit=5), SourceArguments("easy_vqa", "test", limit=7)]
    samples = load_mixture(sources, str(DATA))
    assert Counter(samples["task"]) == {"fsdd": 5, "easy_vqa": 7}
    assert samples["id"] == load_mixture(sources, str(DATA))["id"]


def test_the_mixture_is_described_with_its_sizes_and_licences(tree):
    tree["data"]["train"] = [{"format": "toy", "weight": 2.0, "license": "mit"}, {"format": "toy_texts"}]
    toy, texts = training_set(tree).describe()
    assert toy == {"source": "toy", "samples": 48, "weight": 2.0, "licence": "mit"}
    assert texts == {"source": "toy_texts", "samples": 20, "weight": 1.0, "licence": None}


def test_validation_is_loaded_where_it_is_evaluated(tree):
    assert training_set(tree).validation is None
    tree["training"]["eval_strategy"] = "epoch"
    assert len(training_set(tree).validation) == 24


def test_a_source_that_does_not_fill_a_block_is_refused(tree):
    tree["data"] |= {"block": 30}
    tree["training"]["train_sampling_strategy"] = "sequential"
    with pytest.raises(ValueError, match=r"toy has 24 samples, which do not fill data\.block=30"):
        training_set(tree)


def test_augment_of_a_source_has_to_find_its_samples(tree):
    tree["data"]["train"] = [
        {"format": "toy", "augment": {"image_flip": True}}
    ]  # its samples are called see, hear, read
    with pytest.raises(ValueError, match="samples of 'toy' have other names"):
        training_set(tree)


def test_samples_know_their_place():
    samples = NumberedSamples([{"id": "a"}, {"id": "b"}])
    assert [samples[index] for index in range(len(samples))] == [{"id": "a", "place": 0}, {"id": "b", "place": 1}]


class TestTextBlocks:
    def test_texts_end_and_blocks_are_full(self):
        tokenizer = byte_tokenizer()
        blocks = make_blocks(toy_texts(None, "train"), tokenizer, 32)
        assert set(blocks.column_names) == {"input_ids", "seq_lengths", "id"}
        assert blocks["id"][:3] == ["0 to 1", "1 to 2", "2"]
        assert all(
            len(ids) == 32 == sum(pieces)
            for ids, pieces in zip(blocks["input_ids"], blocks["seq_lengths"], strict=True)
        )
        text = tokenizer.decode([token for ids in blocks["input_ids"] for token in ids])
        assert text.startswith("to be or not to be <|im_end|>to be or not")

    def test_media_and_too_little_text_are_refused(self):
        with pytest.raises(ValueError, match="sample '0' has images, audio or videos"):
            make_blocks(toy_samples(None, "train"), byte_tokenizer(), 32)
        with pytest.raises(ValueError, match="fewer tokens than one block of 5000"):
            make_blocks(toy_texts(None, "train"), byte_tokenizer(), 5000)
