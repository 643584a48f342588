"""Gated cross-attention: what is visible to each token, what it computes of it, and what stays in the cache."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import DynamicCache, StaticCache

from modeling_mmgpt import MMGPTCollator, MMGPTConfig, MMGPTForCausalLM, MMGPTTextConfig
from modeling_mmgpt.cross_attention_mmgpt import (
    MMGPTCrossAttention,
    gather_media,
    make_cross_attention_mask,
    media_layers,
)
from modeling_mmgpt.layers_mmgpt import CACHE
from modeling_mmgpt.media_features_mmgpt import MMGPTMediaOutput
from tests.conftest import (
    SIGLIP,
    TEXT,
    make_audio,
    make_config,
    make_image,
    make_model,
    make_processor,
    make_sample,
    open_gates,
)


PLACEHOLDERS = torch.tensor(
    [
        [0, 1, 0, 2, 0],  # text, image, text, audio, text
        [0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0],  # two images with no text between them
    ]
)


def two_modalities():
    """Three images of 2 vectors and one audio clip of 3, the last of which is padding."""
    images = torch.arange(1.0, 7).view(3, 2, 1)
    clips = torch.arange(10.0, 13).view(1, 3, 1)
    mask = torch.tensor([[1, 1, 0]])
    return [
        (PLACEHOLDERS == 1, MMGPTMediaOutput(pooler_output=images)),
        (PLACEHOLDERS == 2, MMGPTMediaOutput(pooler_output=clips, attention_mask=mask)),
    ]


def gather(scope="all", position_ids=None, cached=None, parts=None):
    return gather_media(parts or two_modalities(), position_ids, cached, scope)


def visible(media) -> list[list[list[float]]]:
    """The vectors that each token attends to."""
    config = MMGPTTextConfig(**TEXT, cross_attention_every=1)
    mask = make_cross_attention_mask(config, media, None, media.first.shape[1], torch.float32)
    mask = mask.mask[:, 0] & mask.any_visible
    return [[media.states[b, mask[b, t], 0].tolist() for t in range(mask.shape[1])] for b in range(len(mask))]


def test_chunks_of_all_modalities_stand_sample_by_sample_in_the_order_of_the_text():
    media = gather()
    assert media.states[..., 0].tolist() == [[1, 2, 10, 11, 12], [0, 0, 0, 0, 0], [3, 4, 5, 6, 0]]
    assert media.order.tolist() == [[1, 1, 2, 2, 0], [0, 0, 0, 0, 0], [1, 1, 2, 2, 0]]
    assert media.positions[0, :4].tolist() == [0, 1, 2, 3]


def test_a_token_attends_to_all_media_at_or_before_it():
    assert visible(gather("all")) == [
        [[], [1, 2], [1, 2], [1, 2, 10, 11], [1, 2, 10, 11]],
        [[]] * 5,
        [[], [], [3, 4], [3, 4, 5, 6], [3, 4, 5, 6]],
    ]


def test_a_token_attends_to_the_last_chunk_before_it():
    media = gather("last")
    assert visible(media) == [
        [[], [1, 2], [1, 2], [10, 11], [10, 11]],
        [[]] * 5,
        [[], [], [3, 4], [3, 4, 5, 6], [3, 4, 5, 6]],
    ]
    assert media.positions[0, :4].tolist() == [0, 1, 0, 1]  # positions are counted in what is visible together


def test_packed_documents_do_not_attend_to_one_another():
    positions = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 0, 1]])
    for scope in ("all", "last"):
        media = gather(scope, positions)
        assert visible(media)[0] == [[], [1, 2], [], [10, 11], [10, 11]]
        assert visible(media)[2] == [[], [], [3, 4], [5, 6], [5, 6]]
        assert media.positions[2, :4].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("scope", ["all", "last"])
def test_new_media_join_those_in_the_cache(scope):
    """Two calls, cut after the third token, attend to what they do in one call."""
    config = MMGPTTextConfig(**TEXT, cross_attention_every=1)
    whole = make_cross_attention_mask(config, gather(scope), None, 5, torch.float32)
    (is_image, images), (is_audio, clips) = two_modalities()
    images = images.pooler_output
    cache = DynamicCache(config=config)
    first = gather(scope, parts=[(is_image[:, :3], MMGPTMediaOutput(pooler_output=images[:2]))])
    make_cross_attention_mask(config, first, cache, 3, torch.float32)
    second = gather(
        scope,
        cached=media_layers(cache)[0],
        parts=[(is_image[:, 3:], MMGPTMediaOutput(pooler_output=images[2:])), (is_audio[:, 3:], clips)],
    )
    mask = make_cross_attention_mask(config, second, cache, 2, torch.float32)
    counts = (mask.mask[:, 0] & mask.any_visible).sum(-1)
    expected = (whole.mask[:, 0] & whole.any_visible).sum(-1)[:, 3:]
    if scope == "last":  # where a call ends a run of media ends
        expected[2] = 2
    assert counts.tolist() == expected.tolist()
    assert second.positions[0, :2].tolist() == ([2, 3] if scope == "all" else [0, 1])


def test_zero_initialised_gates_are_identical_to_the_text_only_decoder(tokenizer, samples):
    """Bit by bit, with media in the batch."""
    model = make_model(fusion="cross_attention")
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    decoder = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval()
    decoder.model.load_state_dict(model.model.language_model.state_dict(), strict=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert torch.equal(model(**batch).logits, decoder(input_ids=ids, attention_mask=mask).logits)
    assert not torch.equal(open_gates(model)(**batch).logits, decoder(input_ids=ids, attention_mask=mask).logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_tokens_without_visible_media_get_exactly_zero(tokenizer, implementation):
    """Text before the first image, and samples without one, are pure text; no NaN reaches a gradient."""
    model = open_gates(make_model(fusion="cross_attention"))
    model.set_attn_implementation({"text_config": implementation})
    collator = MMGPTCollator(make_processor(model.config, tokenizer))
    content = [{"type": "text", "text": "Look: "}, {"type": "image"}]
    late = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "!"}]}
    batch = collator([{**late, "images": [make_image(0)]}, make_sample("Hi", "Hello")])
    text = {key: value for key, value in batch.items() if key != "pixel_values"}
    with_media, without = model(**batch), model(**text)
    image = int((batch["input_ids"][0] == 4).nonzero()[0])
    assert torch.equal(with_media.logits[0, :image], without.logits[0, :image])
    assert torch.equal(with_media.logits[1], without.logits[1])
    assert not torch.allclose(with_media.logits[0, image:], without.logits[0, image:], atol=1e-4)
    with_media.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_eager_is_sdpa_and_other_kernels_fall_back_to_it(tokenizer, samples):
    model = open_gates(make_model(fusion="cross_attention"))
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    expected = model(**batch).logits
    model.set_attn_implementation({"text_config": "eager"})
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    block = model.model.language_model.layers[0].cross_block.cross_attn
    hidden, media = torch.randn(2, 3, 32), torch.randn(2, 5, 32)
    mask = torch.rand(2, 1, 3, 5) > 0.3
    mask[..., 0] = True
    block.config = copy.deepcopy(block.config)
    outputs = []
    for implementation in (
        "sdpa",
        "flash_attention_2",
        "flex_attention",
    ):  # these two take no such mask, or not as a tensor
        block.config._attn_implementation = implementation
        outputs.append(block(hidden, media, mask, None))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_the_order_of_audio_matters(tokenizer):
    """Attention over keys without positions would be the same for audio played backwards, in blocks of whole frames."""
    model = open_gates(make_model(fusion="cross_attention", text={"initializer_range": 0.3}))
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(
        [make_sample("?", "!", audios=[make_audio(0, 6400)])]
    )
    frames = batch["input_features"].unflatten(-1, (-1, 4)).flip(2).flatten(2)  # the encoder takes 4 at a time
    backwards = {**batch, "input_features": frames}
    assert not torch.allclose(model(**batch).logits[0, -1], model(**backwards).logits[0, -1], atol=1e-4)


def test_last_scope_forgets_the_first_image_in_the_blocks(tokenizer):
    """What the text after the second image gets of the first comes through earlier tokens alone: with one block, before the
    first layer, the tokens there get the second image's vectors and nothing else."""
    config = {"fusion": "cross_attention", "text": {"cross_attention_every": 2}}
    contents = [{"type": "image"}, {"type": "text", "text": " and "}, {"type": "image"}, {"type": "text", "text": "?"}]
    messages = [{"role": "user", "content": contents}, {"role": "assistant", "content": "!"}]
    for scope, is_same in (("last", True), ("all", False)):
        model = open_gates(make_model(cross_attention_scope=scope, **config))
        collator = MMGPTCollator(make_processor(model.config, tokenizer))
        outputs = []
        block = model.model.language_model.layers[0].cross_block
        block.register_forward_hook(lambda module, args, output, outputs=outputs: outputs.append(output[0, -1]))
        for first in (0, 1):
            model(**collator([{"messages": messages, "images": [make_image(first), make_image(2)]}]))
        assert torch.allclose(*outputs, atol=1e-6) == is_same


