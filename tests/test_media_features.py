"""Media are encoded once: given as features, or found again by their content."""

import pytest
import torch

from modeling_mmgpt import MMGPTCollator
from modeling_mmgpt.media_features_mmgpt import MMGPTMediaOutput, split_media
from tests.conftest import (
    NAFLEX,
    SIGLIP,
    WHISPER,
    make_audio,
    make_image,
    make_model,
    make_processor,
    make_sample,
    open_gates,
    real_features,
)


FUSIONS = {
    "interleave": {"vision": SIGLIP, "audio": WHISPER},
    "encoder-free": {},
    "cross-attention": {"vision": SIGLIP, "audio": WHISPER, "fusion": "cross_attention"},
    "cross-attention, tiles": {"vision": SIGLIP, "audio": WHISPER, "fusion": "cross_attention", "vision_max_tiles": 4},
    "any size": {"vision": NAFLEX},
    "cross-attention, any size": {"vision": NAFLEX, "fusion": "cross_attention"},
    "resampler": {"vision_connector": "resampler", "audio_connector": "resampler", "audio_num_queries": 5},
}


@pytest.fixture(params=FUSIONS)
def prompted(request, tokenizer, all_samples):
    model = open_gates(make_model(**FUSIONS[request.param]))
    return model, MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)(all_samples)


def embedded(model, batch, form) -> dict:
    """The batch with features in place of pixels and spectrograms; videos stay as they are."""
    images = {key: batch[key] for key in ("pixel_values", "tile_positions", "spatial_shapes") if key in batch}
    clips = {key: batch[key] for key in ("input_features", "input_features_mask", "audio_windows") if key in batch}
    rest = {key: value for key, value in batch.items() if key not in images | clips}
    features = {
        "image_embeds": form(model.get_image_features(**images).pooler_output),
        "audio_embeds": form(model.get_audio_features(**clips).pooler_output),
    }
    return rest | features


def count_calls(module) -> list:
    lengths = []
    module.register_forward_hook(
        lambda module, args, kwargs, output: lengths.append(len((args or (*kwargs.values(),))[0])), with_kwargs=True
    )
    return lengths


@pytest.mark.parametrize("form", [tuple, list])
def test_features_in_place_of_pixels_have_the_same_bits(prompted, form):
    model, batch = prompted
    inputs = embedded(model, batch, form)
    assert torch.equal(model(**inputs).logits, model(**batch).logits)
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    for beams in (1, 3):
        given = model.generate(**inputs, **options, num_beams=beams)
        assert given.tolist() == model.generate(**batch, **options, num_beams=beams).tolist()
    assert model.generate(**inputs, **options, use_cache=False).tolist() == model.generate(**batch, **options).tolist()


@torch.no_grad()
def test_outputs_carry_the_features_alone_on_a_cache_hit(prompted):
    model, batch = prompted
    reference = model(**batch)
    with model.media_cache():
        cached = model(**batch, output_hidden_states=True)
    for outputs in (cached, model(**embedded(model, batch, tuple))):
        for kind in ("image_outputs", "audio_outputs"):
            media, whole = outputs[kind], reference[kind]
            assert media.last_hidden_state is media.hidden_states is media.attentions is None
            assert torch.equal(real_features(media), real_features(whole))


def test_interleaved_features_may_come_in_one_piece(model, collator, samples):
    batch = collator(samples)
    assert torch.equal(model(**embedded(model, batch, torch.cat)).logits, model(**batch).logits)


def test_several_questions_about_one_image_encode_it_once(tokenizer):
    model = make_model(vision=SIGLIP)
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    calls = count_calls(model.model.vision_tower)
    features = model.get_image_features(
        collator([make_sample("", "", images=[make_image(0)])])["pixel_values"]
    ).pooler_output
    for question in ("Which colour?", "How many?"):
        batch = collator([make_sample(question, "", images=[make_image(0)])])
        pixels = batch.pop("pixel_values")
        assert len(calls) == 1
        answer = model.generate(**batch, image_embeds=features, max_new_tokens=3)
        assert len(calls) == 1
        expected = model.generate(**batch, pixel_values=pixels, max_new_tokens=3)
        calls.pop()
        assert answer.tolist() == expected.tolist()


def test_pixels_and_their_features_together_are_refused(model, collator, samples):
    batch = collator(samples)
    features = model.get_image_features(batch["pixel_values"]).pooler_output
    with pytest.raises(ValueError, match="pixel_values or image_embeds"):
        model(**batch, image_embeds=features)
    clips = model.get_audio_features(batch["input_features"], batch["input_features_mask"]).pooler_output
    batch.pop("labels")
    for given in ({"image_embeds": features}, {"audio_embeds": clips}):
        with pytest.raises(ValueError, match="both"):
            model.generate(**batch, **given)


