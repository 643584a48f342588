"""The fusion: features land where their placeholders stand, and the invariants hold with media in the batch."""

import pytest
import torch
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainingArguments
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from modeling_mmgpt import MMGPTCollator, MMGPTForCausalLM, MMGPTTextConfig
from modeling_mmgpt.media_features_mmgpt import MMGPTMediaOutput
from modeling_mmgpt.modeling_mmgpt import real_first
from modeling_mmgpt.token_counts_mmgpt import image_geometry
from tests.conftest import (
    CONVOLUTIONS,
    FRAMES,
    NAFLEX,
    PATCHES,
    SIGLIP,
    TEXT,
    TIED_DECODERS,
    WHISPER,
    make_audio,
    make_image,
    make_model,
    make_processor,
    make_sample,
    make_tied_model,
    make_video,
    open_gates,
    real_features,
)


VARIANTS = {
    "encoder-free": {},
    "encoder-free, merged": {"vision_connector": "pixel_shuffle", "audio_connector": "frame_stack"},
    "towers": {"vision": SIGLIP, "audio": WHISPER},
    "towers, merged": {
        "vision": SIGLIP,
        "audio": WHISPER,
        "vision_connector": "pixel_shuffle",
        "audio_connector": "frame_stack",
        "audio_merge_size": 3,
    },
    "linear": {
        "vision_connector": "linear",
        "audio_connector": "linear",
        "vision": SIGLIP,
        "vision_feature_layer": -2,
    },
    "learned positions": {"text": {"position_embedding_type": "learned"}},
    "convolutional tower": {
        "vision": {
            "model_type": "dinov3_convnext",
            "image_size": 16,
            "hidden_sizes": [16, 24],
            "depths": [1, 1],
            "layer_scale_init_value": 1.0,
        }
    },
    "group norm": {"vision": CONVOLUTIONS},
    "tiles": {"vision": SIGLIP, "audio": WHISPER, "vision_max_tiles": 4, "vision_connector": "pixel_shuffle"},
    "any size": {"vision": NAFLEX},
    "any size, merged": {"vision": NAFLEX, "vision_connector": "pixel_shuffle", "vision_merge_size": 3},
    "resampler": {
        "audio": WHISPER,
        "vision_connector": "resampler",
        "vision_num_queries": 3,
        "audio_connector": "resampler",
        "audio_num_queries": 5,
    },
    "cross-attention": {"fusion": "cross_attention", "vision": SIGLIP, "audio": WHISPER},
    "cross-attention, last, encoder-free": {"fusion": "cross_attention", "cross_attention_scope": "last"},
    "cross-attention, tiles": {
        "fusion": "cross_attention",
        "vision": SIGLIP,
        "audio": WHISPER,
        "vision_max_tiles": 4,
        "cross_attention_scope": "last",
    },
    "cross-attention, any size": {"fusion": "cross_attention", "vision": NAFLEX},
    "resampler, any size": {"vision": NAFLEX, "vision_connector": "resampler", "vision_num_queries": 3},
    "cross-attention, resampler": {
        "fusion": "cross_attention",
        "vision_connector": "resampler",
        "audio_connector": "resampler",
        "vision_num_queries": 3,
        "audio_num_queries": 5,
        "text": {"cross_attention_every": 2, "mlp_type": "plain", "norm_type": "layernorm", "qk_norm": True},
    },
    "another decoder": {"text": {"model_type": "llama", "rms_norm_eps": 1e-6}},
}


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request, tokenizer):
    model = open_gates(make_model(**VARIANTS[request.param]))
    return model, make_processor(model.config, tokenizer)


def test_batch_is_single(variant, all_samples):
    model, processor = variant
    collator = MMGPTCollator(processor)
    together = model(**collator(all_samples))
    for index, one in enumerate(all_samples):
        batch = collator([one])
        length = batch["input_ids"].shape[1]
        torch.testing.assert_close(together.logits[index, :length], model(**batch).logits[0], atol=1e-5, rtol=1e-4)


def test_left_padding_is_right_padding(variant, all_samples):
    model, processor = variant
    prompts = MMGPTCollator(processor, add_generation_prompt=True)
    left = prompts(all_samples)
    logits = model(**left).logits
    for index, one in enumerate(all_samples):
        alone = prompts([one])
        length = alone["input_ids"].shape[1]
        torch.testing.assert_close(logits[index, -length:], model(**alone).logits[0], atol=1e-5, rtol=1e-4)


