"""Quality filters: each rejects what it is for and nothing else."""

import sys

import pytest
from PIL import Image

from tests.conftest import make_image
from tests.test_prepare_data import SENTENCE, WAVE, smooth_image
from training.data.cleaning.filters import (
    check_audio,
    check_images,
    check_language,
    check_length,
    check_personal_data,
    check_repetition,
    find_rejection,
    mask_sample,
)
from training.data.samples import assistant_turn, complete_sample, medium, user_turn
from training.data.synthetic.conversation import png_bytes, wav_bytes
from training.recipe import PrepareArguments


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


def test_personal_data_are_counted_and_not_quoted():
    turns = [user_turn("Mail ann@example.org or bob@example.org?"), assistant_turn("+49 30 1234567")]
    sample = complete_sample({"messages": turns, "references": ["8.8.8.8"]})
    arguments = PrepareArguments(personal_data="drop")
    assert check_personal_data(sample, arguments) == ("personal data", "2 email, 1 phone, 1 ip_address")
    assert check_personal_data(sample, PrepareArguments(personal_data_kinds=["iban"])) is None
    # Before any rule that quotes the text.
    repetitive = complete_sample({"messages": [assistant_turn("mail ann@example.org now " * 30)]})
    assert find_rejection(repetitive, arguments).reason == "personal data"
    assert find_rejection(repetitive, PrepareArguments()).reason == "repetitive"


def test_every_turn_and_every_reference_is_masked():
    turns = [user_turn("Mail ann@example.org?", ("image",)), assistant_turn("No, bob@example.org.")]
    sample = complete_sample({"id": "1", "messages": turns, "references": ["c@example.org", "none"]})
    masked, found = mask_sample(sample, ["email"])
    expected = [user_turn("Mail [email]?", ("image",)), assistant_turn("No, [email].")]
    assert masked == {**sample, "messages": expected, "references": ["[email]", "none"]}
    assert found == ["email"] * 3 and sample["references"][0] == "c@example.org"


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


def test_languages_are_known_by_their_codes():
    assert check_language(CHINESE, ["zh-Hans"]) is None and check_language(CHINESE, ["ko", "ZH"]) is None
    for name in ("cn", "jp", "xyz"):
        with pytest.raises(ValueError, match=f"prepare.languages has '{name}', which is no code"):
            check_language(CHINESE, [name])


def test_language_names_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ImportError, match=r"prepare\.languages needs py3langid.*`pip install py3langid`"):
        check_language(SENTENCE, ["en"])


CHINESE = (
    "今天早上我和弟弟一起坐公共汽车去城里的图书馆借了三本关于海洋动物的书，回家的路上下起了大雨，妈妈在车站等着我们。"
)
JAPANESE = (
    "昨日の夜は友だちと駅の近くにある小さな店で温かいそばを食べてから、ゆっくり歩いて家へ帰り、古い映画を見ました。"
)
THAI = "เมื่อวานนี้ฉันไปตลาดกับแม่เพื่อซื้อผลไม้และผักสด แล้วเรากลับบ้านมาทำอาหารเย็นให้ครอบครัวก่อนฝนจะตกหนัก"
HINDI = "कल सुबह मैं अपने भाई के साथ शहर के पुराने पुस्तकालय गया और वहाँ से समुद्री जीवों पर तीन किताबें लेकर शाम तक घर लौट आया।"


class TestLanguages:
    @pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI, HINDI])
    def test_text_in_any_script_is_repetitive_when_it_repeats(self, text):
        assert check_repetition(text, 0.0) is None
        assert check_repetition(text * 4, 0.3).reason == "repetitive"

    def test_the_repeated_characters_are_shown(self):
        rejection = check_repetition(CHINESE + "现在就来我们商店买吧" * 20, 0.3)
        assert "of its 10-grams are repeated" in rejection.detail

    def test_few_characters_are_too_few_to_judge(self):
        assert check_repetition("哈" * 39, 0.3) is None and check_repetition("哈" * 40, 0.3) is not None
        assert check_repetition("ฮ" * 79, 0.3) is None and check_repetition("ฮ" * 80, 0.3) is not None

    @pytest.mark.parametrize(
        ("text", "length"), [("你好", 4), ("こんにちは", 10), ("안녕", 4), ("नमस्ते", 6), ("مرحبا", 5)]
    )
    def test_wide_characters_say_more(self, text, length):
        assert check_length(text, length, length) is None
        assert check_length(text, length + 1, None) == ("too short", f"{length} characters")

    @pytest.mark.parametrize(
        ("text", "language"),
        [
            (CHINESE[:20], "zh"),
            (JAPANESE[:20], "ja"),
            (THAI[:20], "th"),
            (HINDI[:30], "hi"),
            ("오늘은 날씨가 아주 좋아서 공원에 갔다", "ko"),
        ],
    )
    def test_a_short_text_has_a_language(self, text, language):
        assert check_language(text, [language]) is None
        assert check_language(text, ["en"]).detail.startswith(f"{language!r}")
