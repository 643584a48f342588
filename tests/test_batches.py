"""Batches of a run: what cannot be read any more is left out by name, or is an error; the notes tell whose labels there are."""

import pytest
import torch

from modeling_mmgpt import MMGPTCollator, MMGPTPackingCollator
from tests.conftest import make_image
from training.data.augmentation import AugmentingCollator
from training.data.batches import LEFT_OUT, NOTES, TrainingCollator
from training.data.samples import DataError, assistant_turn, user_turn
from training.data.synthetic.conversation import png_bytes
from training.recipe import AugmentationArguments


def sample(index: int, image=None, task: str = "t", answer: str = "yes") -> dict:
    media = {} if image is None else {"images": [image]}
    turns = [user_turn("?", ("image",) if media else ()), assistant_turn(answer)]
    return {"id": f"s{index}", "task": task, "place": index, "messages": turns, **media}


@pytest.fixture
def picture(tmp_path) -> dict:
    (tmp_path / "a.png").write_bytes(png_bytes(make_image(1)))
    return {"bytes": None, "path": str(tmp_path / "a.png")}


def collator(inner, strict: bool = False) -> TrainingCollator:
    return TrainingCollator(AugmentingCollator(inner, AugmentationArguments(), 0, {}), {"t": strict})


def same(batch: dict, other: dict) -> bool:
    tensors = {key: value for key, value in batch.items() if torch.is_tensor(value)}
    return tensors.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in tensors.items())


def test_a_whole_batch_is_the_collators_own_with_notes(processor, picture):
    inner = MMGPTCollator(processor)
    samples = [sample(0, picture), sample(1, answer="a longer answer", task="u")]
    batch = collator(inner)(samples)
    notes = batch.pop(NOTES)
    assert same(batch, inner(samples))
    assert (notes.names, notes.tasks, notes.kinds) == (["s0 (t)", "s1 (u)"], ["t", "u"], ["image", "text"])
    assert notes.labels == (batch["labels"][:, 1:] != -100).sum(-1).tolist() and notes.labels[0] < notes.labels[1]
    assert not notes.left_out and notes.rows == [0, 1]


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_picture_that_cannot_be_read_any_more_is_left_out_by_name(processor, picture, tmp_path, how):
    (tmp_path / "a.png").unlink() if how == "gone" else (tmp_path / "a.png").write_bytes(b"no image")
    inner = MMGPTCollator(processor)
    rest = [sample(0), sample(2, answer="no")]
    batch = collator(inner)([rest[0], sample(1, picture), rest[1]])
    notes = batch.pop(NOTES)
    assert same(batch, inner(rest)) and notes.names == ["s0 (t)", "s2 (t)"] and notes.rows == [0, 2]
    ((name, problem),) = notes.left_out
    assert name == "s1 (t)" and problem.startswith("sample s1 (t): ")


def test_with_strict_it_is_an_error(processor, picture, tmp_path):
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"^sample s1 \(t\): "):
        collator(MMGPTCollator(processor), strict=True)([sample(0), sample(1, picture)])


def test_what_a_ledger_found_missing_is_left_out(processor):
    notes = collator(MMGPTCollator(processor))([sample(0), {"id": "7 (t)", "task": None, "messages": []}])[NOTES]
    assert notes.left_out == [("7 (t)", "sample 7 (t): it is no longer in the data")]


def test_of_nothing_a_blank_batch_without_labels_is_made(processor, picture, tmp_path):
    (tmp_path / "a.png").unlink()
    for inner in (MMGPTCollator(processor), MMGPTPackingCollator(processor, pack_to=100)):
        batch = collator(inner)([sample(0, picture)])
        assert (batch["labels"] == -100).all() and batch[NOTES].names == [] and len(batch[NOTES].left_out) == 1


def test_labels_of_packed_samples_are_told_apart(processor):
    inner = MMGPTPackingCollator(processor, pack_to=100)
    samples = [sample(index, answer="yes" * (1 + index)) for index in range(4)]
    packs = [{"packed": samples[:3], "place": 0}, {"packed": samples[3:], "place": 1}]
    notes = collator(inner)(packs)[NOTES]
    alone = [collator(MMGPTCollator(processor))([one])[NOTES].labels[0] for one in samples]
    assert notes.labels == alone and notes.rows == [0, 1]


def test_what_a_stream_left_out_before_is_counted(processor):
    notes = collator(MMGPTCollator(processor))([{**sample(0), LEFT_OUT: 2}, {**sample(1), LEFT_OUT: 0}])[NOTES]
    assert notes.left_out_before == 2


def test_a_mistake_that_is_no_samples_is_not_hidden(processor):
    def broken(samples):
        if len(samples) > 1:
            raise ValueError("no batch of two")
        return MMGPTCollator(processor)(samples)

    with pytest.raises(ValueError, match="no batch of two"):
        collator(broken)([sample(0), sample(1)])
