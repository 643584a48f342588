"""The mixture of experts is the library's function with its loss, however it is computed; the cache is accepted by both of its names."""

import copy

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, from_gpt
from modeling_mmgpt.layers_mmgpt import CACHE, MMGPTMixture
from modeling_mmgpt.modeling_mmgpt_text import MMGPTTextModel
from tests.conftest import TEXT, make_model
from training.checks.parity import MODELS, random_ids, random_model


MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def make_mixture(**choices) -> MMGPTForCausalLM:
    torch.manual_seed(0)
    return MMGPTForCausalLM(MMGPTTextConfig(**TEXT | MIXTURE | {"initializer_range": 0.2} | choices)).eval()


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_every_implementation_is_the_eager_one(implementation):
    model, ids = make_mixture(), random_ids(2, 9)
    model.set_experts_implementation("eager")
    expected = model(ids).logits
    model.set_experts_implementation(implementation)
    assert model.config._experts_implementation == implementation
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_implementation_reaches_the_decoder_of_a_multimodal_model():
    model = make_model(text=MIXTURE)
    model.set_experts_implementation("batched_mm")
    assert model.config.text_config._experts_implementation == "batched_mm"


def test_loss_and_balance_are_those_of_the_library():
    theirs: MixtralForCausalLM = random_model("mixtral", MODELS["mixtral"][1])
    ours, ids = from_gpt(theirs), random_ids(3, 12)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    options = {"attention_mask": mask, "labels": labels, "output_router_logits": True}
    expected, actual = theirs(ids, **options), ours(ids, **options)
    assert len(actual.router_logits) == 4
    torch.testing.assert_close(actual.aux_loss, expected.aux_loss)
    torch.testing.assert_close(actual.loss, expected.loss)
    assert actual.loss > ours(ids, attention_mask=mask, labels=labels).loss


@torch.no_grad()
def test_accumulated_parts_count_the_balance_once():
    """Each part's balance is its own, but together they weigh as much as that of one batch."""
    model, ids = make_mixture(), random_ids(4, 9)
    count = ids[:, 1:].numel()
    options = {"num_items_in_batch": count, "output_router_logits": True}
    parts = [model(ids[i : i + 1], labels=ids[i : i + 1], **options) for i in range(4)]
    text = model(ids, labels=ids).loss
    balance = sum(part.aux_loss for part in parts) / 4
    coefficient = model.config.router_aux_loss_coef
    torch.testing.assert_close(sum(part.loss for part in parts), text + coefficient * balance)


def test_multimodal_loss_has_the_balance(collator, samples):
    model = make_model(text=MIXTURE | {"output_router_logits": True, "router_aux_loss_coef": 1.0})
    batch = collator(samples)
    outputs, silent = model(**batch), model(**batch, output_router_logits=False)
    assert silent.aux_loss is None and silent.router_logits is None
    torch.testing.assert_close(outputs.loss, silent.loss + outputs.aux_loss)


def test_gradients_reach_router_and_experts():
    model, ids = make_mixture().train(), random_ids(2, 9)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_only_sparse_layers_have_experts():
    model = make_mixture(num_hidden_layers=3, mlp_layer_types=["dense", "sparse", "dense"])
    with_router = [
        i for i, layer in enumerate(model.model.layers) if any(isinstance(m, MMGPTMixture) for m in layer.modules())
    ]
    assert with_router == [1]


def test_experts_start_like_the_other_matrices():
    model = MMGPTTextModel(MMGPTTextConfig(**TEXT | MIXTURE | {"hidden_size": 128, "num_hidden_layers": 8}))
    mixture = model.layers[0].mlp
    assert mixture.experts.gate_up_proj.std().item() == pytest.approx(0.02, rel=0.1)
    assert mixture.experts.down_proj.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert mixture.gate.weight.std().item() == pytest.approx(0.02, rel=0.2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("base", [True, False])
def test_the_cache_is_accepted_by_both_names(kind, base):
    model = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval() if kind == "text" else make_model()
    model = model.base_model if base else model
    ids = torch.randint(10, 320, (2, 9))
    first = model(ids[:, :5], use_cache=True)
    assert first.get(CACHE).get_seq_length() == 5
    whole = model(ids)[0][:, 5:]
    for name in ("cache", "past_key_values"):
        rest = model(ids[:, 5:], **{name: copy.deepcopy(first.get(CACHE))})
        torch.testing.assert_close(rest[0], whole)
        assert rest.get(CACHE).get_seq_length() == 9