def test_cache_is_no_cache(variant, all_samples):
    model, processor = variant
    prompts = MMGPTCollator(processor, add_generation_prompt=True)(all_samples)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    cached = model.generate(**prompts, **options, use_cache=True)
    assert cached.tolist() == model.generate(**prompts, **options, use_cache=False).tolist()


def test_media_change_the_answer(variant):
    model, processor = variant
    collator = MMGPTCollator(processor)

    def last_logits(*media):
        return model(**collator([make_sample("So?", "Yes.", *([one] for one in media))])).logits[0, -1]

    reference = last_logits(make_image(0), make_audio(0), make_video(0))
    assert not torch.equal(reference, last_logits(make_image(1), make_audio(0), make_video(0)))
    assert not torch.equal(reference, last_logits(make_image(0), make_audio(1), make_video(0)))
    assert not torch.equal(reference, last_logits(make_image(0), make_audio(0), make_video(1)))


def test_features_stand_in_the_places_of_their_placeholders(model, collator, samples):
    batch = collator(samples)
    taken = {}
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: taken.update(kwargs), with_kwargs=True
    )
    model(**batch)
    embeds, ids = taken["inputs_embeds"], batch["input_ids"]
    images = torch.cat(model.get_image_features(batch["pixel_values"]).pooler_output)
    clips = torch.cat(model.get_audio_features(batch["input_features"], batch["input_features_mask"]).pooler_output)
    torch.testing.assert_close(embeds[ids == 4], images)
    torch.testing.assert_close(embeds[ids == 5], clips)
    text = (ids != 4) & (ids != 5)
    torch.testing.assert_close(embeds[text], model.get_input_embeddings()(ids[text]))


def test_one_tensor_of_features_for_each_item(model, collator, samples):
    batch = collator(samples)
    images = model.get_image_features(batch["pixel_values"])
    assert [tuple(image.shape) for image in images.pooler_output] == [(16, 32)] * 3
    clips = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    assert [len(one) for one in clips.pooler_output] == [10, 6, 3]  # 6000, 3400, 1800 samples / 160 / 4, rounded up


@torch.no_grad()
def test_outputs_carry_what_the_encoders_made_of_the_media(variant, all_samples):
    """For each chunk of them; and the hidden states and attentions of the encoders when these are asked for, and only then."""
    model, processor = variant
    model.set_attn_implementation("eager")
    batch = MMGPTCollator(processor)(all_samples)
    inside = {"output_hidden_states": True, "output_attentions": True}
    images, clips = ("pixel_values", "tile_positions", "spatial_shapes"), ("input_features", "input_features_mask")
    features = {
        "image": model.get_image_features(**{name: batch[name] for name in images if name in batch}, **inside),
        "video": model.get_video_features(batch["pixel_values_videos"], **inside),
        "audio": model.get_audio_features(**{name: batch[name] for name in clips}, **inside),
    }
    outputs, outputs_with_inside = model(**batch), model(**batch, **inside)
    for kind, expected in features.items():
        media, shown = outputs[f"{kind}_outputs"], outputs_with_inside[f"{kind}_outputs"]
        assert torch.equal(media.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(real_features(media), torch.cat(expected.pooler_output))
        assert media.hidden_states is None and media.attentions is None
        assert len(media.pooler_output) == len(media.last_hidden_state) == len(shown.hidden_states[-1])
        torch.testing.assert_close(shown.hidden_states, expected.hidden_states, atol=0, rtol=0)
        assert (shown.attentions is None) == (expected.attentions is None)
        torch.testing.assert_close(shown.attentions or (), expected.attentions or (), atol=0, rtol=0)


def test_features_of_an_encoder_are_its_own(samples, tokenizer):
    model = make_model(vision=SIGLIP)
    tower = SiglipVisionModel(model.config.vision_config).eval()
    tower.load_state_dict(model.model.vision_tower.state_dict())
    pixels = MMGPTCollator(make_processor(model.config, tokenizer))(samples)["pixel_values"]
    features = model.get_image_features(pixels).last_hidden_state
    assert torch.equal(features, tower(pixels).last_hidden_state)


@torch.no_grad()
def test_audio_encoded_one_by_one_shows_states_and_attentions():
    """An encoder with a norm over the whole clip gets no padding; its states are padded after the shorter clips."""
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    convolutions = {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3]}
    model = make_model(audio={"model_type": "hubert", **layers, **convolutions, "num_conv_pos_embeddings": 16})
    model.set_attn_implementation("eager")
    clips, lengths = torch.rand(2, 4000), torch.tensor([4000, 2500])
    inside = {"output_hidden_states": True, "output_attentions": True}
    mask = (torch.arange(4000) < lengths[:, None]).long()
    together = model.get_audio_features(clips, mask, **inside)
    for index, length in enumerate(lengths):
        alone = model.get_audio_features(clips[index : index + 1, :length], **inside)
        for name, own_layers in (("hidden_states", 3), ("attentions", 2)):
            assert len(together[name]) == own_layers
            for shown, own in zip(together[name], alone[name], strict=True):
                assert torch.equal(shown[index, ..., : own.shape[-2], : own.shape[-1]], own[0])


