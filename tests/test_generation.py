"""generate(): every way of decoding returns with every cache what it returns without one."""

import copy

import accelerate
import pytest
import torch
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, StaticCache

from modeling_mmgpt import MMGPTCollator, MMGPTForCausalLM, MMGPTTextConfig, modeling_mmgpt
from modeling_mmgpt.layers_mmgpt import CHUNKED_PREFILL_TAKES_MEDIA
from tests.conftest import (
    NAFLEX,
    SIGLIP,
    TEXT,
    WHISPER,
    make_audio,
    make_image,
    make_long_sample,
    make_model,
    make_processor,
    make_sample,
    make_video,
    open_gates,
)


METHODS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 0.7},
    "beams": {"num_beams": 3, "do_sample": False},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "samples of a prompt": {"do_sample": True, "num_return_sequences": 3},
    "beams of a prompt": {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
    "penalties": {"do_sample": False, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}
CACHES = {
    "dynamic": {"cache_implementation": "dynamic"},
    "static": {"cache_implementation": "static", "disable_compile": True},
}
if torch.accelerator.is_available():  # this one moves between an accelerator and the CPU
    CACHES["offloaded"] = {"cache_implementation": "offloaded"}
LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6}


def text_prompts():
    decoder = MMGPTForCausalLM(
        MMGPTTextConfig(**TEXT, layer_types=["sliding_attention", "full_attention"], sliding_window=4)
    )
    ids = torch.randint(10, 320, (2, 7))
    mask = torch.ones_like(ids)
    ids[0, :2], mask[0, :2] = TEXT["pad_token_id"], 0
    return decoder.eval(), {"input_ids": ids, "attention_mask": mask}


def generate(model, prompts, **options) -> list:
    torch.manual_seed(7)
    return model.generate(**prompts, **LENGTH, **options).tolist()


@pytest.fixture(params=["text", "encoder-free", "towers", "cross-attention", "cross-attention, last"])
def prompted(request, tokenizer, samples):
    """A model, and left-padded prompts for it, with media where it takes them."""
    if request.param == "text":
        return text_prompts()
    towers = {} if request.param == "encoder-free" else {"vision": SIGLIP, "audio": WHISPER}
    fusion = {}
    if request.param.startswith("cross-attention"):
        fusion = {"fusion": "cross_attention", "cross_attention_scope": "last" if "last" in request.param else "all"}
    model = open_gates(make_model(**towers, **fusion))
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    return model, collator(samples)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_takes_what_the_processor_returns(prompted, dtype):
    """As the README calls it: without a cast of pixels and spectrograms."""
    model, prompts = prompted
    half = generate(model.to(dtype), prompts, do_sample=False)
    assert [len(answer) for answer in half] == [prompts["input_ids"].shape[1] + 6] * len(half)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_an_offloaded_model_returns_the_same(prompted, place, tmp_path):
    model, prompts = prompted
    expected = generate(model, prompts, do_sample=False)
    if place == "cpu":
        accelerate.cpu_offload(model, torch.device("cpu"))
    else:
        accelerate.disk_offload(model, tmp_path, torch.device("cpu"))
    assert generate(model, prompts, do_sample=False) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cache", CACHES)
def test_every_way_of_decoding_with_every_cache(prompted, method, cache):
    model, prompts = prompted
    expected = generate(model, prompts, **METHODS[method], use_cache=False)
    assert generate(model, prompts, **METHODS[method], **CACHES[cache]) == expected


@pytest.mark.parametrize("helper", ["assistant", "prompt lookup", "early exit"])
def test_assisted_decoding_is_greedy_decoding(prompted, helper):
    model, prompts = prompted
    if prompts["input_ids"].shape[0] > 1:  # transformers assists one prompt at a time
        one = prompts["attention_mask"][0].bool()
        prompts = {"input_ids": torch.randint(10, 320, (1, int(one.sum())))}
        prompts["attention_mask"] = torch.ones_like(prompts["input_ids"])
    helpers = {"assistant": {"assistant_model": text_prompts()[0]}, "prompt lookup": {"prompt_lookup_num_tokens": 2}}
    helpers["early exit"] = {"assistant_early_exit": 1}
    assert generate(model, prompts, do_sample=False, **helpers[helper]) == generate(model, prompts, do_sample=False)


