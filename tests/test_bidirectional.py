"""Image tokens that attend to one another in both directions, and text that does not."""

import pytest
import torch
from transformers import StaticCache

from tests.conftest import make_image, make_model, make_processor, make_sample


IMAGE, TEXT_TOKEN = 4, 20


@pytest.fixture
def model():
    model = make_model(audio=None, bidirectional_images=True, text={"initializer_range": 0.2}).eval()
    with torch.no_grad():
        for parameter in model.model.vision_tower.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.fixture
def inputs():
    """Text, an image of 16 tokens, text, another image, text."""
    ids = torch.full((1, 40), TEXT_TOKEN)
    ids[0, 2:18] = ids[0, 20:36] = IMAGE
    ids[0, 36:] = torch.arange(21, 25)
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def hidden(model, inputs, **changes):
    return model.model(**inputs | changes).last_hidden_state


def changed_at(model, inputs, pixels) -> list[int]:
    """The positions whose hidden state moves when the pixels do."""
    difference = hidden(model, inputs) - hidden(model, inputs, pixel_values=pixels)
    return (difference.abs().amax(-1)[0] > 1e-6).nonzero().flatten().tolist()


def with_other_last_patch(pixels: torch.Tensor, image: int) -> torch.Tensor:
    pixels = pixels.clone()
    pixels[image, :, -4:, -4:] += 1
    return pixels


def test_the_first_patch_attends_to_the_last_and_text_stays_causal(model, inputs):
    first = with_other_last_patch(inputs["pixel_values"], 0)
    assert changed_at(model, inputs, first) == list(range(2, 40))
    second = with_other_last_patch(inputs["pixel_values"], 1)
    assert changed_at(model, inputs, second) == list(range(20, 40))
    model.config.bidirectional_images = False
    assert changed_at(model, inputs, first) == list(range(17, 40))


def test_text_alone_is_as_without(model):
    ids = torch.arange(10, 30)[None]
    expected = model(ids).logits
    model.config.bidirectional_images = False
    assert torch.equal(model(ids).logits, expected)


def test_sliding_layers_attend_to_the_whole_image(inputs):
    sliding = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 3, "initializer_range": 0.2}
    model = make_model(audio=None, bidirectional_images=True, text=sliding)
    assert {2, 3} <= set(changed_at(model, inputs, with_other_last_patch(inputs["pixel_values"], 0)))


def test_eager_is_sdpa(model, inputs):
    expected = hidden(model, inputs)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(hidden(model, inputs), expected, atol=2e-5, rtol=1e-4)


def test_flash_attention_is_refused(model, inputs):
    model.config.text_config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="bidirectional_images needs attn_implementation 'sdpa'"):
        model(**inputs)


def test_left_padding_does_not_matter(model, inputs):
    ids = inputs["input_ids"]
    padded = torch.cat((torch.full((1, 5), 1), ids), 1)
    mask = torch.cat((torch.zeros(1, 5, dtype=torch.long), torch.ones_like(ids)), 1)
    actual = hidden(model, inputs, input_ids=padded, attention_mask=mask)[:, 5:]
    torch.testing.assert_close(actual, hidden(model, inputs), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "make_cache", [lambda config: None, lambda config: StaticCache(config=config, max_cache_len=48)]
)
def test_a_second_image_after_a_cached_turn(model, inputs, make_cache):
    whole = hidden(model, inputs)
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    cache = make_cache(model.config.text_config)
    first = model.model(ids[:, :19], pixel_values=pixels[:1], past_key_values=cache, use_cache=True)
    second = model.model(ids[:, 19:], pixel_values=pixels[1:], past_key_values=first.past_key_values, use_cache=True)
    actual = torch.cat((first.last_hidden_state, second.last_hidden_state), 1)
    torch.testing.assert_close(actual, whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"cache_implementation": "static", "disable_compile": True}, {"use_cache": False}]
)
def test_a_left_padded_batch_generates_what_each_prompt_does_alone(model, tokenizer, options):
    from modeling_mmgpt import MMGPTCollator

    collate = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    samples = [
        make_sample("What?", "x", images=[make_image(0)]),
        make_sample("And what is in these two?", "y", images=[make_image(1), make_image(2)]),
    ]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **options}
    together = model.generate(**collate(samples), **options)
    for index in range(2):
        alone = model.generate(
            **collate(samples[index : index + 1]), max_new_tokens=6, min_new_tokens=6, do_sample=False
        )
        assert together[index, -6:].tolist() == alone[0, -6:].tolist()


@pytest.mark.parametrize("kinds", [["full_attention"], ["sliding_attention", "full_attention"], ["sliding_attention"]])
def test_an_image_of_a_later_turn_attends_to_itself_in_a_static_cache(inputs, kinds):
    """The position where it begins is counted on the device there."""
    sliding = {"sliding_window": 24} if "sliding_attention" in kinds else {}
    model = make_model(
        audio=None, bidirectional_images=True, text={"initializer_range": 0.2, "layer_types": kinds, **sliding}
    )
    whole = model(**inputs, use_cache=False).logits
    cache = StaticCache(config=model.config.text_config, max_cache_len=48)
    turns = [
        model(
            input_ids=inputs["input_ids"][:, start:end],
            pixel_values=inputs["pixel_values"][[image]],
            past_key_values=cache,
            use_cache=True,
        ).logits
        for image, (start, end) in enumerate(((0, 19), (19, 40)))
    ]
    torch.testing.assert_close(torch.cat(turns, 1), whole, atol=1e-5, rtol=1e-4)