def test_packed_is_unpacked(tokenizer):
    model = open_gates(make_model(fusion="cross_attention"))
    collator = MMGPTCollator(make_processor(model.config, tokenizer))
    alone = [collator([make_sample(text, "!", images=[make_image(n)])]) for n, text in enumerate(("one", "another"))]
    lengths = [one["input_ids"].shape[1] for one in alone]
    packed = model(
        input_ids=torch.cat([one["input_ids"] for one in alone], 1),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        pixel_values=torch.cat([one["pixel_values"] for one in alone]),
        use_cache=False,  # transformers looks for packed documents only where nothing is cached
    ).logits[0]
    for one, logits in zip(alone, packed.split(lengths), strict=True):
        torch.testing.assert_close(logits, model(**one).logits[0], atol=1e-5, rtol=1e-4)


def test_keys_of_media_are_computed_once_for_a_generation(tokenizer, samples):
    model = open_gates(make_model(fusion="cross_attention"))
    prompts = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)(samples)
    calls = []
    for layer in model.model.language_model.layers:
        layer.cross_block.cross_attn.k_proj.register_forward_hook(lambda *_: calls.append(1))
    for options in ({}, {"num_beams": 3}, {"cache_implementation": "static", "disable_compile": True}):
        calls.clear()
        model.generate(**prompts, max_new_tokens=5, min_new_tokens=5, **options)
        assert len(calls) == 2  # one for each block
    ids, mask = (prompts[key] for key in ("input_ids", "attention_mask"))
    text = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, return_dict_in_generate=True)
    assert not media_layers(text.past_key_values)  # text alone keeps none


