"""Guards: any callable, and classifiers of transformers, of which the one for texts is trained here."""

import PIL.Image
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

from modeling_mmgpt.guarding_mmgpt import ClassifierGuard, as_guard, withheld
from tests.tiny_classifier import LONGEST, RUDE, teach_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return pipeline("text-classification", str(teach_classifier(tmp_path_factory.mktemp("guard"))))


class TestAnyCallable:
    def test_what_it_returns_stands_in_the_sentence(self):
        assert (
            withheld(lambda text, images: "too long" if len(text) > 3 else None, "long")
            == "The answer was withheld (too long)."
        )
        assert withheld(lambda text, images: True, "long") == "The answer was withheld."

    @pytest.mark.parametrize("answer", [None, False, ""])
    def test_nothing_lets_pass(self, answer):
        assert withheld(lambda text, images: answer, "text") is None

    def test_it_gets_the_images_in_a_list(self):
        assert withheld(lambda text, images: str(images), "?", ("a", "b")) == "The answer was withheld (['a', 'b'])."

    def test_no_guard_lets_pass(self):
        assert withheld(None, "anything") is None and as_guard(None) is None

    def test_what_is_no_guard_is_named(self, classifier):
        with pytest.raises(ValueError, match=r"guard is a str: give a callable"):
            as_guard("toxic")
        with pytest.raises(ValueError, match=r"say what it withholds, as ClassifierGuard\(classifier, labels="):
            as_guard(classifier)


class TestClassifierOfTexts:
    @pytest.fixture
    def guard(self, classifier):
        return as_guard(ClassifierGuard(classifier, labels={"rude"}))

    def test_it_withholds_what_it_learnt(self, guard):
        assert withheld(guard, "you stupid fool") == "The answer was withheld (rude)."
        assert withheld(guard, "hello dear friend") is None and withheld(guard, "") is None

    def test_a_long_text_is_judged_to_its_end(self, guard):
        """The classifier reads so many tokens and no more; what stands behind them is judged too."""
        for place in (0, LONGEST - 1, LONGEST, 5 * LONGEST):
            words = ["friend"] * place + ["stupid", "fool"] + ["friend"] * (6 * LONGEST - place)
            pieces = list(guard.pieces(" ".join(words)))
            assert len(pieces) > 5 and " ".join(pieces) == " ".join(words)
        assert withheld(guard, "friend " * 5 * LONGEST + "shut up") == "The answer was withheld (rude)."

    def test_the_threshold_is_the_lowest_probability(self, classifier):
        (score,) = [one["score"] for one in classifier(["fool"], top_k=None)[0] if one["label"] == "rude"]
        assert ClassifierGuard(classifier, "rude", threshold=score - 1e-4)("fool", []) == "rude"
        assert ClassifierGuard(classifier, "rude", threshold=score + 1e-4)("fool", []) is None

    @pytest.mark.parametrize("labels", [set(), {"toxic"}, {"rude", "toxic"}])
    def test_labels_that_it_does_not_have_are_named(self, classifier, labels):
        with pytest.raises(ValueError, match=r"name those to withhold, of \['friendly', 'rude'\]"):
            ClassifierGuard(classifier, labels)


def test_a_classifier_of_images_judges_each_image():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    config.id2label, config.label2id = {0: "dark", 1: "bright"}, {"dark": 0, "bright": 1}
    model = ViTForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    images = [PIL.Image.new("RGB", (20, 20), colour) for colour in ("black", "white")]
    inputs, labels = processor(images, return_tensors="pt"), torch.tensor([0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    guard = ClassifierGuard(pipeline("image-classification", model=model, image_processor=processor), {"bright"})
    assert withheld(guard, "?", images[:1]) is None and withheld(guard, "?", []) is None
    assert withheld(guard, "?", images) == "The answer was withheld (bright)."


def test_other_classifiers_are_refused(classifier):
    classifier_of_audio = type("Classifier", (), {"task": "audio-classification"})()
    with pytest.raises(ValueError, match="of texts or of images, but this is for 'audio-classification'"):
        ClassifierGuard(classifier_of_audio, {"rude"})
    assert withheld(ClassifierGuard(classifier, {"rude"}), RUDE[0])