@pytest.mark.parametrize("name", ["text", "interleave", "cross_attention", "another family's decoder"])
def test_an_early_exit_drafts_by_the_first_layers(tokenizer, name):
    """A draft runs through fewer layers, the answer is the same, and the model has all of its layers afterwards."""
    if name == "text":
        model, prompts = text_prompts()
        decoder, prompts = model.model, {key: value[1:] for key, value in prompts.items()}
    else:
        foreign = {"text": {"model_type": "llama", "head_dim": 8}} if name.startswith("another") else {"fusion": name}
        model = open_gates(make_model(**foreign))
        decoder = model.model.language_model
        collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
        prompts = collator([make_long_sample()])
    expected = generate(model, prompts, do_sample=False)
    depths = []
    decoder.layers[0].register_forward_hook(lambda *_: depths.append(1))
    decoder.layers[1].register_forward_hook(lambda *_: depths.append(2))
    assert generate(model, prompts, do_sample=False, assistant_early_exit=1) == expected
    assert depths.count(1) > depths.count(2) > 0
    assert decoder.config.num_hidden_layers == 2


def prompts_of_several_media() -> list[dict]:
    """0, 1 and 2 images and audio clips in a sample: repeated entry by entry, they would come to another's placeholders."""
    return [
        make_sample("Compare.", "", images=[make_image(0), make_image(1)], audios=[make_audio(2)]),
        make_sample("Nothing?", ""),
        make_sample("And these?", "", images=[make_image(3)], audios=[make_audio(4, 3400), make_audio(5, 1800)]),
        make_sample("Two again.", "", images=[make_image(6), make_image(7)]),
        make_long_sample(),
    ]


SEVERAL = {
    "encoder-free": {},
    "towers": {"vision": SIGLIP, "audio": WHISPER},
    "resampler": {"vision_connector": "resampler", "vision_num_queries": 3, "audio_connector": "resampler"},
    "cross-attention": {"vision": SIGLIP, "audio": WHISPER, "fusion": "cross_attention"},
    "tiles": {"vision": SIGLIP, "audio": WHISPER, "vision_max_tiles": 4},
    "cross-attention, tiles": {"vision": SIGLIP, "audio": WHISPER, "vision_max_tiles": 4, "fusion": "cross_attention"},
    "any size": {"vision": NAFLEX},
}


def model_that_shows_its_media(**choices):
    """Media weigh as much as words in it: other media, another answer."""
    model = open_gates(make_model(text={"initializer_range": 0.3}, **choices))
    for part in (model.model.vision_connector, model.model.audio_connector):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("form", ["tokens", "embeddings", "encoded"])