def test_text_only_path_is_pure_gpt(model):
    decoder = MMGPTForCausalLM(model.config.text_config).eval()
    decoder.model.load_state_dict(model.model.language_model.state_dict())
    ids = torch.randint(10, 320, (2, 7))
    outputs = model(ids)
    assert torch.equal(outputs.logits, decoder(ids).logits)
    assert outputs.image_outputs is outputs.audio_outputs is outputs.video_outputs is None


def test_order_of_images_matters_and_follows_the_text(model, processor):
    collator = MMGPTCollator(processor)
    one, other = (make_sample("?", "!", images=[make_image(a), make_image(b)]) for a, b in ((0, 1), (1, 0)))
    assert not torch.allclose(model(**collator([one])).logits[0, -1], model(**collator([other])).logits[0, -1])


def test_order_of_samples_does_not_matter(model, collator, samples):
    forward, backward = collator(samples), collator(samples[::-1])
    torch.testing.assert_close(model(**forward).logits, model(**backward).logits.flip(0), atol=1e-5, rtol=1e-4)


def test_accumulation_is_one_batch(model, collator, samples):
    whole = model(**collator(samples)).loss
    count = (collator(samples)["labels"][:, 1:] != -100).sum()
    parts = [model(**collator(part), num_items_in_batch=count).loss for part in (samples[:2], samples[2:])]
    torch.testing.assert_close(sum(parts), whole)


def test_loss_without_logits_is_the_same(variant, all_samples):
    model, processor = variant
    batch = MMGPTCollator(processor)(all_samples)
    shifted = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:].contiguous()
    for given in ({}, {"num_items_in_batch": torch.tensor(7)}, {"shift_labels": shifted}):
        losses, gradients = [], []
        for skip_logits in (False, True):
            outputs = model(**batch, **given, skip_logits=skip_logits)
            assert (outputs.logits is None) == skip_logits
            losses.append(outputs.loss)
            model.zero_grad()
            outputs.loss.backward()
            gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_beam_search_takes_media(model, processor, samples):
    prompts = MMGPTCollator(processor, add_generation_prompt=True)(samples)
    assert model.generate(**prompts, num_beams=3, max_new_tokens=4, min_new_tokens=4).shape[0] == len(samples)


def test_static_cache_generates_the_same(model, processor, samples):
    prompts = MMGPTCollator(processor, add_generation_prompt=True)(samples)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "disable_compile": True}
    static = model.generate(**prompts, **options, cache_implementation="static")
    assert static.tolist() == model.generate(**prompts, **options).tolist()


def test_gradients_reach_every_parameter(variant, all_samples):
    model, processor = variant
    model(**MMGPTCollator(processor)(all_samples)).loss.backward()
    # Whisper's key bias does not exist and SigLIP's last layer is not used when an earlier one is asked for.
    missing = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    skipped = "post_layernorm", "encoder.layers.1."
    assert not [n for n in missing if model.config.vision_feature_layer == -1 or not any(s in n for s in skipped)]