def test_cached_logits_are_those_without_a_cache(tokenizer, samples):
    """Token by token after a prompt with media, to rounding: that generations agree could be luck of tiny models."""
    for scope in ("all", "last"):
        model = open_gates(make_model(fusion="cross_attention", cross_attention_scope=scope))
        batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples[:1] + samples[3:])
        batch.pop("labels")
        ids = batch.pop("input_ids")
        batch.pop("attention_mask")
        whole = model(input_ids=ids, **batch).logits
        cut = int((ids == 5).nonzero()[:, 1].max()) + 1
        first = model(input_ids=ids[:, :cut], **batch, use_cache=True)
        rest = [
            model(input_ids=ids[:, place : place + 1], past_key_values=first.past_key_values).logits
            for place in range(cut, ids.shape[1])
        ]
        torch.testing.assert_close(torch.cat((first.logits, *rest), 1), whole, atol=1e-5, rtol=1e-4)


def test_media_of_a_later_turn_join_the_cache(tokenizer):
    """A conversation with an image in each turn, in two calls and in one."""
    model = open_gates(make_model(fusion="cross_attention"))
    ids = torch.randint(10, 320, (2, 9))
    ids[:, 1] = ids[0, 6] = 4
    pixels = torch.randn(3, 3, 16, 16)  # two in the first sample, one in the second
    whole = model(input_ids=ids, pixel_values=pixels).logits
    cache = DynamicCache(config=model.config.text_config)
    first = model(input_ids=ids[:, :5], pixel_values=pixels[[0, 2]], past_key_values=cache, use_cache=True).logits
    second = model(input_ids=ids[:, 5:], pixel_values=pixels[[1]], past_key_values=cache).logits
    torch.testing.assert_close(torch.cat((first, second), 1), whole, atol=1e-5, rtol=1e-4)


