"""The likelihood of raw texts: every token once, every byte once, whatever the windows and batches."""

import pytest
import torch

from training.evaluation.likelihood import cut_windows, text_losses


TEXTS = ["To be, or not to be", "Häßliche Grüße, 你好!", "x", ""]


def test_windows_share_one_token_and_hold_every_byte(tokenizer):
    windows = list(cut_windows("abcdefg", tokenizer, length=3))
    ids = [tokenizer.eos_token_id, *tokenizer("abcdefg")["input_ids"]]
    assert windows == [(ids[0:4], 3), (ids[3:7], 3), (ids[6:8], 1)]


@pytest.mark.parametrize("length", [2, 5, 100])
def test_bytes_of_the_windows_are_those_of_the_text(tokenizer, length):
    for text in TEXTS:
        assert sum(size for _, size in cut_windows(text, tokenizer, length)) == len(text.encode())


def test_losses_are_those_of_the_model(model, tokenizer):
    ((loss,),) = text_losses(model, tokenizer, TEXTS[:1])
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(TEXTS[0])["input_ids"]]])
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).loss.item() * loss.tokens
    assert loss.nats == pytest.approx(expected, rel=1e-5)
    assert (loss.tokens, loss.bytes) == (19, 19)


def test_losses_do_not_depend_on_the_batch_and_keep_the_order(model, tokenizer):
    single = text_losses(model, tokenizer, TEXTS, batch_size=1, length=8)
    together = text_losses(model, tokenizer, TEXTS, batch_size=16, length=8)
    assert [sum(loss.bytes for loss in losses) for losses in together] == [len(text.encode()) for text in TEXTS]
    assert together[-1] == [], "an empty text has nothing to predict"
    for losses, expected in zip(together, single, strict=True):
        assert [loss.nats for loss in losses] == pytest.approx([loss.nats for loss in expected], rel=1e-5)
