"""Assembling a model from parts: nothing of a part changes, the whole learns, and its folder stands alone."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitImageProcessor,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from modeling_mmgpt import MMGPTCollator, assemble, save_checkpoint


LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
DECODERS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": {**LLAMA_LIKE, "tie_word_embeddings": False},
    "qwen3": {**LLAMA_LIKE, "tie_word_embeddings": True},
    "phi": {**LLAMA_LIKE, "num_key_value_heads": 4, "tie_word_embeddings": False},  # a head with a bias
    "gpt_neox": {**LLAMA_LIKE, "tie_word_embeddings": False},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gemma2": {**LLAMA_LIKE, "final_logit_softcapping": 2.0},
    "granite": {**LLAMA_LIKE, "logits_scaling": 3.0},
    "cohere": {**LLAMA_LIKE, "logit_scale": 0.5},
    "mmgpt_text": {**LLAMA_LIKE, "lm_head_bias": True},
}
VISION = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PAIR_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
}
VISION_MODELS = {
    "siglip": {"vision_config": VISION, "text_config": PAIR_TEXT},
    "clip": {"vision_config": VISION, "text_config": PAIR_TEXT},
    "siglip_vision_model": VISION,
    "dinov2": {**VISION, "image_size": 20},
    "dinov2_with_registers": {**VISION, "num_register_tokens": 3},
    "dinov3_vit": {**VISION, "num_register_tokens": 2},
}
WHISPER = {
    "num_mel_bins": 20,
    "max_source_positions": 50,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "vocab_size": 100,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}
MEL_ENCODER = {key: WHISPER[key] for key in ("num_mel_bins", "max_source_positions")}
MEL_ENCODER |= {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WAVEFORM = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (8, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 3,
    "vocab_size": 32,
}
AUDIO_MODELS = {
    "whisper": WHISPER,
    "qwen2_audio_encoder": {
        **MEL_ENCODER,
        "d_model": 24,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
    },
    "voxtral_encoder": MEL_ENCODER,
    "wav2vec2": {**WAVEFORM, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "hubert": WAVEFORM,  # one norm over all samples: each sound by itself
    "wavlm": {**WAVEFORM, "feat_extract_norm": "layer"},
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


def save_decoder(folder, kind, vocab_size=300, dtype=torch.float32, **tokenizer):
    config = AutoConfig.for_model(
        kind, vocab_size=vocab_size, bos_token_id=256, eos_token_id=256, pad_token_id=None, **DECODERS[kind]
    )
    fill(AutoModelForCausalLM.from_config(config)).to(dtype).save_pretrained(folder)
    tiny_tokenizer(**tokenizer).save_pretrained(folder)
    return folder


def save_vision(folder, kind):
    fill(AutoModel.from_config(AutoConfig.for_model(kind, **VISION_MODELS[kind]))).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    if kind.startswith("siglip"):
        image_processor = SiglipImageProcessor(size=size)
    else:
        processor_class = CLIPImageProcessor if kind == "clip" else BitImageProcessor
        image_processor = processor_class(size={"shortest_edge": 16}, crop_size=size)
    image_processor.save_pretrained(folder)
    return folder


def save_audio(folder, kind):
    fill(AutoModel.from_config(AutoConfig.for_model(kind, **AUDIO_MODELS[kind]))).save_pretrained(folder)
    if "num_mel_bins" in AUDIO_MODELS[kind]:
        extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1, n_fft=400)
    else:
        masks = AUDIO_MODELS[kind].get("feat_extract_norm") == "layer"
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=16000, return_attention_mask=masks)
    extractor.save_pretrained(folder)
    return folder


def rows(vision, audio):
    """Two conversations with whatever media the model takes."""
    generator = np.random.default_rng(0)
    made = []
    for answer, samples in (("a red square", 9000), ("blue", 5000)):
        parts, row = [{"type": "text", "text": "What is it?"}], {}
        if vision:
            parts.insert(0, {"type": "image"})
            row["images"] = [PIL.Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8))]
        if audio:
            parts.append({"type": "audio"})
            row["audios"] = [{"array": generator.normal(size=samples).astype(np.float32) / 9, "sampling_rate": 16000}]
        row["messages"] = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        made.append(row)
    return made


RELOAD = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
try:
    import modeling_mmgpt
    sys.exit("the package must not be importable here")
except ImportError:
    pass
model, info = AutoModelForImageTextToText.from_pretrained("model", trust_remote_code=True, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
AutoProcessor.from_pretrained("model", trust_remote_code=True)
batch, expected = torch.load("batch.pt")
with torch.no_grad():
    assert torch.equal(model(**batch).logits, expected)
"""


