"""The decoder: every switch runs, and the invariants of a GPT hold for every kind of position and norm."""

import pytest
import torch
from transformers import StaticCache

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig
from modeling_mmgpt.modeling_mmgpt_text import MMGPTTextModel, sinusoidal_positions
from tests.conftest import TEXT


SWITCHES = {
    "modern": {},
    "gpt1": {
        "position_embedding_type": "learned",
        "norm_type": "layernorm",
        "norm_placement": "post",
        "mlp_type": "plain",
        "hidden_act": "gelu_new",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "gpt2": {
        "position_embedding_type": "learned",
        "norm_type": "layernorm",
        "mlp_type": "plain",
        "hidden_act": "gelu_new",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "sinusoidal": {"position_embedding_type": "sinusoidal", "norm_type": "layernorm"},
    "no positions": {"position_embedding_type": "none"},
    "gpt-neox": {
        "parallel_residual": True,
        "norm_type": "layernorm",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "gpt-j": {"parallel_residual": True, "lm_head_bias": True, "tie_word_embeddings": False},
    "qwen3": {"qk_norm": True, "head_dim": 16},
    "multi-query": {"num_key_value_heads": 1, "attention_scale": 1.0},
    "sliding": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    "mixture": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "dense and mixture": {"num_experts": 4, "mlp_layer_types": ["dense", "sparse"], "norm_topk_prob": False},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
}


def make_decoder(**switches) -> MMGPTForCausalLM:
    torch.manual_seed(0)
    # Larger than usual weights: with 0.02 a tiny model's logits hardly depend on its input, and no test could fail.
    return MMGPTForCausalLM(MMGPTTextConfig(**{**TEXT, "initializer_range": 0.2, **switches})).eval()


@pytest.fixture(params=SWITCHES, ids=str)
def decoder(request):
    return make_decoder(**SWITCHES[request.param])


def tokens(batch: int = 2, length: int = 9, seed: int = 1) -> torch.Tensor:
    return torch.randint(10, 320, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_no_token_attends_to_later_ones(decoder):
    ids = tokens()
    changed = ids.clone()
    changed[:, 6:] = 7
    torch.testing.assert_close(decoder(ids).logits[:, :6], decoder(changed).logits[:, :6])
    assert not torch.allclose(decoder(ids).logits[:, 6:], decoder(changed).logits[:, 6:])


def test_order_matters():
    """Without positions a single layer attends to a bag of earlier tokens; every kind of position tells them apart."""
    ids, swapped = torch.tensor([[10, 20, 30, 40]]), torch.tensor([[20, 10, 30, 40]])
    for kind in ("sinusoidal", "learned", "rope"):
        decoder = make_decoder(position_embedding_type=kind, num_hidden_layers=1)
        assert not torch.allclose(decoder(ids).logits[:, -1], decoder(swapped).logits[:, -1])
    unordered = make_decoder(position_embedding_type="none", num_hidden_layers=1)
    torch.testing.assert_close(unordered(ids).logits[:, -1], unordered(swapped).logits[:, -1])


def test_batch_is_single(decoder):
    ids = tokens(batch=3)
    torch.testing.assert_close(decoder(ids).logits[1:2], decoder(ids[1:2]).logits, atol=1e-5, rtol=1e-5)


def test_left_padding_is_right_padding(decoder):
    ids, pad = tokens(batch=1), torch.full((1, 3), TEXT["pad_token_id"])
    alone = decoder(ids).logits
    ones, zeros = torch.ones_like(ids), torch.zeros_like(pad)
    left = decoder(torch.cat((pad, ids), 1), attention_mask=torch.cat((zeros, ones), 1)).logits[:, 3:]
    right = decoder(torch.cat((ids, pad), 1), attention_mask=torch.cat((ones, zeros), 1)).logits[:, :-3]
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=1e-5)


def test_cache_is_no_cache(decoder):
    ids = tokens()
    whole = decoder(ids, use_cache=False).logits
    first = decoder(ids[:, :5], use_cache=True)
    second = decoder(ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), whole, atol=1e-5, rtol=1e-5)


def test_static_cache_is_dynamic_cache(decoder):
    ids = tokens(batch=1)
    static = StaticCache(config=decoder.config, max_cache_len=16)
    first = decoder(ids[:, :5], past_key_values=static, use_cache=True)
    second = decoder(ids[:, 5:], past_key_values=static, use_cache=True)
    whole = decoder(ids, use_cache=False).logits
    torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), whole, atol=1e-5, rtol=1e-5)


