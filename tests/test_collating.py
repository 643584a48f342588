"""The collator: exact tensors, and errors that name the row."""

import pickle

import pytest
import torch

from modeling_mmgpt import MMGPTCollator
from tests.conftest import make_config, make_processor, picture, row, sound


def test_labels_are_the_assistants_turns(collator, tokenizer):
    batch = collator([row("Say hi.", "Hi!"), row("?", "No")])
    prompt = tokenizer.encode("<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n")
    answer = tokenizer.encode("Hi!<|im_end|>")
    end = tokenizer.encode("\n")
    assert batch["input_ids"][0].tolist() == prompt + answer + end
    assert batch["labels"][0].tolist() == [-100] * len(prompt) + answer + [-100]
    shorter = batch["attention_mask"][1].sum()
    assert tokenizer.decode(batch["labels"][1][batch["labels"][1] >= 0]) == "No<|im_end|>"
    assert batch["input_ids"][1, shorter:].tolist() == [1] * (batch["input_ids"].shape[1] - shorter)
    assert batch["labels"][1, shorter:].tolist() == [-100] * (batch["input_ids"].shape[1] - shorter)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_media_are_those_of_the_whole_batch_in_order(collator, rows):
    batch = collator(rows)
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["input_features"].shape == (3, 20, 37)
    assert batch["input_features_mask"].sum(-1).tolist() == [37, 21, 11]
    assert (batch["input_ids"] == 4).sum(-1).tolist() == [16, 0, 0, 32]
    assert (batch["input_ids"] == 5).sum(-1).tolist() == [0, 10, 0, 9]


def test_prompts_stop_before_the_answer_and_are_padded_on_the_left(processor, tokenizer):
    batch = MMGPTCollator(processor, add_generation_prompt=True)([row("Say hi.", "Hi!"), row("?", "No")])
    assert "labels" not in batch
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist())
    texts = tokenizer.batch_decode(batch["input_ids"])
    assert texts[0] == "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    assert texts[1].endswith("?<|im_end|>\n<|im_start|>assistant\n")


def test_every_turn_of_the_assistant_is_learned(collator, tokenizer):
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]
    labels = collator([{"messages": messages}])["labels"][0]
    assert tokenizer.decode(labels[labels >= 0]) == "Yes.<|im_end|>No.<|im_end|>"


def test_text_beyond_max_length_is_cut(processor):
    whole = MMGPTCollator(processor)([row("Say hi.", "Hi! " * 20)])
    cut = MMGPTCollator(processor, max_length=40)([row("Say hi.", "Hi! " * 20)])
    assert all(torch.equal(cut[key], whole[key][:, :40]) for key in ("input_ids", "attention_mask", "labels"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": []}, "noon: its messages have 1 image parts but it comes with 0"),
        ({"images": [picture(0)] * 2}, "noon: its messages have 1 image parts but it comes with 2"),
        ({"audios": [sound(0)]}, "noon: its messages have 0 audio parts but it comes with 1"),
        ({"images": [{"bytes": b"broken", "path": None}]}, "image 0 of noon is not an image"),
        ({"messages": [{"role": "user", "content": "alone"}], "images": []}, "noon has nothing to learn"),
    ],
)
def test_a_bad_row_is_named(collator, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        collator([row("fine", "yes"), {**row("?", "!", images=[picture(0)]), "id": "noon", **change}])


def test_media_without_a_tower_are_refused(tokenizer):
    blind = MMGPTCollator(make_processor(make_config(vision=None), tokenizer))
    with pytest.raises(ValueError, match="noon comes with image inputs, but the model has no tower for them"):
        blind([{**row("?", "!", images=[picture(0)]), "id": "noon"}])


def test_it_can_be_pickled_for_data_workers(collator, rows):
    copy = pickle.loads(pickle.dumps(collator))
    assert torch.equal(copy(rows)["input_ids"], collator(rows)["input_ids"])
