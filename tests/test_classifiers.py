"""Any sequence classifier of Hugging Face judges texts."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from training.data.cleaning.classifiers import TextClassifier


TEXTS = ["it was a lovely day", "it was a filthy day", "", "Stupid!"]


@pytest.fixture
def classifier(toxic_words):
    return TextClassifier(str(toxic_words), "toxic", batch_size=3)


def test_the_score_is_the_probability_of_the_label(classifier, toxic_words):
    model, tokenizer = (
        one.from_pretrained(toxic_words) for one in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    scores = classifier.score(TEXTS)
    assert [score > 0.5 for score in scores] == [False, True, False, True]
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS if text]
    expected = [one.softmax(-1)[0, 1].item() for one in logits]
    assert scores == pytest.approx([*expected[:2], 0.0, expected[2]], abs=1e-5), "nothing is said in a blank text"
    other = TextClassifier(str(toxic_words), "fine").score(TEXTS[:2])
    assert [one + score for one, score in zip(other, scores[:2], strict=True)] == pytest.approx([1.0] * 2)


def test_a_text_of_any_length_is_read_to_its_end(classifier):
    long = "it was a lovely day and " * 20
    assert len(classifier.parts_of(long)) == 8 and classifier.parts_of(TEXTS[0]) == [TEXTS[0]]
    calm, foul = classifier.score([long, long + "filthy"])
    assert calm < 0.5 < foul
    assert classifier.score([" \n"]) == [0.0] and classifier.score([]) == []


def test_a_label_of_several_is_judged_by_itself(toxic_words, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(toxic_words)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toxic_words).save_pretrained(tmp_path)
    sums = [sum(TextClassifier(str(tmp_path), label).score([TEXTS[1]])) for label in ("toxic", "fine")]
    assert sum(sums) != pytest.approx(1.0, abs=1e-3)


def test_mistakes_say_the_way_out(toxic_words, tmp_path):
    with pytest.raises(ValueError, match=r"no label 'rude'; it has 'fine', 'toxic'"):
        TextClassifier(str(toxic_words), "rude")
    with pytest.raises(ValueError, match=r"the classifier .*nothing cannot be loaded"):
        TextClassifier(str(tmp_path / "nothing"), "toxic")
