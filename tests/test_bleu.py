"""BLEU and chrF through sacrebleu."""

import unicodedata

import pytest
import sacrebleu

from training.evaluation.metrics import bleu, find_metric
from training.evaluation.metrics.bleu import Translation


def test_by_hand():
    score = Translation().compute(predictions=["the cat sat on the mat"], references=["the cat sat on a mat"])
    # n-grams in common: 5 of 6, 3 of 5, 2 of 4, 1 of 3; the same length
    assert score["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert 0 < score["chrf"] < 100


def test_samples_may_have_different_numbers_of_references():
    predictions = ["a dog ran away now", "the cat sat on the mat"]
    score = Translation().compute(
        predictions=predictions, references=[[predictions[0]], ["something else", predictions[1]]]
    )
    assert score["bleu"] == pytest.approx(100)


def test_the_interval_holds_the_value_and_has_a_width():
    right = ["the cat sat on the mat", "a dog ran away now", "no birds sing in the wood"] * 5
    predictions = [*right[:7], *["a cat is on the mat of the dog"] * 8]
    score = Translation().compute(predictions=predictions, references=right)
    assert 0 < score["low"] < score["bleu"] < score["high"] < 100
    assert score["chrf_low"] < score["chrf"] < score["chrf_high"]


def test_empty_predictions_score_zero():
    score = Translation().compute(predictions=["", ""], references=["a dog ran away", "a cat"])
    assert (score["bleu"], score["low"], score["high"]) == (0, 0, 0)


class TestLanguages:
    """The right values are sacrebleu's own."""

    @pytest.mark.parametrize(
        ("language", "prediction", "reference", "tokenizer"),
        [
            ("zh", "今天天气很好，我们去公园。", "今天天气不好，我们去公园。", "zh"),
            ("yue", "今日天氣好好，我哋去公園。", "今日天氣唔好，我哋去公園。", "zh"),
            ("th", "วันนี้อากาศดีมาก", "วันนี้อากาศไม่ดี", "char"),
            ("km", "ថ្ងៃនេះអាកាសធាតុល្អ", "ថ្ងៃនេះអាកាសធាតុអាក្រក់", "char"),
            ("hi", "आज मौसम बहुत अच्छा है।", "आज मौसम बहुत खराब है ।", "intl"),
            ("ar", "هل الطقس جميل اليوم؟", "هل الطقس جميل اليوم ؟", "intl"),
            ("ta", "இன்று வானிலை மிகவும் நன்று", "இன்று வானிலை மிகவும் மோசம்", "intl"),
            ("ru", "Сегодня очень хорошая погода.", "Сегодня очень плохая погода.", "13a"),
        ],
    )
    def test_have_their_tokenizer(self, language, prediction, reference, tokenizer):
        score = find_metric(f"bleu:{language}").compute(predictions=[prediction], references=[reference])
        assert score["bleu"] == pytest.approx(
            sacrebleu.corpus_bleu([prediction], [[reference]], tokenize=tokenizer).score
        )
        assert score["bleu"] > 0
        perfect = find_metric(f"bleu:{language}").compute(predictions=[reference], references=[reference])
        assert (perfect["bleu"], perfect["chrf"]) == pytest.approx((100, 100))

    def test_chinese_by_hand(self):
        score = Translation("zh").compute(predictions=["我爱小猫"], references=["我爱小狗"])
        # the characters are the words, as "a b c d" beside "a b c e": 3 of 4, 2 of 3, 1 of 2, of four in a row half a count of 1
        assert score["bleu"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)

    @pytest.mark.parametrize(
        "text", ["今天天气很好", "今日はいい天気です", "날씨가 좋다", "อากาศดี", "الطقس جميل", "मौसम अच्छा", "მზე"]
    )
    def test_are_refused_where_they_were_not_said(self, text):
        with pytest.raises(ValueError, match=r"BLEU was told no language.*1 of 1 references.*`bleu:zh`"):
            Translation().compute(predictions=[text], references=[text])
        with pytest.raises(ValueError, match="told the language 'de'"):
            Translation("de").compute(predictions=[text], references=[text])

    @pytest.mark.parametrize(
        ("language", "text"),
        [
            ("zh", "今日はあまりいい天気です"),
            ("zh", "วันนี้อากาศดี"),
            ("he", "今天天气很好"),
            ("ur", "ວັນນີ້ອາກາດດີ"),
            ("bn", "東京タワー"),
        ],
    )
    def test_are_refused_where_another_one_was_said(self, language, text):
        with pytest.raises(ValueError, match=f"told the language '{language}'.*would cut the letters of 1 of 1"):
            Translation(language).compute(predictions=[text], references=[text])

    def test_a_tenth_of_the_references_may_quote_others(self):
        english, chinese = "The cat sat on the mat", "今天天气很好"
        texts = [english] * 9 + [chinese]
        assert Translation().compute(predictions=texts, references=texts)["bleu"] == pytest.approx(100)
        with pytest.raises(
            ValueError, match=r"2 of 10 references wrong, first '今天天气很好'.*sources of one language"
        ):
            Translation().compute(predictions=texts, references=[*texts[:8], chinese, chinese])

    def test_letters_may_be_composed_or_not(self):
        text = "Tiếng Việt rất đẹp và khó"
        score = Translation("vi").compute(predictions=[unicodedata.normalize("NFD", text)], references=[text])
        assert (score["bleu"], score["chrf"]) == pytest.approx((100, 100))

    def test_latin_cyrillic_and_greek_need_not_be_said(self):
        for text in ("Straße und Übung im Winter", "сегодня хорошая погода здесь", "σήμερα ο καιρός είναι"):
            assert Translation().compute(predictions=[text], references=[text])["bleu"] == pytest.approx(100)

    @pytest.mark.parametrize("language", ["ja", "ko"])
    def test_with_a_dictionary_name_its_package(self, language, monkeypatch):
        def missing(**options):
            raise RuntimeError("needs a dictionary")

        monkeypatch.setattr(bleu, "BLEU", missing)
        with pytest.raises(ImportError, match=rf"pip install 'sacrebleu\[{language}\]'"):
            Translation(language).compute(predictions=["a"], references=["a"])
