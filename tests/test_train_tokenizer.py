"""The tokenizer trained from scratch: it encodes any text, special tokens in place, vocabulary padded."""

import pytest
from transformers import AutoTokenizer

from training.data.samples import assistant_turn, user_turn
from training.train_tokenizer import SMALLEST_VOCABULARY, SPECIAL_TOKENS, texts_of, train_tokenizer


SAMPLES = [{"messages": [user_turn("what colour is the shape?", media=("image",)), assistant_turn("blue")]}] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(texts_of(SAMPLES), vocab_size=400)


def test_texts_are_those_of_the_template():
    assert list(texts_of(SAMPLES[:1])) == ["user\n", "what colour is the shape?", "assistant\n", "blue"]


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<|pad|>",
    )
    assert (tokenizer.image_token, tokenizer.audio_token, tokenizer.video_token) == tuple(SPECIAL_TOKENS[4:])


def test_vocabulary_is_a_multiple_of_64(tokenizer):
    assert len(tokenizer) % 64 == 0


def test_known_words_are_one_token_and_any_text_survives(tokenizer):
    assert len(tokenizer("user\nblue").input_ids) <= 3
    text = "what? 漢字 émoji 🙂\n\t end"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_are_skipped(tokenizer):
    assert tokenizer.decode(tokenizer("<|im_start|>blue<|im_end|>").input_ids, skip_special_tokens=True) == "blue"
    assert tokenizer.decode([len(tokenizer) - 1], skip_special_tokens=True) == ""


def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.im_end_token == "<|im_end|>" and again.image_token == "<|image|>"


def test_too_small(tokenizer):
    with pytest.raises(ValueError, match=f"need {SMALLEST_VOCABULARY}"):
        train_tokenizer([], vocab_size=100)
