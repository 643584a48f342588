"""CIDEr-D, by hand."""

import math
import unicodedata

import pytest

from training.evaluation.metrics.cider import CIDEr, cider_scores


REFERENCES = [["a cat"], ["a dog"]]


def test_words_that_all_captions_have_weigh_nothing():
    # "cat" and "a cat" agree, of n-grams of 3 and 4 words there are none: 10 * (1 + 1 + 0 + 0) / 4
    assert cider_scores(["a cat", "a cat"], REFERENCES) == pytest.approx([5.0, 0.0])


def test_another_length_costs():
    assert cider_scores(["cat", "a dog"], REFERENCES)[0] == pytest.approx(10 * math.exp(-1 / 72) / 4)


def test_repeating_a_word_does_not_pay():
    # said twice, the count is clipped to 1: w * w / (2 w * w) for one word, nothing in common for two; lengths agree
    assert cider_scores(["cat cat", "a dog"], REFERENCES)[0] == pytest.approx(10 * 0.5 / 4)


def test_references_are_averaged():
    assert cider_scores(["a cat", "a dog"], [["a cat", "two birds"], ["a dog"]])[0] == pytest.approx(5.0 / 2, abs=1e-6)


def test_metric_computes():
    score = CIDEr().compute(predictions=["A cat.", "a cat"], references=REFERENCES)
    assert score["cider"] == pytest.approx(2.5) and score["n"] == 2
    assert (score["low"], score["high"]) == pytest.approx((0.0, 5.0))


@pytest.mark.parametrize(
    ("right", "other", "wrong"),
    [
        ("一只小猫", "一条大狗", "一只小狗"),
        ("小さな猫", "大きい犬", "小さな犬"),
        ("แมวตัวเล็ก", "หมาใหญ่มาก", "แมวใหญ่"),
        ("एक छोटी बिल्ली है", "वह बड़ा कुत्ता था", "एक छोटा कुत्ता है"),
    ],
)
def test_every_script_has_words(right, other, wrong):
    best, none, some = (cider_scores([said, other], [[right], [other]])[0] for said in (right, other, wrong))
    assert best == pytest.approx(10) and 0 < some < 10 and none < some


def test_spellings_that_look_the_same_are_the_same():
    captions, other = ["작은 고양이 한 마리", "ｶﾒﾗと本"], "un chien"
    right = [["작은 고양이 한 마리"], ["カメラと本"]]
    scores = cider_scores([unicodedata.normalize("NFD", captions[0]), captions[1], other], [*right, [other]])
    assert scores[:2] == pytest.approx([10, 10])


def test_chinese_characters_are_its_words():
    spaced = cider_scores(["a b c", "d e"], [["a b x"], ["d e"]])
    assert cider_scores(["甲乙丙", "丁戊。"], [["甲乙子"], ["丁戊"]]) == pytest.approx(spaced)
