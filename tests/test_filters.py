"""Quality filters: each rejects what it is for and nothing else."""

import sys

import pytest
from PIL import Image

from tests.conftest import make_image
from tests.test_prepare_data import SENTENCE, WAVE, smooth_image
from training.data.cleaning.filters import check_audio, check_images, check_language, check_length, check_repetition
from training.data.samples import medium
from training.data.synthetic.conversation import png_bytes, wav_bytes


def test_texts_outside_the_limits_are_rejected():
    assert check_length("  abc ", 3, 3) is None
    assert check_length("  ab ", 3, None).reason == "too short"
    assert check_length("abcd", 1, 3) == ("too long", "4 characters")


def test_repetitive_texts_are_rejected():
    assert check_repetition(SENTENCE, 0.0) is None
    assert check_repetition("ha " * 19, 0.3) is None, "too short to say"
    rejection = check_repetition(f"{SENTENCE} " + "buy it now at our shop " * 20, 0.3)
    assert rejection.reason == "repetitive" and "buy it now" in rejection.detail
    assert check_repetition(f"{SENTENCE} {SENTENCE}", 0.5) is None  # 17 of 38 runs


def test_blank_images_and_silent_audio_are_rejected():
    plain = medium(png_bytes(Image.new("RGB", (8, 8), (7, 7, 9))))
    assert check_images([medium(png_bytes(make_image(1))), plain]) == (
        "blank image",
        "image 1 is all of one colour, RGB (7, 7, 9)",
    )
    assert check_images([medium(png_bytes(smooth_image(1)))]) is None
    assert check_audio([medium(wav_bytes(WAVE, 8000))]) is None
    assert check_audio([medium(wav_bytes(WAVE * 0, 8000))]).reason == "silent audio"


def test_other_languages_are_rejected():
    german = "Das Ergebnis der Wahl in den beiden Ländern war am Abend noch nicht bekannt."
    assert check_language(german, []) is None and check_language(german, ["de"]) is None
    assert check_language(german, ["en"]).reason == "other language"
    assert check_language("kurz", ["en"]) is None, "too short to say"


def test_language_names_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ImportError, match=r"prepare\.languages needs py3langid.*`pip install py3langid`"):
        check_language(SENTENCE, ["en"])
