"""How sure a model was of its answers: the numbers of its own logits, watched while it generates."""

import math

import pytest
import torch
from transformers import LogitsProcessorList

from modeling_mmgpt.answer_quality_mmgpt import QualityRecorder, answer_lengths, repetition
from tests.conftest import make_model


@pytest.fixture(scope="module")
def lively():
    """A model whose answers differ from one prompt to the next, and which suppresses tokens."""
    model = make_model(text={"initializer_range": 0.5})
    model.generation_config.eos_token_id = None
    return model


def generate(model, ids, **options):
    recorder = QualityRecorder()
    output = model.generate(
        input_ids=ids, max_new_tokens=6, logits_processor=LogitsProcessorList([recorder]), **options
    )
    return output[:, ids.shape[1] :], recorder


@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "sampled"]
)
def test_they_are_the_numbers_of_the_models_own_logits(lively, options):
    ids = torch.randint(10, 300, (3, 5))
    new_tokens, recorder = generate(lively, ids, **options)
    with torch.no_grad():
        logits = lively(input_ids=torch.cat([ids, new_tokens], 1)).logits[:, 4:-1]
    logits[..., lively.generation_config.suppress_tokens or []] = -math.inf
    log_probabilities = logits.log_softmax(-1)
    entropies = torch.special.entr(log_probabilities.exp()).sum(-1)
    for index, quality in enumerate(recorder.measure(new_tokens, None)):
        chosen = log_probabilities[index].gather(1, new_tokens[index, :, None])
        assert quality.log_probability == pytest.approx(chosen.mean().item(), abs=1e-4)
        assert quality.entropy == pytest.approx(entropies[index].mean().item(), abs=1e-4)
        assert quality.confidence == pytest.approx(math.exp(quality.log_probability))
        assert quality.as_dict().keys() == {"confidence", "log_probability", "entropy", "repetition"}


def test_generation_is_the_same_with_it(lively):
    ids = torch.randint(10, 300, (2, 4))
    watched, _ = generate(lively, ids, do_sample=False)
    assert torch.equal(watched, lively.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[:, 4:])


def test_an_answer_counts_to_the_token_that_ends_it(lively):
    ids = torch.randint(10, 300, (2, 4))
    new_tokens, recorder = generate(lively, ids, do_sample=False)
    end = new_tokens[0, 2].item()
    short, long = recorder.measure(new_tokens, end)[0], recorder.measure(new_tokens, None)[0]
    steps = torch.cat([*recorder.log_probabilities, recorder.last.gather(1, new_tokens[:, -1:])], 1)[0]
    length = new_tokens[0].tolist().index(end) + 1
    assert short.log_probability == pytest.approx(steps[:length].mean().item())
    assert long.log_probability == pytest.approx(steps.mean().item())


def test_lengths_of_answers():
    tokens = torch.tensor([[5, 3, 0, 0], [3, 3, 3, 3], [5, 6, 7, 8], [5, 9, 3, 9]])
    assert answer_lengths(tokens, 3) == [2, 1, 4, 3]
    assert answer_lengths(tokens, [3, 9]) == [2, 1, 4, 2]
    assert answer_lengths(tokens, None) == [4, 4, 4, 4]


def test_repetition_is_the_share_of_pairs_that_were_there_before():
    assert repetition([1, 2, 3, 4]) == repetition([1]) == repetition([]) == 0
    assert repetition([1, 2, 1, 2, 1]) == 0.5 and repetition([7] * 11) == 0.9


def test_beams_are_refused(lively):
    ids = torch.randint(10, 300, (1, 4))
    new_tokens, recorder = generate(lively, ids, do_sample=False, num_beams=2)
    with pytest.raises(ValueError, match="without beams: set num_beams=1"):
        recorder.measure(new_tokens, None)
