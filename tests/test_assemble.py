"""Assembling a model from parts: nothing of a part changes, the whole learns, and its folder stands alone."""

import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    ASTFeatureExtractor,
    ASTForAudioClassification,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitImageProcessor,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioForConditionalGeneration,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from modeling_mmgpt import MMGPTCollator, MMGPTForCausalLM, assemble, save_checkpoint
from modeling_mmgpt.tools.assemble import TOWER_NAMES
from modeling_mmgpt.tower_families_mmgpt import AUDIO_FAMILIES, VISION_FAMILIES


SIZES = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
LLAMA_LIKE = SIZES | dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2)
LLAMA_LIKE |= dict(head_dim=8, max_position_embeddings=256)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=256)
DECODERS = {
    "gpt2": GPT2,
    "llama": LLAMA_LIKE | dict(tie_word_embeddings=False),
    "qwen3": LLAMA_LIKE | dict(tie_word_embeddings=True),
    "phi": LLAMA_LIKE | dict(num_key_value_heads=4, tie_word_embeddings=False),  # a head with a bias
    "gpt_neox": LLAMA_LIKE | dict(tie_word_embeddings=False),
    "gptj": GPT2 | dict(rotary_dim=4),
    "openai-gpt": GPT2,
    "gemma2": LLAMA_LIKE | dict(final_logit_softcapping=2.0),
    "granite": LLAMA_LIKE | dict(logits_scaling=3.0),
    "cohere": LLAMA_LIKE | dict(logit_scale=0.5),
    "mmgpt_text": LLAMA_LIKE | dict(lm_head_bias=True),
}
VISION = SIZES | dict(image_size=16, patch_size=4)
PAIR = {"vision_config": VISION, "text_config": SIZES | dict(vocab_size=99)}
VISION_MODELS = {
    "siglip": PAIR,
    "clip": PAIR,
    "siglip_vision_model": VISION,
    "siglip2": PAIR | {"vision_config": SIZES | dict(patch_size=4, num_patches=16)},
    "vit": VISION,
    "dinov2": VISION | dict(image_size=20),
    "dinov2_with_registers": VISION | dict(num_register_tokens=3),
    "dinov3_vit": VISION | dict(num_register_tokens=2),
}
MEL = dict(num_mel_bins=20, max_source_positions=50)
WHISPER_ENCODER = MEL | dict(d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32)
WHISPER = WHISPER_ENCODER | dict(decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=100)
WHISPER |= dict(pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1)
WAVEFORM = SIZES | dict(vocab_size=32, conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4), conv_stride=(8, 8, 4))
WAVEFORM |= dict(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, num_feat_extract_layers=3)
LAYER_NORM = WAVEFORM | dict(feat_extract_norm="layer")
UNISPEECH = LAYER_NORM | dict(num_codevectors_per_group=4, codevector_dim=8, proj_codevector_dim=8)
AST = SIZES | dict(num_mel_bins=20, max_length=100, patch_size=8, frequency_stride=4, time_stride=4)
AUDIO_MODELS = {
    "whisper": WHISPER,
    "qwen2_audio_encoder": SIZES | WHISPER_ENCODER,
    "voxtral_encoder": SIZES | MEL,
    "audio-spectrogram-transformer": AST,
    "wav2vec2": LAYER_NORM | dict(do_stable_layer_norm=True),
    "hubert": WAVEFORM,  # one norm over all samples: each audio clip by itself
    "wavlm": LAYER_NORM,
    "data2vec-audio": WAVEFORM | dict(num_conv_pos_embeddings=2, conv_pos_kernel_size=5),
    "unispeech": UNISPEECH,
    "unispeech-sat": UNISPEECH,
}
TEXT_TEMPLATE = (  # as text-only decoders have them: content is a string, and there is no generation mark
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tiny_tokenizer(bos=False, template=None, **special):
    tokenizer = Tokenizer(
        models.BPE(vocab=dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), range(256), strict=True)), merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", *([] if template is None else ["<|turn|>", "<|end|>"])])
    if bos:
        end = tokenizer.token_to_id("<|endoftext|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", end)]
        )
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, chat_template=template, **special
    )