def reload_elsewhere(folder, batch, logits):
    """Loads folder/model in a process that does not know the package, and compares its logits."""
    torch.save((batch, logits), folder / "batch.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    library = os.path.dirname(os.path.dirname(sys.modules["transformers"].__file__))
    environment |= {"HF_HOME": str(folder / "cache"), "PYTHONPATH": library, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", RELOAD], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def train(model, batch, steps=20):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def assert_text_unchanged(model, folder, known):
    """The assembled model's logits of random tokens, padding included, equal the decoder's own bit for bit."""
    decoder = AutoModelForCausalLM.from_pretrained(folder)
    assert decoder.dtype == model.dtype
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, known, (2, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :4] = 0
    own = decoder(input_ids=input_ids, attention_mask=attention_mask).logits
    assert torch.equal(model(input_ids=input_ids, attention_mask=attention_mask).logits[..., :known], own[..., :known])


TRIOS = {
    "gpt2 + siglip + whisper": ("gpt2", "siglip", "whisper", {}),
    "llama + clip": ("llama", "clip", None, {"vision_connector": "pixel_shuffle", "vision_feature_layer": -2}),
    "qwen3 + dinov2 + whisper": (
        "qwen3",
        "dinov2",
        "whisper",
        {"audio_connector": "frame_stack", "audio_merge_size": 4},
    ),
    "gpt_neox": ("gpt_neox", None, None, {}),
}


@pytest.mark.parametrize(("text", "vision", "audio", "connectors"), TRIOS.values(), ids=TRIOS)
def test_trio_is_unchanged_learns_and_loads_elsewhere(tmp_path, text, vision, audio, connectors):
    template = {"template": TEXT_TEMPLATE} if text == "qwen3" else {"bos": text == "llama"}
    save_decoder(tmp_path / "text", text, **template)
    parts = {"text": tmp_path / "text"}
    if vision:
        parts["vision"] = save_vision(tmp_path / "vision", vision)
    if audio:
        parts["audio"] = save_audio(tmp_path / "audio", audio)
    model, processor = assemble(**parts, connectors=connectors)
    assert_text_unchanged(model, tmp_path / "text", known=257)

    batch = MMGPTCollator(processor)(rows(vision, audio))
    losses = train(model, batch)
    assert losses[-1] < losses[0] / 2

    save_checkpoint(tmp_path / "model", model, processor)
    batch.pop("labels")
    with torch.no_grad():
        reload_elsewhere(tmp_path, batch, model(**batch).logits)


@pytest.mark.parametrize("kind", sorted(set(DECODERS) - {"gpt2", "llama", "qwen3", "gpt_neox"}))
def test_any_decoder_is_kept_unchanged(tmp_path, kind):
    save_decoder(tmp_path, kind)
    model, processor = assemble(tmp_path)
    assert_text_unchanged(model, tmp_path, known=257)
    save_checkpoint(tmp_path / "model", model, processor)
    batch = processor(text=["one two"], return_tensors="pt")
    reloaded, info = type(model).from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, model(**batch).logits)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).generate(**batch, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**batch, max_new_tokens=8, do_sample=False, eos_token_id=256), expected)