def test_beams_of_several_media_are_those_of_each_sample(tokenizer, name, form):
    """By their scores, which media change where a tiny model's words might be the same by chance."""
    model = model_that_shows_its_media(**SEVERAL[name])
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    options = {
        **LENGTH,
        "num_beams": 3,
        "num_return_sequences": 2,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    first_logits = []
    model.register_forward_hook(lambda module, args, output: first_logits.append(output.logits[:, -1]))

    def beams(samples):
        batch = collator(samples)
        length = batch["input_ids"].shape[1]
        if form == "embeddings":
            batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids"))
            length = 0
        if form == "encoded" and "pixel_values" in batch:
            names = [name for name in ("pixel_values", "tile_positions", "spatial_shapes") if name in batch]
            images = {name: batch.pop(name) for name in names}
            batch["image_embeds"] = model.get_image_features(**images).pooler_output
        if form == "encoded" and "input_features" in batch:
            names = [name for name in ("input_features", "input_features_mask", "audio_windows") if name in batch]
            clips = {name: batch.pop(name) for name in names}
            batch["audio_embeds"] = model.get_audio_features(**clips).pooler_output
        first_logits.clear()
        output = model.generate(**batch, **options)
        # Every beam starts from the logits of its own prompt.
        expected = model(**batch).logits[:, -1].repeat_interleave(3, 0)
        torch.testing.assert_close(first_logits[0], expected, atol=1e-4, rtol=1e-4)
        return output.sequences[:, length:], output.sequences_scores

    samples = prompts_of_several_media()
    words, scores = beams(samples)
    for index, one in enumerate(samples):
        place = slice(2 * index, 2 * index + 2)
        expected_words, expected_scores = beams([one])
        torch.testing.assert_close(scores[place], expected_scores, atol=1e-4, rtol=1e-4)
        assert words[place].tolist() == expected_words.tolist()


def test_several_sampled_answers_are_about_their_own_media(tokenizer):
    """With the least temperature sampling is greedy, so every answer of a sample must be the same as alone."""
    model = make_model(text={"initializer_range": 0.3})
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    batch = collator(prompts_of_several_media())
    several = model.generate(**batch, **LENGTH, do_sample=True, top_k=1, num_return_sequences=3)
    assert several.view(5, 3, -1)[:, 0].tolist() == model.generate(**batch, **LENGTH, do_sample=False).tolist()
    assert (several.view(5, 3, -1) == several.view(5, 3, -1)[:, :1]).all()


def media_prompts(tokenizer, **choices):
    """A model, and left-padded prompts with media of every kind."""
    model = model_that_shows_its_media(**choices)
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    return model, collator(prompts_of_several_media())


def encoded(model, prompts) -> dict:
    """The prompts with features in place of images and audio."""
    names = {
        "image": ("pixel_values", "tile_positions", "spatial_shapes"),
        "audio": ("input_features", "input_features_mask", "audio_windows"),
    }
    rest = dict(prompts)
    for kind, arguments in names.items():
        inputs = {name: rest.pop(name) for name in arguments if name in rest}
        rest[f"{kind}_embeds"] = getattr(model, f"get_{kind}_features")(**inputs).pooler_output
    return rest


def count_encoded(model) -> list[int]:
    """Lengths of the batches that the encoders are called with from now on."""
    lengths = []
    for encoder in (model.model.vision_tower, model.model.audio_tower):
        encoder.register_forward_hook(lambda module, args, output: lengths.append(len(args[0])))
    return lengths


@pytest.mark.skipif(not CHUNKED_PREFILL_TAKES_MEDIA, reason="transformers 5.23 and later split media with the prompt")
@pytest.mark.parametrize("name", [name for name in SEVERAL if "cross-attention" not in name])
@pytest.mark.parametrize("form", ["media", "features", "features in one piece"])
def test_a_prompt_read_in_pieces_gets_the_same_answer(tokenizer, name, form):
    """Pieces of 7 tokens end within images, videos and audio."""
    model, prompts = media_prompts(tokenizer, **SEVERAL[name])
    if form != "media":
        prompts = encoded(model, prompts)
    if form == "features in one piece":
        prompts |= {kind: torch.cat(prompts[kind]) for kind in ("image_embeds", "audio_embeds")}
    for method in ("greedy", "beams of a prompt"):
        expected = generate(model, prompts, **METHODS[method])
        assert generate(model, prompts, **METHODS[method], prefill_chunk_size=7) == expected
    if form == "features":
        others = {name: [one.flip(0) for one in prompts[name]] for name in ("image_embeds", "audio_embeds")}
        assert generate(model, prompts | others, prefill_chunk_size=7) != generate(model, prompts)


@pytest.mark.parametrize("name", ["cross-attention", "bidirectional", "older release"])
def test_a_prompt_whose_media_cannot_be_read_in_pieces_is_refused(tokenizer, monkeypatch, name):
    choices = {"cross-attention": {"fusion": "cross_attention"}, "bidirectional": {"bidirectional_images": True}}
    reasons = {"cross-attention": "cross_attention", "bidirectional": "whole images", "older release": "loses media"}
    if name == "older release":
        monkeypatch.setattr(modeling_mmgpt, "CHUNKED_PREFILL_TAKES_MEDIA", False)
    model, prompts = media_prompts(tokenizer, **choices.get(name, {}))
    with pytest.raises(ValueError, match=f"prefill_chunk_size cannot cut a prompt with media here: .*{reasons[name]}"):
        generate(model, prompts, prefill_chunk_size=7)
    text = {key: prompts[key] for key in ("input_ids", "attention_mask")}
    assert generate(model, text, prefill_chunk_size=7) == generate(model, text)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("form", ["media", "features"])
def test_a_text_only_assistant_drafts_without_media(tokenizer, name, form):
    model, prompts = media_prompts(tokenizer, **SEVERAL[name])
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    prompts = collator([make_long_sample()])  # transformers assists one prompt at a time
    if form == "features":
        prompts = encoded(model, prompts)
    expected = generate(model, prompts, do_sample=False)
    assert generate(model, prompts, do_sample=False, assistant_model=text_prompts()[0]) == expected


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("form", ["media", "features"])
def test_media_encoded_before_the_prompt_are_those_encoded_with_it(tokenizer, monkeypatch, name, form):
    """As on transformers 5.17, which hands the model pixels and spectrograms."""
    model, prompts = media_prompts(tokenizer, **SEVERAL[name])
    if form == "features":
        prompts = encoded(model, prompts)
    before = [generate(model, prompts, **METHODS[method]) for method in METHODS]
    monkeypatch.setattr(type(model), "_supports_mm_encoder_outputs", lambda self: False)
    assert [generate(model, prompts, **METHODS[method]) for method in METHODS] == before


@pytest.mark.parametrize("fusion", ["interleave", "cross_attention"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_beams_encode_each_medium_once(tokenizer, fusion, use_cache):
    model, prompts = media_prompts(tokenizer, vision=SIGLIP, audio=WHISPER, fusion=fusion)
    lengths = count_encoded(model)
    generate(model, prompts, num_beams=3, use_cache=use_cache)
    once = [len(prompts[name]) for name in ("input_features", "pixel_values", "pixel_values_videos")]
    assert sorted(lengths) == sorted(once)


def test_outputs_of_the_encoders_may_be_given(tokenizer):
    model, prompts = media_prompts(tokenizer)
    given = {key: prompts[key] for key in ("input_ids", "attention_mask")}
    outputs = {
        "image": model.get_image_features(prompts["pixel_values"]),
        "video": model.get_video_features(prompts["pixel_values_videos"]),
        "audio": model.get_audio_features(prompts["input_features"], prompts["input_features_mask"]),
    }
    assert torch.equal(model(**given, mm_encoder_outputs=outputs).logits, model(**prompts).logits)
    with pytest.raises(ValueError, match="not both"):
        model(**prompts, mm_encoder_outputs=outputs)
    assert generate(model, given, mm_encoder_outputs=outputs) == generate(model, prompts)


def test_beside_the_text_outputs_of_the_encoders_may_be_given_chunk_by_chunk(tokenizer):
    model, prompts = media_prompts(tokenizer, fusion="cross_attention")
    given = {key: prompts[key] for key in ("input_ids", "attention_mask")}
    outputs = {
        "image": model.get_image_features(prompts["pixel_values"]),
        "video": model.get_image_features(prompts["pixel_values_videos"]),
        "audio": model.get_audio_features(prompts["input_features"], prompts["input_features_mask"]),
    }
    torch.testing.assert_close(model(**given, mm_encoder_outputs=outputs).logits, model(**prompts).logits)
    assert generate(model, given, mm_encoder_outputs=outputs) == generate(model, prompts)
    outputs["video"] = model.get_video_features(
        prompts["pixel_values_videos"], num_frames_per_video=prompts["num_frames_per_video"]
    )
    with pytest.raises(ValueError, match="video tokens but the video inputs yield 2 chunks"):
        model(**given, mm_encoder_outputs=outputs)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("form", ["media", "features"])
def test_media_that_the_cache_holds_are_not_given_again(tokenizer, name, form):
    """A second turn with media of its own, and the cache of the first: with the media of the new turn alone it is answered as without a
    cache, and with those of both turns a sentence says what to leave out."""
    model = model_that_shows_its_media(**SEVERAL[name])
    collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
    first = make_sample("One?", "A.", images=[make_image(0)], audios=[make_audio(2)], videos=[make_video(3, 2)])
    second = make_sample("Two?", "", images=[make_image(1), make_image(4)], audios=[make_audio(5)])
    both = {
        "messages": first["messages"] + second["messages"],
        **{kind: first[kind] + second[kind] for kind in ("images", "audios", "videos")},
    }
    prompt, everything, new = collator([first]), collator([both]), collator([second])
    if form == "features":
        prompt, everything, new = (encoded(model, inputs) for inputs in (prompt, everything, new))
    cache = DynamicCache(config=model.config.get_text_config())
    generate(model, prompt, do_sample=False, past_key_values=cache)
    cache.crop(prompt["input_ids"].shape[1] - cache.get_seq_length())
    text = {key: everything[key] for key in ("input_ids", "attention_mask")}
    with pytest.raises(
        ValueError, match=r"already holds \d+ of the \d+ (image|audio|video) tokens of this prompt, and their media"
    ):
        generate(model, everything, do_sample=False, past_key_values=copy.deepcopy(cache))
    added = {key: value for key, value in new.items() if key not in text}
    answer = generate(model, text | added, do_sample=False, past_key_values=cache)
    assert answer == generate(model, everything, do_sample=False)


def test_embeddings_generate_what_their_tokens_do(prompted):
    model, prompts = prompted
    prompts = {key: prompts[key] for key in ("input_ids", "attention_mask")}
    expected = generate(model, prompts, do_sample=False)
    embeds = model.get_input_embeddings()(prompts["input_ids"])
    generated = generate(
        model, {"inputs_embeds": embeds, "attention_mask": prompts["attention_mask"]}, do_sample=False
    )
    assert generated == [row[prompts["input_ids"].shape[1] :] for row in expected]


def test_a_conversation_goes_on_from_its_cache(prompted):
    """The second turn with the first one's cache, and media only in the first: the same as all at once."""
    model, prompts = prompted
    cache = DynamicCache(config=model.config.get_text_config())
    first = torch.tensor(generate(model, prompts, do_sample=False, past_key_values=cache))
    words = torch.randint(10, 320, (first.shape[0], 3))
    second = torch.cat((first, words), 1)
    added = second.shape[1] - prompts["input_ids"].shape[1]
    mask = torch.cat((prompts["attention_mask"], torch.ones(second.shape[0], added, dtype=torch.long)), 1)
    everything = {**prompts, "input_ids": second, "attention_mask": mask}
    text = {"input_ids": second, "attention_mask": mask, "past_key_values": cache}
    assert generate(model, text, do_sample=False) == generate(model, everything, do_sample=False)


def test_padding_changes_nothing(prompted):
    """Each prompt of a batch alone, without padding: what it generates in the batch."""
    model, prompts = prompted
    media = set(prompts) - {"input_ids", "attention_mask"}
    prompts = {key: value for key, value in prompts.items() if key not in media}
    together = generate(model, prompts, do_sample=False)
    for ids, mask, answer in zip(prompts["input_ids"], prompts["attention_mask"].bool(), together, strict=True):
        alone = {"input_ids": ids[mask][None], "attention_mask": torch.ones_like(ids[mask])[None]}
        added = LENGTH["max_new_tokens"]
        assert generate(model, alone, do_sample=False)[0][-added:] == answer[-added:]


@pytest.mark.parametrize("kind", ["text", pytest.param("towers", marks=pytest.mark.conformance)])
def test_compiled_is_eager(kind, tokenizer, samples):
    """Prompt and next token in one graph each, without a break, over a static cache."""
    model, prompts = text_prompts()
    if kind == "towers":
        model = make_model(vision=SIGLIP, audio=WHISPER)
        collator = MMGPTCollator(make_processor(model.config, tokenizer), add_generation_prompt=True)
        prompts = dict(collator(samples))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    length = prompts["input_ids"].shape[1]
    mask = torch.nn.functional.pad(prompts["attention_mask"], (0, 1), value=1)
    results = []
    for run in (model, compiled):
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=length + 9)
        with torch.no_grad():
            first = run(**prompts, past_key_values=cache, use_cache=True).logits
            following = {"input_ids": prompts["input_ids"][:, -1:], "attention_mask": mask}
            second = run(**following, past_key_values=cache, use_cache=True).logits
        is_text = prompts["attention_mask"].bool()
        results.append(torch.cat((first[is_text], second.flatten(0, 1))))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)


def test_no_placeholder_is_generated(tmp_path):
    """It would stand for no media: without a cache the model would ask for one, and so would the next turn of a conversation."""
    model = make_model(lm_head_bias=True)
    placeholders = [model.config.image_token_id, model.config.audio_token_id, model.config.video_token_id]
    torch.nn.init.zeros_(model.lm_head.bias)
    model.lm_head.bias.data[placeholders] = 50.0
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path)
    ids = torch.randint(10, 320, (2, 7))
    assert torch.isin(model(ids).logits.argmax(-1), torch.tensor(placeholders)).all()
    for options in METHODS.values():
        assert not torch.isin(model.generate(ids, **LENGTH, **options), torch.tensor(placeholders)).any()


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_a_prompt_longer_than_the_model_reads_is_refused(kind):
    """Servers and pipelines hand some texts straight to generate()."""
    text = {"max_position_embeddings": 8}
    model = MMGPTForCausalLM(MMGPTTextConfig(**{**TEXT, **text})) if kind == "text" else make_model(text=text)
    assert model.generate(torch.randint(10, 320, (1, 7)), max_new_tokens=4, min_new_tokens=4).shape[1] == 11
    ids = torch.randint(10, 320, (1, 8))
    embeds = model.get_input_embeddings()(ids)
    for prompt in ({"input_ids": ids}, {"inputs_embeds": embeds}):
        with pytest.raises(
            ValueError, match="The input has 8 tokens, but the model reads at most 8 together with its answer"
        ):
            model.generate(**prompt, max_new_tokens=1)