def fill(model):
    """Random values in every parameter, biases and norms included."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1 + (1.0 if parameter.ndim == 1 else 0.0)
    model.tie_weights()
    return model.eval()


def save_decoder(folder, kind, vocab_size=None, dtype=torch.float32, **tokenizer):
    tokenizer = tiny_tokenizer(**tokenizer)
    tokens = dict(bos_token_id=256, eos_token_id=256, pad_token_id=None)
    config = AutoConfig.for_model(kind, vocab_size=vocab_size or len(tokenizer), **tokens, **DECODERS[kind])
    fill(AutoModelForCausalLM.from_config(config)).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_vision(folder, kind):
    fill(AutoModel.from_config(AutoConfig.for_model(kind, **VISION_MODELS[kind]))).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    if kind == "siglip2":
        image_processor = Siglip2ImageProcessor(patch_size=4, max_num_patches=16)
    elif kind.startswith("siglip"):
        image_processor = SiglipImageProcessor(size=size)
    elif kind == "vit":
        image_processor = ViTImageProcessor(size=size)
    else:
        processor_class = CLIPImageProcessor if kind == "clip" else BitImageProcessor
        image_processor = processor_class(size={"shortest_edge": 16}, crop_size=size)
    image_processor.save_pretrained(folder)
    return folder


def save_audio(folder, kind):
    fill(AutoModel.from_config(AutoConfig.for_model(kind, **AUDIO_MODELS[kind]))).save_pretrained(folder)
    if kind == "audio-spectrogram-transformer":
        extractor = ASTFeatureExtractor(num_mel_bins=20, max_length=100)
    elif "num_mel_bins" in AUDIO_MODELS[kind]:
        extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1, n_fft=400)
    else:
        masks = AUDIO_MODELS[kind].get("feat_extract_norm") == "layer" or kind == "data2vec-audio"
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=16000, return_attention_mask=masks)
    extractor.save_pretrained(folder)
    return folder


def make_samples(vision, audio):
    """Two conversations with whatever media the model takes."""
    generator = np.random.default_rng(0)
    made = []
    for answer, length in (("a red square", 9000), ("blue", 5000)):
        parts, sample = [{"type": "text", "text": "What is it?"}], {}
        if vision:
            parts.insert(0, {"type": "image"})
            sample["images"] = [PIL.Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8))]
        if audio:
            parts.append({"type": "audio"})
            sample["audios"] = [
                {"array": generator.normal(size=length).astype(np.float32) / 9, "sampling_rate": 16000}
            ]
        sample["messages"] = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        made.append(sample)
    return made


RELOAD = """
import os, sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
sys.modules["modeling_mmgpt"] = None  # from here on as if it were not installed
for folder in sys.argv[1:]:
    model, info = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    batch, expected = torch.load(os.path.join(folder, "batch.pt"))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, expected), folder