def turns(tokenizer, **settings):
    """A model, and a prompt of three turns with media in each, tokens of the text between them."""
    model = open_gates(make_model(fusion="cross_attention", **settings))
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    parts = [
        collator([make_sample(text, "", images=[make_image(seed)], audios=[make_audio(seed, 3000)])])
        for seed, text in enumerate(("What is it?", "And this one?", "The last."))
    ]
    return model, [{name: value for name, value in part.items() if name != "attention_mask"} for part in parts]


def read(model, part, cache):
    with torch.no_grad():
        return model(**part, use_cache=True, **{CACHE: cache}).logits


@pytest.mark.parametrize("settings", [{}, {"cross_attention_scope": "last"}, {"vision": SIGLIP}], ids=str)
@pytest.mark.parametrize("removed", ["a turn", "a turn and text", "words of the first turn", "everything", "nothing"])
def test_a_cropped_cache_forgets_the_media_of_what_it_lost(tokenizer, settings, removed):
    """A turn is taken back, or edited: what follows is read as if the tokens that were cropped had never been there."""
    model, (one, two, three) = turns(tokenizer, **settings)
    lengths = [part["input_ids"].shape[1] for part in (one, two)]
    kept = {
        "a turn": lengths[0],
        "a turn and text": lengths[0] - 3,
        "words of the first turn": 5,
        "everything": 0,
        "nothing": sum(lengths),
    }[removed]
    cache, expected = DynamicCache(config=model.config.text_config), DynamicCache(config=model.config.text_config)
    read(model, one, cache)
    read(model, two, cache)
    crop = sum(lengths) - kept
    cache.crop(-crop)
    if removed == "nothing":
        read(model, one, expected)
        read(model, two, expected)
    elif kept > 0:
        media = dict(one) if 4 in one["input_ids"][0, :kept] else {}
        read(model, media | {"input_ids": one["input_ids"][:, :kept]}, expected)
    torch.testing.assert_close(read(model, three, cache), read(model, three, expected), atol=1e-5, rtol=1e-4)
    text = {"input_ids": torch.randint(10, 320, (1, 4))}
    torch.testing.assert_close(read(model, text, cache), read(model, text, expected), atol=1e-5, rtol=1e-4)


def test_text_after_a_crop_sees_what_was_visible_at_its_end(tokenizer):
    """Also after text that brought no media, and where the first media come after text."""
    model, (one, two, _) = turns(tokenizer)
    text = {"input_ids": torch.randint(10, 320, (1, 6))}
    cache, expected = DynamicCache(config=model.config.text_config), DynamicCache(config=model.config.text_config)
    for part in (text, one, text, two, text):
        read(model, part, cache)
    for part in (text, one, text):
        read(model, part, expected)
    cache.crop(-(two["input_ids"].shape[1] + 6))
    torch.testing.assert_close(read(model, text, cache), read(model, text, expected), atol=1e-5, rtol=1e-4)


def test_a_cache_made_without_a_config_takes_media_too(tokenizer, samples):
    model = open_gates(make_model(fusion="cross_attention"))
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    batch.pop("labels")
    plain = model(**batch, past_key_values=DynamicCache(), use_cache=True)
    assert torch.equal(plain.logits, model(**batch).logits)
    step = {"input_ids": torch.full((4, 1), 20)}
    expected = model(**batch, use_cache=True).past_key_values
    after = model(**step, past_key_values=plain.past_key_values).logits
    assert torch.equal(after, model(**step, past_key_values=expected).logits)