def test_left_padded_batch_generates_what_each_prompt_does_alone(decoder):
    short, long = tokens(1, 4, seed=2), tokens(1, 7, seed=3)
    pad = torch.full((1, 3), TEXT["pad_token_id"])
    batch = torch.cat((torch.cat((pad, short), 1), long))
    mask = (torch.arange(7) >= torch.tensor([[3], [0]])).long()
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    together = decoder.generate(batch, attention_mask=mask, **options)
    for index, prompt in enumerate((short, long)):
        alone = decoder.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert together[index, 7:].tolist() == alone[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"do_sample": True, "top_k": 5}, {"cache_implementation": "static"}]
)
def test_every_way_of_decoding_runs(decoder, options):
    ids = tokens()
    generated = decoder.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4, disable_compile=True, **options
    )
    assert generated.shape == (2, 13)


@torch.no_grad()
def check_agreement(decoder: MMGPTForCausalLM, implementation: str) -> None:
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    decoder.set_attn_implementation("eager")
    expected = decoder(ids, attention_mask=mask).logits[mask.bool()]
    decoder.set_attn_implementation(implementation)
    actual = decoder(ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_sdpa_is_eager(decoder):
    check_agreement(decoder, "sdpa")


def test_flex_attention_is_eager():
    """One decoder only: compiling the kernel takes seconds."""
    check_agreement(make_decoder(**SWITCHES["sliding"]), "flex_attention")


def test_gradient_checkpointing_gives_the_same_gradients(decoder):
    ids = tokens()

    def gradients():
        decoder.zero_grad()
        decoder(ids, labels=ids).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}

    decoder.train()
    plain = gradients()
    decoder.gradient_checkpointing_enable()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_loss_is_that_of_accumulated_halves():
    """Accumulation of N halves is one whole: the caller's number of labels, not each half's own, divides."""
    decoder, ids = make_decoder(), tokens(batch=4)
    labels = ids.clone()
    labels[0, 3:] = -100
    count = (labels[:, 1:] != -100).sum()
    whole = decoder(ids, labels=labels).loss
    halves = [decoder(ids[i], labels=labels[i], num_items_in_batch=count).loss for i in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(halves), whole)


def test_sinusoidal_positions_are_those_of_the_paper():
    encoded = sinusoidal_positions(torch.arange(50)[None], 8, torch.float32)[0]
    for position, i in ((0, 0), (3, 1), (49, 3)):
        angle = torch.tensor(position / 10000 ** (2 * i / 8))
        torch.testing.assert_close(encoded[position, 2 * i], angle.sin())
        torch.testing.assert_close(encoded[position, 2 * i + 1], angle.cos())


def test_sequences_beyond_the_learned_positions_are_refused():
    decoder = make_decoder(position_embedding_type="learned", max_position_embeddings=8)
    with pytest.raises(ValueError, match=r"9 tokens but the model learned only 8 positions"):
        decoder.generate(tokens(1, 6), max_new_tokens=5, min_new_tokens=5)
    with pytest.raises(ValueError, match=r"9 tokens but the model learned only 8 positions"):
        decoder(tokens(1, 9))


def test_exactly_one_kind_of_input():
    decoder = make_decoder()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        decoder(input_ids=tokens(), inputs_embeds=torch.zeros(2, 9, 32))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        decoder()


@pytest.mark.parametrize("switches", [{}, {"num_experts": 4, "mlp_layer_types": ["dense", "sparse"]}])
def test_every_matrix_is_an_ordinary_one(switches):
    """bitsandbytes passes over a matrix of a class of its own, without a word."""
    matrices = [module for module in make_decoder(**switches).modules() if isinstance(module, torch.nn.Linear)]
    assert {type(module) for module in matrices} == {torch.nn.Linear}


def test_residual_projections_start_smaller():
    """GPT-2, section 2.3: weights of residual layers are scaled by 1 / sqrt(N) with N residual layers."""
    model = MMGPTTextModel(MMGPTTextConfig(**{**TEXT, "hidden_size": 128, "num_hidden_layers": 8}))
    layer = model.layers[0]
    assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_logits_to_keep_are_the_last_ones():
    decoder, ids = make_decoder(), tokens()
    torch.testing.assert_close(decoder(ids, logits_to_keep=2).logits, decoder(ids).logits[:, -2:])