"""

TRIOS = {
    "gpt2 + siglip + whisper": ("gpt2", "siglip", "whisper", {}),
    "llama + clip": ("llama", "clip", None, {"vision_connector": "pixel_shuffle", "vision_feature_layer": -2}),
    "qwen3 + dinov2 + whisper": (
        "qwen3",
        "dinov2",
        "whisper",
        {"audio_connector": "frame_stack", "audio_merge_size": 4},
    ),
    "llama + siglip in tiles": ("llama", "siglip", None, {"vision_connector": "pixel_shuffle", "vision_max_tiles": 3}),
    "gpt_neox + siglip2 of any size": ("gpt_neox", "siglip2", None, {"vision_connector": "pixel_shuffle"}),
    "gpt_neox + wav2vec2": ("gpt_neox", None, "wav2vec2", {"audio_connector": "linear"}),
    "llama + vit + ast": (
        "llama",
        "vit",
        "audio-spectrogram-transformer",
        {"audio_connector": "frame_stack", "audio_merge_size": 4},  # the four bands of a step of time
    ),
}


def save_parts(folder, text, vision, audio):
    """The parts in folders of their own. Llama's tokenizer writes a first token, Qwen's has a chat template for text."""
    template = {"template": TEXT_TEMPLATE} if text == "qwen3" else {"bos": text == "llama"}
    parts = {"text": save_decoder(folder / "text", text, **template)}
    if vision:
        parts["vision"] = save_vision(folder / "vision", vision)
    if audio:
        parts["audio"] = save_audio(folder / "audio", audio)
    return parts


@torch.no_grad()
def assert_text_unchanged(model, folder, known=257):
    """The assembled model's logits of random tokens, padding included, equal the decoder's own bit for bit."""
    decoder = AutoModelForCausalLM.from_pretrained(folder)
    assert decoder.dtype == model.dtype
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, known, (2, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :4] = 0
    own = decoder(input_ids=input_ids, attention_mask=attention_mask).logits
    assert torch.equal(model(input_ids=input_ids, attention_mask=attention_mask).logits[..., :known], own[..., :known])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Each trio, assembled, compared with its decoder and trained for 20 steps: (model, processor, losses)."""
    trios = {}
    for name, (text, vision, audio, connectors) in TRIOS.items():
        parts = save_parts(tmp_path_factory.mktemp("parts"), text, vision, audio)
        model, processor = assemble(**parts, connectors=connectors)
        assert_text_unchanged(model, parts["text"])
        trios[name] = model, processor, train(model, MMGPTCollator(processor)(make_samples(vision, audio)))
    return trios


def train(model, batch, steps=20):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        if model.config.vision_feature_layer == -1:  # else the last layers are not read
            assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize("name", TRIOS)
def test_trio_leaves_the_decoder_as_it_is_and_learns(trained, name):
    _, _, losses = trained[name]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", TRIOS)
def test_batch_is_single_in_generation(trained, name):
    model, processor, _ = trained[name]
    samples = make_samples(*TRIOS[name][1:3])
    samples[0]["messages"][0]["content"].insert(0, {"type": "text", "text": "A longer question. "})
    collator = MMGPTCollator(processor, add_generation_prompt=True)
    arguments = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True)
    arguments["return_dict_in_generate"] = True
    together = model.generate(**collator(samples), **arguments)
    for index, sample in enumerate(samples):
        alone = model.generate(**collator([sample]), **arguments)
        assert torch.equal(together.sequences[index, -6:], alone.sequences[0, -6:])
        for batched, single in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(batched[index], single[0], atol=1e-4, rtol=1e-4)


def test_trained_trios_load_where_the_package_is_not(trained, tmp_path):
    for name, (model, processor, _) in trained.items():
        folder = save_checkpoint(tmp_path / name, model, processor)
        batch = MMGPTCollator(processor, add_generation_prompt=True)(make_samples(*TRIOS[name][1:3]))
        with torch.no_grad():
            torch.save((batch, model(**batch).logits), folder / "batch.pt")
        assert "/parts" not in (folder / "config.json").read_text()

    elsewhere = [path for path in sys.path if path and not os.path.exists(os.path.join(path, "modeling_mmgpt"))]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(elsewhere)}
    command = [sys.executable, "-c", RELOAD, *TRIOS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", sorted(set(DECODERS) - {trio[0] for trio in TRIOS.values()}))
def test_any_decoder_is_kept_as_it_is(tmp_path, kind):
    save_decoder(tmp_path, kind)
    model, processor = assemble(tmp_path)
    assert_text_unchanged(model, tmp_path)
    save_checkpoint(tmp_path / "model", model, processor)
    batch = processor(text=["one two"], return_tensors="pt")
    reloaded, info = type(model).from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, model(**batch).logits)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).generate(**batch, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**batch, max_new_tokens=8, do_sample=False, eos_token_id=256), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", VISION_MODELS)
