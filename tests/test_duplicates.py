"""Exact and near duplicates, of texts, images and audio."""

import pytest

from tests.test_filters import CHINESE, HINDI, JAPANESE, THAI
from tests.test_prepare_data import SENTENCE, WAVE, image_sample, jpeg, smooth_image, text_sample
from training.data.cleaning.duplicates import DuplicateFinder, take_fingerprint
from training.data.samples import assistant_turn, complete_sample, medium, user_turn
from training.data.synthetic.conversation import png_bytes, wav_bytes


def find(first: dict, second: dict):
    finder = DuplicateFinder(similarity=0.8, distance=4)
    finder.add("first", take_fingerprint(first))
    rejection = finder.find(take_fingerprint(second))
    return rejection and rejection.reason


def test_texts_are_compared_by_their_words():
    words = (SENTENCE + " " + SENTENCE[::-1] + " " + " ".join(map(str, range(60)))).split()
    text = " ".join(words)
    assert find(text_sample(text), text_sample(text)) == "duplicate"
    assert find(text_sample(text), text_sample(text.upper() + "!")) == "near duplicate"
    assert find(text_sample(text), text_sample(" ".join([*words[:50], "other", *words[51:]]))) == "near duplicate"
    assert find(text_sample(text), text_sample(" ".join(words[: len(words) // 2]))) is None
    assert find(text_sample("a cat"), text_sample("a dog")) is None


def test_texts_of_signs_alone_are_different_texts():
    assert find(text_sample("😀😀"), text_sample("😂")) is None
    assert find(text_sample("= + -"), text_sample("= + -")) == "duplicate"


def test_images_are_compared_by_their_look_and_text():
    original = png_bytes(smooth_image(1))
    smaller = jpeg(smooth_image(1).resize((64, 64)))
    assert find(image_sample(original), image_sample(original)) == "duplicate"
    assert find(image_sample(original), image_sample(smaller)) == "near duplicate"
    assert find(image_sample(original), image_sample(png_bytes(smooth_image(2)))) is None
    assert find(image_sample(original), image_sample(smaller, answer="blue")) is None, "another question"
    assert find(image_sample(original), image_sample(smaller, png_bytes(smooth_image(2)))) is None


def test_audio_is_compared_by_its_waveform():
    def sample(wave):
        turns = [user_turn("What?", ("audio",)), assistant_turn("a bell")]
        return complete_sample({"messages": turns, "audios": [medium(wav_bytes(wave, 8000))]})

    assert find(sample(WAVE), sample(WAVE)) == "duplicate"
    assert find(sample(WAVE), sample(WAVE[::-1])) is None


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI, HINDI])
def test_texts_of_every_script_are_compared_by_their_words(text):
    half = len(text) // 2
    assert find(text_sample(text), text_sample(f"{text}!!")) == "near duplicate"
    assert find(text_sample(text), text_sample(f"x {text}")) == "near duplicate"
    assert find(text_sample(text), text_sample(text[:half])) is None
    assert find(text_sample(text[:half]), text_sample(text[half:])) is None


def test_other_vowel_signs_are_other_words():
    assert find(text_sample("की के को"), text_sample("का कि कू")) is None
