"""Checkpoints of the GPT line come in, compute what they did, and go back bit for bit."""

import weakref
from dataclasses import fields

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, GPT2Config, GPT2Model, GPTJConfig

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, convert_checkpoint, from_gpt, to_gpt
from modeling_mmgpt.tools import convert as converting
from modeling_mmgpt.tools.convert import config_from_gpt, config_to_gpt
from modeling_mmgpt.tools.families import FAMILIES
from tests.conftest import TEXT
from training.checks.parity import MODELS, TOLERANCE, compare, measure, random_ids, random_model, same_weights


@pytest.fixture(params=FAMILIES, ids=str)
def theirs(request):
    return random_model(request.param, MODELS[request.param][1])


@pytest.mark.parametrize("name", MODELS)
def test_every_family_is_the_same_function_and_comes_back(name):
    parity = measure(name)
    assert max(parity.logits, parity.left_padding, parity.right_padding, parity.cached) <= TOLERANCE
    assert parity.greedy
    assert parity.weights_back and parity.config_back


def test_every_family_is_measured():
    assert {model_type for model_type, _ in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("openai-gpt", {"norm_eps": 1e-5}),
        ("openai-gpt", {"hidden_act": "gelu"}),
        ("gpt2", {"norm_eps": 1e-5}),
        ("gpt_neo", {"attention_scale": None}),
        ("gpt_neo", {"sliding_window": 7}),
        ("gpt_neox", {"hidden_act": "gelu_new"}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10100.0}}),
        ("mistral", {"sliding_window": 5}),
        ("qwen3_moe", {"norm_topk_prob": False}),
    ],
)
def test_the_comparison_sees_a_wrong_choice(name, wrong):
    theirs = random_model(*MODELS[name])
    right = from_gpt(theirs)
    choices = {item.name: getattr(right.config, item.name) for item in fields(MMGPTTextConfig) if item.init}
    model = MMGPTForCausalLM(MMGPTTextConfig(**choices | wrong)).eval()
    model.load_state_dict(right.state_dict())
    assert max(compare(theirs, model).values()) > 5 * TOLERANCE


def test_every_parameter_of_the_probe_is_nontrivial(theirs):
    """A rule that mixes up two parameters goes unseen where both are zero or one."""
    for name, parameter in theirs.named_parameters():
        assert parameter.std() > 0.05, name


def test_a_folder_of_many_shards_is_the_model(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same_weights(from_gpt(tmp_path), from_gpt(theirs))


def test_bfloat16_stays_bfloat16(theirs, tmp_path):
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    ours = from_gpt(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert from_gpt(tmp_path, dtype=torch.float32).dtype == torch.float32
    assert same_weights(theirs, to_gpt(ours, theirs.config.model_type))


def test_weights_are_read_one_at_a_time(tmp_path, monkeypatch):
    """Beside the finished model there is never more than one tensor of the checkpoint in memory, so never a whole shard."""
    theirs = random_model("llama", MODELS["llama"][1])
    theirs.save_pretrained(tmp_path, max_shard_size="50KB")
    read, alive, most = converting.read_tensors, {}, []

    def watched(file):
        for name, tensor in read(file):
            alive[name] = tensor.nbytes
            weakref.finalize(tensor, alive.pop, name)
            most.append(sum(alive.values()))
            yield name, tensor
            del tensor

    monkeypatch.setattr(converting, "read_tensors", watched)
    from_gpt(tmp_path)
    sizes = sorted((parameter.nbytes for parameter in theirs.parameters()), reverse=True)
    assert len(most) == len(theirs.state_dict())
    # The loop variables of two generators hold the last tensor while the next is made.
    assert max(most) <= sizes[0] + sizes[1]


def test_pickled_checkpoints_are_read(theirs, tmp_path):
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    assert same_weights(from_gpt(tmp_path), from_gpt(theirs))


def test_names_of_old_checkpoints_are_read(tmp_path):
    """GPT-2's own files have no prefix and carry the causal mask; GPT-NeoX's call the head embed_out."""
    theirs = random_model("gpt2", MODELS["gpt2"][1])
    tensors = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
    tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(4)}
    del tensors["lm_head.weight"]
    theirs.config.save_pretrained(tmp_path / "gpt2")
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "gpt2" / "model.safetensors")
    assert same_weights(from_gpt(tmp_path / "gpt2"), from_gpt(theirs))

    theirs = random_model("gpt_neox", MODELS["gpt_neox"][1])
    tensors = theirs.state_dict()
    tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
    theirs.config.save_pretrained(tmp_path / "neox")
    save_file(tensors, tmp_path / "neox" / "model.safetensors")
    assert same_weights(from_gpt(tmp_path / "neox"), from_gpt(theirs))