def test_a_dynamic_rotation_reads_on(tokenizer):
    text = {
        "max_position_embeddings": 8,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    }
    model = make_model(text=text)
    assert model.generate(torch.randint(10, 320, (1, 12)), max_new_tokens=2, min_new_tokens=2).shape[1] == 14
    assert make_processor(model.config, tokenizer).context_length is None


BATCHES = {
    "sliding and full": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    "learned positions": {"position_embedding_type": "learned"},
    "experts": {"num_experts": 4, "num_experts_per_tok": 2},
    "interleave": None,
    "cross_attention": None,
}
TEXTS = [[10, 11, 12, 13, 20, 21, 22], [30, 31, 32]]


def continuous(model, inputs, **kwargs):
    config = GenerationConfig(**LENGTH, do_sample=False, eos_token_id=-1, pad_token_id=1)
    small = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)
    return model.generate_batch(inputs, generation_config=config, continuous_batching_config=small, **kwargs)


@pytest.mark.parametrize("name", BATCHES)
def test_continuous_batching_is_generation_one_by_one(name):
    settings = {**(BATCHES[name] or {}), "initializer_range": 0.3}
    if BATCHES[name] is None:
        model = make_model(text=settings, fusion=name)
    else:
        model = MMGPTForCausalLM(MMGPTTextConfig(**TEXT, **settings)).eval()
    one_by_one = {"do_sample": False, "eos_token_id": None}
    expected = [generate(model, {"input_ids": torch.tensor([ids])}, **one_by_one)[0][len(ids) :] for ids in TEXTS]
    assert len({token for answer in expected for token in answer}) > 3
    assert [answer.generated_tokens for answer in continuous(model, TEXTS).values()] == expected


def test_continuous_batching_refuses_media_by_name(model):
    with pytest.raises(ValueError, match="text alone, but got pixel_values: call generate"):
        continuous(model, TEXTS, pixel_values=torch.zeros(1, 3, 16, 16))
    for kind, token in (("image", 4), ("audio", 5), ("video", 6)):
        with pytest.raises(ValueError, match=f"got {kind} tokens"):
            continuous(model, [*TEXTS, [10, token]])


def test_a_failed_request_is_an_error(model, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(model.lm_head, "forward", fail)
    with pytest.raises(RuntimeError, match="2 of 2 requests failed"):
        continuous(model, TEXTS)