def test_vision_tower_is_unchanged(tmp_path, kind):
    parts = save_parts(tmp_path, "gpt2", kind, None)
    model, processor = assemble(**parts)
    whole = AutoModel.from_pretrained(parts["vision"])
    processed = processor.image_processor(
        [sample["images"][0] for sample in make_samples(True, False)], return_tensors="pt"
    )
    own = getattr(whole, "vision_model", whole)(**processed).last_hidden_state
    processed.pop("pixel_attention_mask", None)
    features = model.get_image_features(**processed, return_dict=True)
    assert torch.equal(features.last_hidden_state, own)
    patches = own[:, own.shape[1] - 16 :]  # 4 x 4, behind class and register tokens
    assert torch.equal(torch.stack(features.pooler_output), model.model.vision_connector(patches))
    text = processor.apply_chat_template(make_samples(True, False)[0]["messages"])
    batch = processor(text=[text], images=[make_samples(True, False)[0]["images"][0]], return_tensors="pt")
    assert (batch["input_ids"] == model.config.image_token_id).sum() == 16
    assert model(**batch).image_hidden_states.shape == (16, 32)


def own_output(kind, whole, features):
    """What the checkpoint's own class makes of one audio clip, its vectors in the order of time."""
    if kind == "audio-spectrogram-transformer":
        patches = whole(features.transpose(1, 2)).last_hidden_state[:, 2:]  # behind two special tokens, band by band
        return patches.unflatten(1, (4, 24)).transpose(1, 2).flatten(1, 2)
    return (whole.encoder if kind == "whisper" else whole)(features).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("kind", AUDIO_MODELS)
def test_audio_tower_is_unchanged_and_padding_changes_nothing(tmp_path, kind):
    parts = save_parts(tmp_path, "gpt2", None, kind)
    model, processor = assemble(**parts)
    whole = AutoModel.from_pretrained(parts["audio"])
    clips = [sample["audios"][0]["array"] for sample in make_samples(False, True)]
    batch = processor(text=["<|audio|> and <|audio|>"], audio=clips, return_tensors="pt")
    features = model.get_audio_features(batch["input_features"], batch["input_features_mask"], return_dict=True)
    assert sum(map(len, features.pooler_output)) == (batch["input_ids"] == model.config.audio_token_id).sum()
    for index, (clip, found) in enumerate(zip(clips, features.pooler_output, strict=True)):
        alone = processor(text=["<|audio|>"], audio=[clip], return_tensors="pt")
        own = own_output(kind, whole, alone["input_features"])
        assert torch.equal(model.get_audio_features(**only_audio(alone), return_dict=True).last_hidden_state, own)
        expected = model.model.audio_connector(own[0, : len(found)])
        assert len(found) == len(expected)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, msg=f"audio {index}")
    assert torch.isfinite(model(**batch).logits).all()


def test_every_family_that_can_be_assembled_is_tried():
    tried = {f"{kind}_vision_model" if kind in ("siglip", "siglip2", "clip") else kind for kind in VISION_MODELS}
    for families, kinds in ((VISION_FAMILIES, tried), (AUDIO_FAMILIES, set(AUDIO_MODELS))):
        assert kinds == {kind for kind, family in families.items() if family.label is not None}


def test_names_for_people_come_from_the_table():
    assert TOWER_NAMES["vision"].startswith("SigLIP, SigLIP 2 (of a fixed resolution or NaFlex), CLIP, ViT, DINOv2")
    assert TOWER_NAMES["audio"].endswith("data2vec or UniSpeech")


