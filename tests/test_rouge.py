"""ROUGE through rouge_score."""

import unicodedata

import pytest
from rouge_score.rouge_scorer import RougeScorer

from training.evaluation.metrics.rouge import MEASURES, Rouge


def test_by_hand():
    score = Rouge().compute(predictions=["the gunman kill police"], references=["police killed the gunman"])
    # stems are the same four; one of three pairs ("the gunman") in common; longest common subsequence 2 of 4
    assert (score["rouge1"], score["rouge2"], score["rougeL"]) == pytest.approx((1.0, 1 / 3, 0.5))


def test_of_several_references_the_best_one_counts():
    score = Rouge().compute(predictions=["a b", "c"], references=[["x", "a b"], ["d", "e", "f"]])
    assert score["rouge1"] == 0.5 and score["n"] == 2
    assert (score["low"], score["high"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("prediction", "reference", "scores"),
    [
        # characters as words: 3 of 4 in common, 2 of 3 pairs, 3 of 4 in order
        ("我爱小猫。", "我爱小狗", (3 / 4, 2 / 3, 3 / 4)),
        ("猫です", "犬です", (2 / 3, 1 / 2, 2 / 3)),
        ("ที่นี่ดี", "ที่นี่", (2 * 2 / (3 + 2), 2 * 1 / (2 + 1), 2 * 2 / (3 + 2))),
        # words, set apart by blanks: 2 of 3 in common, 1 of 2 pairs
        ("나는 학교에 간다", "나는 학교에 온다.", (2 / 3, 1 / 2, 2 / 3)),
        ("الطقس جميل اليوم", "الطقس جميل غدا؟", (2 / 3, 1 / 2, 2 / 3)),
        ("मौसम अच्छा है", "मौसम अच्छा था।", (2 / 3, 1 / 2, 2 / 3)),
        ("погода сегодня хорошая", "Погода сегодня плохая", (2 / 3, 1 / 2, 2 / 3)),
        ("für Bär", "fur Bar", (0, 0, 0)),
        (unicodedata.normalize("NFD", "학교에 갔다"), "학교에 갔다", (1, 1, 1)),
        ("ﾃﾞｰﾀ", "データ", (1, 1, 1)),
    ],
)
def test_every_script_has_words(prediction, reference, scores):
    score = Rouge().compute(predictions=[prediction], references=[reference])
    assert (score["rouge1"], score["rouge2"], score["rougeL"]) == pytest.approx(scores)


def test_only_english_is_stemmed():
    pair = {"predictions": ["nations running"], "references": ["nation runs"]}
    assert Rouge().compute(**pair)["rouge1"] == Rouge("en").compute(**pair)["rouge1"] == 1
    assert Rouge("fr").compute(**pair)["rouge1"] == 0


def test_plain_english_is_scored_as_rouge_score_does():
    predictions = ["The cats' 2 toys_box, don't! re-run", "a"]
    references = ["A cat's toy box: doesn't rerun 2.5", "b"]
    scorer = RougeScorer(MEASURES, use_stemmer=True)
    for prediction, reference in zip(predictions, references, strict=True):
        score = Rouge().compute(predictions=[prediction], references=[reference])
        right = scorer.score(reference, prediction)
        assert [score[name] for name in MEASURES] == pytest.approx([right[name].fmeasure for name in MEASURES])