@torch.no_grad()
def test_each_distinct_chunk_is_encoded_once(prompted):
    model, batch = prompted
    expected = model(**batch).logits
    images = len(batch["pixel_values"]) + len(batch["pixel_values_videos"])
    clips = len(batch["input_features"])
    images_run, clips_run = count_calls(model.model.vision_tower), count_calls(model.model.audio_tower)
    with model.media_cache(max_items=100):
        for _ in range(2):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-4)
        assert (sum(images_run), sum(clips_run)) == (images, clips)
        changed = {**batch, "pixel_values": batch["pixel_values"].clone()}
        changed["pixel_values"][0] += 1.0  # another image
        assert not torch.allclose(model(**changed).logits, expected, atol=1e-6)
        assert (sum(images_run), sum(clips_run)) == (images + 1, clips)
    model(**batch)
    assert (sum(images_run), sum(clips_run)) == (2 * images + 1, 2 * clips)  # closed: nothing is kept


@torch.no_grad()
def test_a_conversation_encodes_its_images_once(tokenizer):
    """As a chat does: all messages again at every turn, with one image more."""
    model = make_model(vision=SIGLIP)
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    calls = count_calls(model.model.vision_tower)
    with model.media_cache(max_items=8):
        for turns in (1, 2, 3):
            prompt = collator([make_sample("What now?", "", images=[make_image(seed) for seed in range(turns)])])
            model.generate(**prompt, max_new_tokens=2)
    assert calls == [1, 1, 1]


@torch.no_grad()
def test_the_same_audio_is_a_hit_whatever_it_is_padded_to(tokenizer):
    model = make_model()
    collator = MMGPTCollator(make_processor(model.config, tokenizer))
    calls = count_calls(model.model.audio_tower)
    with model.media_cache():
        alone = model(**collator([make_sample("?", "!", audios=[make_audio(1, 2000)])])).logits
        both = model(
            **collator(
                [make_sample("?", "!", audios=[make_audio(1, 2000)]), make_sample("?", "!", audios=[make_audio(0)])]
            )
        ).logits
    assert calls == [1, 1]
    torch.testing.assert_close(both[0, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_same_image_of_any_size_is_a_hit_whatever_it_is_padded_to(tokenizer):
    model = make_model(vision=NAFLEX)
    collator = MMGPTCollator(make_processor(model.config, tokenizer))
    calls = count_calls(model.model.vision_tower)
    small, large = make_image(0, 8, 8), make_image(1, 16, 16)
    with model.media_cache():
        for images in ([small], [small, large], [large]):
            batch = collator([make_sample("?", "!", images=images)])
            batch["pixel_values"] = batch["pixel_values"][:, : int(batch["spatial_shapes"].prod(-1).max())]
            model(**batch)
    assert calls == [1, 1]


@torch.no_grad()
def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(model, collator):
    calls = count_calls(model.model.vision_tower)
    batches = [collator([make_sample("?", "!", images=[make_image(seed)])]) for seed in range(3)]
    with model.media_cache(max_items=2) as cache:
        for seed in (0, 1, 0, 2, 0, 1):  # 2 drops 1, which then has to come again
            model(**batches[seed])
        assert len(cache.chunks) == 2
    assert len(calls) == 4
    with pytest.raises(ValueError, match="at least 1"), model.media_cache(0):
        pass


def test_training_never_takes_from_the_cache(model, collator, samples):
    batch = collator(samples)
    calls = count_calls(model.model.vision_tower)
    with model.media_cache() as cache:
        for _ in range(2):
            model.train()(**batch).loss.backward()
            model.eval()(**batch).loss.backward()  # gradients were asked for, so the encoder has to run
        assert len(calls) == 4 and not cache.chunks


def test_media_are_told_apart_by_their_chunks():
    features = torch.arange(14.0).view(7, 2, 1)
    media = MMGPTMediaOutput(pooler_output=features)
    assert [len(one) for one in split_media(media, torch.tensor([3, 1, 3])).pooler_output] == [6, 2, 6]
    assert [len(one) for one in split_media(media, None).pooler_output] == [2] * 7
    with pytest.raises(ValueError, match=r"should have 8 chunks .* but 7 were given"):
        split_media(media, torch.tensor([8]))