QWEN2_AUDIO = {
    "audio_config": {"model_type": "qwen2_audio_encoder", **AUDIO_MODELS["qwen2_audio_encoder"]},
    "text_config": {"model_type": "qwen2", "vocab_size": 99, **LLAMA_LIKE},
    "audio_token_index": 98,
}
WHOLE_MODELS = {
    "vit": (ViTForImageClassification, VISION, "vit"),  # without the pooler that ViTModel has
    "audio-spectrogram-transformer": (ASTForAudioClassification, AST, "audio_spectrogram_transformer"),
    "whisper": (WhisperForConditionalGeneration, WHISPER, "model.encoder"),
    "qwen2_audio": (Qwen2AudioForConditionalGeneration, QWEN2_AUDIO, "model.audio_tower"),
    "wav2vec2": (Wav2Vec2ForCTC, AUDIO_MODELS["wav2vec2"], "wav2vec2"),
}


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_the_encoder_of_a_whole_model_is_taken(tmp_path, kind):
    """Classifiers, speech recognisers and audio language models: the encoder is taken out, whatever it is called there."""
    model_class, config, place = WHOLE_MODELS[kind]
    whole = fill(model_class(AutoConfig.for_model(kind, **config)))
    part = "vision" if kind in VISION_MODELS else "audio"
    encoder = "qwen2_audio_encoder" if kind == "qwen2_audio" else kind
    parts = save_parts(tmp_path, "gpt2", *((encoder, None) if part == "vision" else (None, encoder)))
    whole.save_pretrained(parts[part])
    model, _ = assemble(**parts)
    own = whole.get_submodule(place).state_dict()
    own.pop("masked_spec_embed", None)  # for its own pretraining
    taken = getattr(model.model, f"{part}_tower").state_dict()
    assert taken.keys() == own.keys()
    assert all(torch.equal(taken[name], own[name]) for name in own)


def only_audio(batch):
    return {key: batch[key] for key in ("input_features", "input_features_mask")}


@pytest.mark.parametrize("kind", AUDIO_MODELS)
@pytest.mark.parametrize("samples", [1, 399, 2000, 16000])
def test_placeholders_are_features_for_any_length(tmp_path, kind, samples):
    model, processor = assemble(**save_parts(tmp_path, "gpt2", None, kind))
    batch = processor(text=["<|audio|>"], audio=[np.ones(samples, dtype=np.float32)], return_tensors="pt")
    features = model.get_audio_features(**only_audio(batch), return_dict=True).pooler_output
    assert len(features[0]) == (batch["input_ids"] == model.config.audio_token_id).sum() > 0


def test_new_tokens_are_the_mean_of_the_old(tmp_path):
    save_decoder(tmp_path, "llama", vocab_size=258, dtype=torch.bfloat16)
    before = AutoModelForCausalLM.from_pretrained(tmp_path)
    model, processor = assemble(tmp_path)
    assert model.dtype == torch.bfloat16
    assert model.config.text_config.vocab_size == len(model.lm_head.weight) == 320
    new = [processor.image_token_id, processor.audio_token_id, processor.tokenizer.pad_token_id, 319]
    assert new == [257, 258, 260, 319]
    for grown, old in ((model.get_input_embeddings(), before.get_input_embeddings()), (model.lm_head, before.lm_head)):
        mean = old.weight[:257].mean(0, dtype=torch.float32).to(torch.bfloat16)
        assert torch.equal(grown.weight[new], mean.expand(4, -1))
        assert torch.equal(grown.weight[:257], old.weight[:257])
    assert_text_unchanged(model, tmp_path)
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id == [end, 256]
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    media = {getattr(model.config, f"{kind}_token_id") for kind in ("image", "audio", "video")}
    assert set(model.generation_config.suppress_tokens) == media


def test_zero_initialised_gates_leave_a_decoder_as_it_is_and_open_ones_attend_to_media(tmp_path):
    """A decoder that can write gets blocks, is assembled with a vision encoder, and goes on writing what it wrote."""
    save_decoder(tmp_path / "text", "mmgpt_text")
    decoder = MMGPTForCausalLM.from_pretrained(tmp_path / "text", cross_attention_every=2)
    decoder.save_pretrained(tmp_path / "blocks")
    save_vision(tmp_path / "vision", "siglip")
    model, processor = assemble(
        tmp_path / "blocks",
        vision=tmp_path / "vision",
        connectors={"vision_connector": "resampler", "vision_num_queries": 3},
    )
    assert model.config.fusion == "cross_attention"
    assert_text_unchanged(model, tmp_path / "text")
    batch = processor(text=["one <|image|> two"], images=[PIL.Image.new("RGB", (9, 9))], return_tensors="pt")
    assert (batch["input_ids"] == processor.image_token_id).sum() == 1
    text = {"input_ids": batch["input_ids"]}
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**text).logits)
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(1.0)
        assert not torch.allclose(model(**batch).logits, model(**text).logits, atol=1e-5)


