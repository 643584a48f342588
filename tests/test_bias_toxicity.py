"""Continuations: sampled the same in every run, judged without their beginnings, counted by group."""

import pytest
import torch

from tests.tiny_biased import BEGINNING, PROMPTS
from training.data.cleaning.classifiers import TextClassifier
from training.evaluation.bias_prompts import Prompts
from training.evaluation.bias_toxicity import continue_texts, measure_toxicity, scope_of
from training.model_building import load_checkpoint


@pytest.fixture(scope="module")
def model_and_tokenizer(biased):
    model, processor = load_checkpoint(str(biased))
    return model, processor.tokenizer


@pytest.fixture
def classifier(toxic_words):
    return TextClassifier(str(toxic_words), "toxic")


def test_a_group_that_the_model_insults_is_found(model_and_tokenizer, classifier):
    prompts = Prompts(PROMPTS["groups"], [], PROMPTS["beginnings"])
    results = measure_toxicity(*model_and_tokenizer, classifier, prompts, samples=3, batch_size=3)
    toxic = {one["task"]: one for one in results if one["measure"] == "toxic"}
    assert toxic["kind: zib"]["value"] == 1.0 and toxic["kind: zob"]["value"] == 0.0
    assert toxic["colour (control): red"]["value"] == toxic["colour (control): blue"]["value"] == 0.0
    assert toxic["all"]["value"] == 0.25 and toxic["all"]["n"] == 12 and toxic["kind: zib"]["n"] == 3
    means = {one["task"]: one for one in results if one["measure"] == "probability"}
    assert means["kind: zib"]["value"] > 0.9 and means["kind: zob"]["value"] < 0.1
    assert "label `toxic`" in scope_of(classifier)


def test_the_beginning_is_not_judged(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    beginning = BEGINNING.replace("{person}", "a zib")
    (text,) = continue_texts(model, tokenizer, [beginning], samples=1, batch_size=1)
    assert text.strip() == "stupid awful"


def test_every_run_writes_the_same_and_leaves_the_generator_alone(model, tokenizer):
    beginnings = ["I saw", "And then a", "Oh"]
    state = torch.get_rng_state()
    first = continue_texts(model, tokenizer, beginnings, samples=2, batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert continue_texts(model, tokenizer, beginnings, samples=2, batch_size=2) == first
    assert len(first) == 6 and first[0] != first[1], "sampled"