def test_a_model_without_head_comes_in_where_the_head_is_the_embeddings():
    torch.manual_seed(0)
    body = GPT2Model(
        GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=16, vocab_size=64, bos_token_id=None, eos_token_id=None)
    ).eval()
    ids = random_ids(1, 8) % 64
    expected = body(ids).last_hidden_state @ body.wte.weight.t()
    torch.testing.assert_close(from_gpt(body)(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_folder_becomes_a_complete_folder(tmp_path, tokenizer):
    theirs = random_model("llama", MODELS["llama"][1] | {"vocab_size": len(tokenizer)})
    theirs.generation_config.temperature = 0.5
    theirs.generation_config.do_sample = True
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    folder = convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    assert folder == tmp_path / "ours"
    assert {"modeling_mmgpt_text.py", "tokenizer.json", "README.md"} <= {p.name for p in folder.iterdir()}
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = random_ids(2, 8)
    torch.testing.assert_close(loaded(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert loaded.generation_config.temperature == 0.5
    assert AutoTokenizer.from_pretrained(folder).encode("hello") == tokenizer.encode("hello")
    assert "llama" in (folder / "README.md").read_text()

    convert_checkpoint(folder, tmp_path / "back", to="llama")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back) is type(theirs) and same_weights(back, theirs)
    assert AutoTokenizer.from_pretrained(tmp_path / "back").encode("hello") == tokenizer.encode("hello")
    with pytest.raises(ValueError, match="is a llama: only a model of MMGPTForCausalLM can become a qwen2"):
        convert_checkpoint(tmp_path / "back", tmp_path / "no", to="qwen2")


def test_a_folder_without_tokenizer_is_named(tmp_path):
    random_model("llama", MODELS["llama"][1]).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="has no tokenizer"):
        convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_other_families_are_refused_with_a_list():
    with pytest.raises(ValueError, match=r"model_type 'bert'; the families are openai-gpt, gpt2, .*qwen3"):
        config_from_gpt(BertConfig())
    with pytest.raises(ValueError, match="the families are"):
        to_gpt(MMGPTForCausalLM(MMGPTTextConfig(**TEXT)), "gpt5")


def test_what_the_decoder_cannot_follow_is_refused():
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx=True"):
        config_from_gpt(GPT2Config(scale_attn_by_inverse_layer_idx=True))


HALF_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}


@pytest.mark.parametrize(
    ("model_type", "choice", "named"),
    [
        ("llama", {"qk_norm": True}, "qk_norm is True, the family has False"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", HALF_SLIDING, "sliding_window is 4"),
        ("mistral", HALF_SLIDING, "layer_types"),
        ("qwen2", {"attention_bias": True, "attention_output_bias": True}, "attention_output_bias is True"),
        ("llama", {"attention_scale": 1.0}, "attention_scale is 1.0"),
        ("llama", {"position_embedding_type": "none"}, "position_embedding_type is 'none'"),
    ],
)
def test_a_model_that_the_family_cannot_hold_is_refused(model_type, choice, named):
    with pytest.raises(ValueError, match=named):
        config_to_gpt(MMGPTTextConfig(**TEXT | choice), model_type)


def test_our_own_models_leave_as_the_family_they_fit():
    """Trained here, served by whatever reads Llama or Qwen3."""
    ids = random_ids(2, 8)
    for model_type, choice in (("llama", {}), ("qwen3", {"qk_norm": True, "head_dim": 16})):
        ours = MMGPTForCausalLM(MMGPTTextConfig(**TEXT | choice, initializer_range=0.2)).eval()
        torch.testing.assert_close(to_gpt(ours, model_type)(ids).logits, ours(ids).logits, atol=1e-5, rtol=1e-5)


def test_norms_that_grew_apart_do_not_go_back_to_one():
    ours = from_gpt(random_model("gptj", MODELS["gptj"][1]))
    with torch.no_grad():
        ours.model.layers[1].input_layernorm.weight += 1
    with pytest.raises(ValueError, match="two norms of our block differ"):
        to_gpt(ours, "gptj")


def test_unfit_weights_are_named(tmp_path):
    theirs = random_model("llama", MODELS["llama"][1])
    tensors = theirs.state_dict()
    lacking = {name: tensor for name, tensor in tensors.items() if "layers.2.mlp.up" not in name}
    deeper = {"model.layers.9.mlp.up_proj.weight": torch.ones(80, 48)}
    cases = (
        (lacking, "no weights for model.layers.2.mlp.up"),
        (tensors | {"model.norm.weight": torch.ones(7)}, r"'model.norm.weight' of shape \(7,\) does not fit"),
        (tensors | {"score.weight": torch.ones(2, 48)}, "'score.weight' belongs to no part of LlamaForCausalLM"),
        (tensors | deeper, "layers.9.* has no place"),
    )
    for number, (changed, message) in enumerate(cases):
        folder = tmp_path / str(number)
        theirs.config.save_pretrained(folder)
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            from_gpt(folder)
    theirs.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        from_gpt(tmp_path / "empty")


def test_every_rotary_share_of_gptj_survives():
    """30 / 44 * 44 is a little less than 30 in floating point."""
    for head_dim, rotary_dim in ((44, 30), (46, 26), (78, 62), (128, 30), (256, 64), (24, 24)):
        theirs = GPTJConfig(n_embd=head_dim, n_head=1, rotary_dim=rotary_dim)
        assert config_to_gpt(config_from_gpt(theirs), "gptj").rotary_dim == rotary_dim
