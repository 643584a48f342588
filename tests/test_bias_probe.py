"""The counterfactual probe finds a prejudice that is there, with and without an image, and no other."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from modeling_mmgpt import MMGPTCollator
from tests.conftest import byte_tokenizer, make_image, make_model
from tests.tiny_biased import PROMPTS
from training.evaluation.bias_probe import GREY, answer_probabilities, ask_all, encode_questions, measure_probe
from training.evaluation.bias_prompts import Prompts, Question
from training.model_building import load_checkpoint


@pytest.fixture
def prompts():
    questions = [Question(one["ask"], tuple(one["answers"])) for one in PROMPTS["questions"]]
    return Prompts(PROMPTS["groups"], questions, PROMPTS["beginnings"])


@pytest.fixture(scope="module")
def model_and_processor(biased):
    return load_checkpoint(str(biased))


class TestPrejudice:
    def test_it_is_found_where_it_is(self, model_and_processor, prompts):
        results = measure_probe(*model_and_processor, prompts)
        found = {(one["task"], one["measure"]): one for one in results}
        assert found["kind: zib", "change"]["value"] == pytest.approx(-0.5, abs=0.05)
        assert found["kind: zob", "change"]["value"] == pytest.approx(0.5, abs=0.05)
        assert found["kind", "spread"]["value"] == pytest.approx(0.5**0.5, abs=0.05)
        control = found["colour (control)", "spread"]
        assert control["value"] < 0.05 and control["n"] == 2 and control["low"] <= control["value"] <= control["high"]

    def test_an_image_may_take_it_away(self, model_and_processor, prompts):
        """The model thinks well of everybody whom it is shown."""
        results = measure_probe(*model_and_processor, prompts)
        shown = [one["value"] for one in results if one["measure"].endswith(", with image")]
        assert len(shown) == len(results) / 2 and max(map(abs, shown)) < 0.1

    def test_several_images_are_averaged(self, model, processor, prompts, tmp_path):
        make_image(3).save(tmp_path / "other.png")
        images = [GREY, str(tmp_path / "other.png")]
        one, other = (ask_all(model, processor, prompts, image, 3) for image in images)
        assert one.shape == (2, 4) and not np.allclose(one, other, atol=1e-5)
        results = measure_probe(model, processor, prompts, images)
        mean = (one + other) / 2
        change = (mean[:, 0] - mean[:, :2].mean(1)).mean()
        found = {(result["task"], result["measure"]): result["value"] for result in results}
        assert found["kind: zib", "change, with image"] == pytest.approx(change, abs=1e-4)
        assert {one["n"] for one in results} == {2}

    def test_no_image_no_column(self, model_and_processor, prompts):
        results = measure_probe(*model_and_processor, prompts, images=[])
        assert {one["measure"] for one in results} == {"spread", "change"}


class TestProbabilities:
    def test_they_are_those_of_each_prompt_alone(self, model, processor):
        """Answers of one and of several tokens, of which some begin alike; prompts of different lengths, with an image."""
        texts, answers = ["Is it?", "And is it really so?"], [[80], [80, 81, 90], [80, 81, 91], [70, 71]]
        image = Image.new("RGB", (16, 16), "red")
        batch, before = encode_questions(processor, texts, image)
        assert before == "" and batch["attention_mask"][0, 0] == 0, "padded on the left"
        with torch.no_grad():
            found = answer_probabilities(model, batch, answers)
            for text, row in zip(texts, found, strict=True):
                sample = {
                    "messages": [
                        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
                    ],
                    "images": [image],
                }
                alone = MMGPTCollator(processor, add_generation_prompt=True)([sample])
                sums = []
                for answer in answers:
                    ids = torch.cat([alone["input_ids"], torch.tensor([answer])], 1)
                    logits = model(input_ids=ids, pixel_values=alone["pixel_values"]).logits.log_softmax(-1)
                    places = range(ids.shape[1] - 1 - len(answer), ids.shape[1] - 1)
                    sums.append(sum(logits[0, place, token] for place, token in zip(places, answer, strict=True)))
                assert torch.allclose(row, torch.stack(sums).softmax(0), atol=1e-5)
        assert found.sum(1).tolist() == pytest.approx([1.0, 1.0])

    def test_a_model_in_training_goes_back_to_it(self, processor, prompts):
        model = make_model().train()
        ask_all(model, processor, prompts, None, 4)
        assert model.training


class TestTextModels:
    """Any causal decoder of transformers, whose processor is a tokenizer."""

    def test_with_a_chat_template_the_question_is_asked_by_it(self):
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = (
            "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
        )
        batch, before = encode_questions(tokenizer, ["Is it?", "Why?"], None)
        texts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
        assert texts == ["[Is it?]>", "[Why?]>"] and before == ""

    def test_without_one_the_text_is_continued(self, tmp_path, prompts):
        tokenizer = byte_tokenizer()
        tokenizer.pad_token = None
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
        model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
        batch, before = encode_questions(tokenizer, ["Is it?"], None)
        assert tokenizer.decode(batch["input_ids"][0]) == "Is it?\nAnswer:" and before == " "
        results = measure_probe(model, tokenizer, prompts)
        assert {one["measure"] for one in results} == {"spread", "change"} and len(results) == 6
