"""The tokenizer trained from scratch: it encodes any text, special tokens in place, vocabulary padded."""

import hashlib
import json

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from training.data.samples import assistant_turn, user_turn
from training.data.synthetic.course import load_demo
from training.train_tokenizer import PATTERN, SMALLEST_VOCABULARY, SPECIAL_TOKENS, texts_of, train_tokenizer


# Of what GPT-2's own pre-tokenizer gives: digest of the vocabulary.
DEMO_VOCABULARY = "44c924ea74cee835d74dd8193ea090a7f0ea9d8cc834f25f97796abba9a11c1c"
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


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("हिन्दी भाषा है।", ["हिन्दी", " भाषा", " है", "।"]),
        ("தமிழ் மொழி", ["தமிழ்", " மொழி"]),
        ("العَرَبِيَّة، نعم", ["العَرَبِيَّة", "،", " نعم"]),
        ("ที่นี่ดี 5", ["ที่นี่ดี", " 5"]),
        ("我用Python写。你好", ["我用", "Python", "写", "。", "你好"]),
        ("東京タワーです", ["東京タワーです"]),
        ("한국어 단어", ["한국어", " 단어"]),
        ("می\u200cخواهم بروم", ["می\u200cخواهم", " بروم"]),
        ("ශ්\u200dරී ලංකා", ["ශ්\u200dරී", " ලංකා"]),
        ("ភាសា\u200bខ្មែរ", ["ភាសា", "\u200b", "ខ្មែរ"]),
        ("Größe und Straße", ["Größe", " und", " Straße"]),
        ("👩\u200d🔬 sí", ["👩\u200d🔬", " sí"]),
    ],
)
def test_letters_keep_their_marks_and_scripts_are_apart(text, pieces):
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated").pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == pieces


@pytest.mark.parametrize(
    "text",
    ["The cat's  2 hats,\n\n it's I'll x_1 -- ¡Héllo! ❤️ 12,5   end  ", "user\nWhat colour?", "Привет, мир! für"],
)
def test_other_texts_are_cut_as_by_gpt_2(tokenizer, text):
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert cut == pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)


def test_the_demos_tokenizer_is_the_one_that_its_figures_were_measured_with():
    texts = texts_of(load_demo(None, "train", "text", samples=500, turns=2))
    vocabulary = train_tokenizer(texts, vocab_size=704).get_vocab()
    assert hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest() == DEMO_VOCABULARY


@pytest.mark.parametrize(
    "word", ["می\u200cخواهم", "ශ්\u200dරී", "ภาษาไทย", "हिन्दी", "ที่นี่", "你好", "العَرَبِيَّة", "한국어", "தமிழ்"]
)
def test_a_word_of_any_script_becomes_one_token(word):
    tokenizer = train_tokenizer([f"{word} a"] * 50, vocab_size=400)
    assert len(tokenizer(word).input_ids) == 1 and tokenizer.decode(tokenizer(word).input_ids) == word


def test_a_sentence_without_blanks_is_several_tokens():
    sentence = "这张图片里的小猫是什么颜色的请用一个词回答我"
    tokenizer = train_tokenizer([sentence] * 50, vocab_size=512)
    assert 3 <= len(tokenizer(sentence).input_ids) <= 8
    assert tokenizer.decode(tokenizer(sentence).input_ids) == sentence