def test_tokens_that_are_there_stay(tmp_path):
    """Assembling what was assembled before from our own decoder adds nothing."""
    save_decoder(tmp_path / "text", "mmgpt_text", vocab_size=320)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "text")
    _, processor = assemble(tmp_path / "text")
    grown = len(processor.tokenizer)
    processor.tokenizer.save_pretrained(tmp_path / "text")
    _, processor = assemble(tmp_path / "text")
    assert len(processor.tokenizer) == grown == len(tokenizer) + 6


class TestTextTemplate:
    """A decoder's own chat template, which knows only text, stays, and media stand where the message has them."""

    @pytest.fixture
    def processor(self, tmp_path):
        model, processor = assemble(**save_parts(tmp_path, "qwen3", "clip", "whisper"))
        assert model.generation_config.eos_token_id == 256
        return processor

    def test_it_is_kept_and_places_media(self, processor):
        assert processor.chat_template.endswith(TEXT_TEMPLATE)
        messages = make_samples(True, True)[0]["messages"]
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
            "<|turn|>user\n<|image|>What is it?<|audio|><|end|>\n<|turn|>assistant\na red square<|end|>\n<|turn|>assistant\n"
        )

    def test_it_places_media_also_where_only_the_template_is_known(self, processor):
        """Serving engines (vLLM) render the saved template with the tokenizer alone."""
        messages = [{"role": "system", "content": "Look."}, *make_samples(True, True)[0]["messages"]]
        rendered = processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
        )
        assert rendered == processor.apply_chat_template(messages, add_generation_prompt=True)

    def test_media_in_messages_become_inputs(self, processor):
        sample = make_samples(True, True)[0]
        user = [
            {"type": "image", "image": sample["images"][0]},
            {"type": "audio", "audio": sample["audios"][0]["array"]},
        ]
        batch = processor.apply_chat_template(
            [{"role": "user", "content": user}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        text = "<|turn|>user\n<|image|><|audio|><|end|>\n"
        expected = processor(
            text=[text], images=sample["images"], audio=[sample["audios"][0]["array"]], return_tensors="pt"
        )
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], expected[key]) for key in expected)

    def test_what_the_assistant_says_is_learnt(self, processor):
        sample = make_samples(True, True)[0]
        sample["messages"] += [{"role": "user", "content": "assistant?"}, {"role": "assistant", "content": " a \n"}]
        batch = MMGPTCollator(processor)([sample])
        learnt = batch["labels"][batch["labels"] != -100]
        assert processor.tokenizer.decode(learnt) == "a red square<|end|>a<|end|>"

    def test_a_template_that_rewrites_answers_needs_the_mark(self, processor):
        processor.chat_template = TEXT_TEMPLATE.replace("trim", "replace('red', 'blue')")
        with pytest.raises(ValueError, match="generation %} around the assistant's words"):
            MMGPTCollator(processor)([make_samples(True, True)[0]])