def test_a_cache_that_was_reset_has_no_media(tokenizer, samples):
    """generate() empties its static cache and takes it again."""
    model = open_gates(make_model(fusion="cross_attention"))
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    batch.pop("labels")
    cache = StaticCache(config=model.config.text_config, max_cache_len=128)
    model(**batch, past_key_values=cache, use_cache=True)
    cache.reset()
    ids = torch.randint(10, 320, (4, 5))
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits, atol=1e-5, rtol=1e-4)


def test_gates_learn(tokenizer, samples):
    """At zero the gates get a gradient, and nothing behind them does; a step later everything does."""
    model = make_model(fusion="cross_attention").train()
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    block = model.model.language_model.layers[0].cross_block
    model(**batch).loss.backward()
    assert block.attn_gate.grad != 0 and not block.cross_attn.q_proj.weight.grad.any()
    optimizer.step()
    optimizer.zero_grad()
    model(**batch).loss.backward()
    assert block.cross_attn.q_proj.weight.grad.any() and model.model.vision_tower.patch_embedding.weight.grad.any()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_reaches_the_encoders(tokenizer, samples, use_reentrant):
    model = open_gates(make_model(fusion="cross_attention")).train()
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    model(**batch).loss.backward()
    weight = model.model.vision_tower.patch_embedding.weight
    expected, weight.grad = weight.grad, None
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model(**batch).loss.backward()
    torch.testing.assert_close(weight.grad, expected)


def test_blocks_stand_before_every_kth_layer():
    text = {"num_hidden_layers": 5, "cross_attention_every": 2}
    decoder = make_model(fusion="cross_attention", text=text).model.language_model
    assert [layer.cross_block is not None for layer in decoder.layers] == [True, False, True, False, True]
    assert isinstance(decoder.layers[4].cross_block.cross_attn, MMGPTCrossAttention)


def test_as_many_placeholders_as_chunks(tokenizer, samples):
    model = make_model(fusion="cross_attention")
    processor = make_processor(model.config, tokenizer)
    batch = MMGPTCollator(processor)(samples)
    assert [(batch["input_ids"] == token).sum() for token in (4, 5)] == [3, 3]
    assert processor._get_num_multimodal_tokens(image_sizes=[(9, 9)], audio_lengths=[9000]).num_image_tokens == [1]
    with pytest.raises(ValueError, match="3 image tokens but the image inputs yield 2 chunks"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:2]})


def test_what_does_not_go_together_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="'llama' decoder is used as it is"):
        make_config(fusion="cross_attention", text={"model_type": "llama"})
    with pytest.raises(
        StrictDataclassClassValidationError, match="cross_attention_every=1 needs fusion='cross_attention'"
    ):
        make_config(text={"cross_attention_every": 1})
    with pytest.raises(StrictDataclassClassValidationError, match="needs fusion='interleave'"):
        make_config(fusion="cross_attention", bidirectional_images=True)
    with pytest.raises(StrictDataclassClassValidationError, match="cross_attention_scope='last' needs"):
        make_config(cross_attention_scope="last")
    with pytest.raises(StrictDataclassClassValidationError, match="counts layers"):
        make_config(fusion="cross_attention", text={"cross_attention_every": 0})


def test_the_tensor_parallel_plan_cuts_the_blocks():
    plan = make_config(fusion="cross_attention").text_config.base_model_tp_plan
    model = make_model(fusion="cross_attention", vision=SIGLIP).model.language_model
    names = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    for name in plan:
        assert name.replace("*", "0") in names
    assert plan["layers.*.cross_block.cross_attn.k_proj"] == "colwise"
    assert plan["layers.*.cross_block.mlp.down_proj"] == "rowwise"
    assert not any("cross_block" in name for name in make_config().text_config.base_model_tp_plan)


def test_it_comes_back_from_a_folder(tmp_path, tokenizer, samples):
    model = open_gates(make_model(fusion="cross_attention", cross_attention_scope="last"))
    batch = MMGPTCollator(make_processor(model.config, tokenizer))(samples)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert isinstance(again.config, MMGPTConfig) and again.config.text_config.cross_attention_every == 1
    assert torch.equal(again(**batch).logits, model(**batch).logits)