def test_outputs_lead_to_no_parameter_that_the_loss_does_not(variant, all_samples):
    """DistributedDataParallel waits for the gradients of whatever the outputs lead to."""
    model, processor = variant
    outputs = model(**MMGPTCollator(processor)(all_samples), use_cache=False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    led_to = []
    for tensors in (
        [outputs.loss],
        [leaf for leaf in tree_leaves(outputs) if leaf is not None and leaf.requires_grad],
    ):
        total = sum(tensor.float().sum() for tensor in tensors)
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        led_to.append([gradient is not None for gradient in gradients])
    assert led_to[0] == led_to[1]


def test_gradient_checkpointing_gives_the_same_loss(variant, all_samples):
    model, processor = variant
    batch = MMGPTCollator(processor)(all_samples)
    model.train()
    plain = model(**batch).loss
    model.gradient_checkpointing_enable()
    checkpointed = model(**batch).loss
    checkpointed.backward()
    torch.testing.assert_close(checkpointed, plain)


def test_features_of_media_come_before_padding_in_their_order():
    features, mask = torch.arange(6).view(2, 3, 1), torch.tensor([[1, 0, 1], [0, 1, 0]])
    first, count = real_first(MMGPTMediaOutput(pooler_output=features, attention_mask=mask))
    assert first.flatten().tolist() == [0, 2, 4, 1, 3, 5] and count == 3
    assert real_first(MMGPTMediaOutput(pooler_output=features))[1] == 6


def test_mismatch_names_both_counts(model, collator, samples):
    batch = collator(samples[:1])
    with pytest.raises(ValueError, match="16 image tokens but the image inputs yield 32 features"):
        model(**{**batch, "pixel_values": batch["pixel_values"].repeat(2, 1, 1, 1)})
    batch = collator(samples[1:2])
    with pytest.raises(ValueError, match="10 audio tokens but the audio inputs yield 20 features"):
        model(**{**batch, **{k: batch[k].repeat(2, 1, 1) for k in ("input_features",)}, "input_features_mask": None})


def test_media_without_an_encoder_are_refused(samples):
    text_only = make_model(vision=None, audio=None)
    with pytest.raises(ValueError, match="no vision encoder"):
        text_only(torch.tensor([[4]]), pixel_values=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="no audio encoder"):
        text_only(torch.tensor([[5]]), input_features=torch.zeros(1, 20, 4))


def test_embeddings_can_stand_for_tokens(model, collator, samples):
    batch = collator(samples)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    logits = model(**{**batch, "input_ids": None}, inputs_embeds=embeds).logits
    torch.testing.assert_close(logits, model(**batch).logits)


def test_a_model_may_have_one_encoder_or_none(tokenizer, samples):
    for vision, audio, wanted in (
        (PATCHES, None, samples[:1]),
        (None, FRAMES, samples[1:2]),
        (None, None, samples[2:3]),
    ):
        model = make_model(vision=vision, audio=audio)
        batch = MMGPTCollator(make_processor(model.config, tokenizer))(wanted)
        assert model(**batch).loss.isfinite()


def test_maps_of_convolutions_become_vectors_from_the_top_left():
    model = make_model(vision=CONVOLUTIONS, audio=None)
    tower = model.model.vision_tower
    images = torch.rand(1, 3, 32, 48)
    vectors = model.get_image_features(images).last_hidden_state
    assert vectors.shape == (1, 4 * 6, 64)
    torch.testing.assert_close(vectors[0].unflatten(0, (4, 6)), tower(images).last_hidden_state[0].permute(1, 2, 0))
    with pytest.raises(ValueError, match="36 x 48 pixels, but the vision encoder takes multiples of 8"):
        model.get_image_features(torch.rand(1, 3, 36, 48))


@pytest.mark.parametrize(("depth", "output_stride"), [(1, 32), (2, 32), (3, 32), (4, 32), (4, 8)])
def test_stride_of_convolutions_is_counted_right(depth, output_stride):
    sizes = {"hidden_sizes": [32] * depth, "depths": [1] * depth, "output_stride": output_stride}
    model = make_model(vision={**CONVOLUTIONS, **sizes}, audio=None)
    with torch.no_grad():
        rows, columns = model.model.vision_tower(torch.rand(1, 3, 64, 96)).last_hidden_state.shape[-2:]
    stride = image_geometry(model.config)["patch_size"]
    assert (rows, columns) == (64 // stride, 96 // stride)


@pytest.mark.parametrize("kind", ["decoder", "interleave", "cross_attention"])
def test_smoothed_labels_are_those_of_the_next_token(tmp_path, kind):
    """With no smoothing to speak of, Trainer's smoothed loss is the loss of the model."""
    model = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)) if kind == "decoder" else make_model(fusion=kind)
    model.eval()
    ids = torch.randint(10, 320, (2, 9))
    labels = ids.clone()
    labels[0, :4] = -100
    arguments = TrainingArguments(tmp_path, label_smoothing_factor=1e-9, use_cpu=True, report_to=[])
    trainer = Trainer(model, arguments)
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": labels.clone()})
    torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TIED_DECODERS)
def test_tensor_parallelism_cuts_a_tied_head_and_its_embeddings_alike_or_neither(kind):
    model = make_tied_model(kind)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    names = {module: name for name, module in model.named_modules()}
    head, embeddings = (names[module] in model.tp_plan for module in (model.lm_head, model.get_input_embeddings()))
    assert head == embeddings == bool(model.config.text_config.base_model_tp_plan)
    assert model.lm_head.weight.shape == (320, 32)