class TestRefusals:
    @pytest.fixture
    def parts(self, tmp_path):
        return save_parts(tmp_path, "gpt2", "dinov2", "whisper")

    def test_no_such_folder(self, parts, tmp_path):
        for part in parts:
            with pytest.raises(ValueError, match=f"{part}='.*nowhere' cannot be read as a model: give a folder"):
                assemble(**{**parts, part: tmp_path / "nowhere"})

    def test_a_folder_without_a_decoder(self, parts, tmp_path):
        with pytest.raises(ValueError, match="holds a 'dinov2' model, which is not a causal decoder"):
            assemble(parts["vision"])
        AutoConfig.for_model("bert", vocab_size=300).save_pretrained(tmp_path / "bert")
        with pytest.raises(ValueError, match="holds a 'bert' model, which is not a causal decoder"):
            assemble(tmp_path / "bert")

    def test_a_decoder_of_another_nature(self, tmp_path):
        config = AutoConfig.for_model("mamba", vocab_size=257, hidden_size=32, num_hidden_layers=1, state_size=4)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="all that the 'mamba' family does, and cannot take it over unchanged"):
            assemble(tmp_path)

    def test_an_unsupported_encoder(self, parts):
        with pytest.raises(ValueError, match="'whisper' model, which cannot be the vision encoder: give SigLIP"):
            assemble(parts["text"], vision=parts["audio"])
        with pytest.raises(ValueError, match="'dinov2' model, which cannot be the audio encoder: give Whisper"):
            assemble(parts["text"], audio=parts["vision"])

    @pytest.mark.parametrize(
        ("part", "missing"),
        [("text", "no tokenizer"), ("vision", "no image processor"), ("audio", "no feature extractor")],
    )
    def test_a_folder_without_what_prepares_its_inputs(self, parts, tmp_path, part, missing):
        for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
            (tmp_path / part / name).unlink(missing_ok=True)
        with pytest.raises(ValueError, match=f"{part}' has {missing}: copy"):
            assemble(**parts)

    def test_missing_weights(self, parts):
        config = AutoConfig.from_pretrained(parts["vision"])
        config.num_hidden_layers = 3
        config.save_pretrained(parts["vision"])
        with pytest.raises(ValueError, match=r"lacks \d+ of the encoder's weights"):
            assemble(**parts)

    def test_a_tokenizer_of_another_decoder(self, parts):
        save_decoder(parts["text"], "gpt2", vocab_size=200)
        with pytest.raises(ValueError, match="tokenizer has 257 tokens but its decoder only 200"):
            assemble(parts["text"])

    def test_images_that_the_encoder_does_not_take(self, parts, tmp_path):
        save_vision(tmp_path / "clip", "clip")
        size = {"height": 32, "width": 32}
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(tmp_path / "clip")
        with pytest.raises(ValueError, match="images of 32 x 32 pixels, but its encoder takes 16 x 16"):
            assemble(parts["text"], vision=tmp_path / "clip")

    def test_windows_that_the_encoder_does_not_take(self, parts, tmp_path):
        save_audio(tmp_path / "ast", "audio-spectrogram-transformer")
        for extractor, length in (
            (ASTFeatureExtractor(num_mel_bins=20), 1024),
            (Wav2Vec2FeatureExtractor(), "any number"),
        ):
            extractor.save_pretrained(tmp_path / "ast")
            with pytest.raises(
                ValueError, match=f"of 100 frames, but those of {type(extractor).__name__} have {length}"
            ):
                assemble(parts["text"], audio=tmp_path / "ast")

    @pytest.mark.parametrize(
        ("connectors", "named"),
        [
            ({"image_connector": "mlp"}, "connectors has image_connector, but only vision_connector"),
            ({"vision_connector": "pixel_shuffle", "vision_merge_size": 3}, "squares of 3 x 3"),
            (
                {"vision_merge_size": 2},
                "connectors do not fit: vision_merge_size=2 does not go with vision_connector='mlp'",
            ),
        ],
    )
    def test_connectors_that_do_not_fit(self, parts, connectors, named):
        with pytest.raises(ValueError, match=named):
            assemble(**parts, connectors=connectors)
        with pytest.raises(ValueError, match=r"no vision= is given|connectors has image_connector"):
            assemble(parts["text"], connectors=connectors)

    def test_images_longer_than_the_decoder(self, tmp_path, parts):
        config = AutoConfig.for_model("gpt2", vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=16)
        AutoModelForCausalLM.from_config(config).save_pretrained(parts["text"])
        with pytest.raises(
            ValueError, match="becomes 16 tokens, but the decoder has only 16 positions: merge patches"
        ):
            assemble(**parts)
