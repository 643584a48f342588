"""Tiny models and processors, built in milliseconds and the same in every run."""

import os
import re
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GotOcr2ImageProcessor,
    PreTrainedTokenizerFast,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    WhisperFeatureExtractor,
)

from modeling_mmgpt import MMGPTCollator, MMGPTConfig, MMGPTForConditionalGeneration, MMGPTProcessor


settings.register_profile("the same in every run", derandomize=True, database=None, deadline=None)
settings.load_profile("the same in every run")

SPECIAL_TOKENS = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|image|>", "<|audio|>", "<|video|>"]
TEXT = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
    "eos_token_id": 3,
}
PATCHES = {"model_type": "mmgpt_patch", "image_size": 16, "patch_size": 4, "hidden_size": 24}
CONVOLUTIONS = {"model_type": "bit", "embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4}
FRAMES = {"model_type": "mmgpt_frame", "num_mel_bins": 20, "frame_size": 4, "hidden_size": 24}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vision_use_head": False,
}
NAFLEX = {
    "model_type": "siglip2_vision_model",
    "num_patches": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vision_use_head": False,
}
WHISPER = {
    "model_type": "whisper",
    "num_mel_bins": 20,
    "max_source_positions": 50,
    "d_model": 32,
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
    "max_target_positions": 20,
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def byte_tokenizer():
    """One token for each byte, after the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(SPECIAL_TOKENS + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL_TOKENS,
        padding_side="left",
    )


def make_config(vision=PATCHES, audio=FRAMES, text=None, **kwargs) -> MMGPTConfig:
    return MMGPTConfig(
        text_config={**TEXT, **(text or {})},
        vision_config=vision,
        audio_config=audio,
        image_token_id=4,
        audio_token_id=5,
        video_token_id=6,
        **kwargs,
    )


def make_model(*args, **kwargs) -> MMGPTForConditionalGeneration:
    torch.manual_seed(0)
    return MMGPTForConditionalGeneration(make_config(*args, **kwargs)).eval()


# Decoders whose head is tied: with a plan of tensor parallelism and without one, and by several names of the embeddings.
TIED_DECODERS = {
    "mmgpt_text": {},
    "llama": {},
    "gemma2": {"head_dim": 8},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {},
    "stablelm": {},
}


def make_tied_model(kind: str) -> MMGPTForConditionalGeneration:
    text = {"model_type": kind, "tie_word_embeddings": True, "bos_token_id": 3}
    return make_model(text=text | TIED_DECODERS[kind])


def open_gates(model: MMGPTForConditionalGeneration) -> MMGPTForConditionalGeneration:
    """Opens the zero-initialised gates, which would hide what their blocks do. A model without any stays as it is."""
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return model


def real_features(media) -> torch.Tensor:
    """The features of one modality in a model output, one after the other, without their padding."""
    features, mask = media.pooler_output, media.attention_mask
    return features.flatten(0, 1) if mask is None else features[mask == 1]


def make_image_processor(config: MMGPTConfig, any_size: bool = False):
    if config.vision_config is None:
        return None
    if any_size or config.vision_config.model_type == "siglip2_vision_model":
        return Siglip2ImageProcessor(patch_size=4, max_num_patches=16)
    size = {"height": 16, "width": 16}
    if config.vision_max_tiles is not None:
        return GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=config.vision_max_tiles)
    return SiglipImageProcessor(size=size)


def make_processor(config: MMGPTConfig, tokenizer, any_size: bool = False) -> MMGPTProcessor:
    return MMGPTProcessor.from_config(
        config,
        tokenizer,
        image_processor=make_image_processor(config, any_size),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=20, sampling_rate=16000, hop_length=160, chunk_length=1, n_fft=400
        )
        if config.audio_config
        else None,
    )


def section_of(path: Path, heading: str) -> str:
    """What a model card says under a heading; nothing where it has no such section."""
    text = re.sub("^<!-- .* -->$", "", ModelCard.load(path).text, flags=re.MULTILINE)
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(heading, "").strip()


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def assistant(tmp_path_factory):
    """Folder of a model that has memorised a dozen answers (tests/tiny_assistant.py), with images and audio to ask about beside it."""
    from tests.tiny_assistant import teach_assistant, write_media

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("assistant")
    write_media(folder)
    return teach_assistant(folder / "model")


@pytest.fixture(scope="session")
def biased(tmp_path_factory):
    """Folder of a model with a known prejudice (tests/tiny_biased.py)."""
    from tests.tiny_biased import teach_biased

    torch.manual_seed(0)
    return teach_biased(tmp_path_factory.mktemp("biased") / "model")


@pytest.fixture(scope="session")
def toxic_words(tmp_path_factory):
    """Folder of a classifier that knows a few toxic words (tests/tiny_biased.py)."""
    from tests.tiny_biased import teach_classifier

    torch.manual_seed(0)
    return teach_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def processor(model, tokenizer):
    return make_processor(model.config, tokenizer)


@pytest.fixture
def collator(processor):
    return MMGPTCollator(processor)


def make_image(seed: int, height: int = 20, width: int = 30) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def make_audio(seed: int, num_samples: int = 6000) -> dict:
    waveform = np.random.default_rng(seed).normal(scale=0.1, size=num_samples).astype(np.float32)
    return {"array": waveform, "sampling_rate": 16000}


def make_video(seed: int, num_frames: int = 3) -> list[PIL.Image.Image]:
    return [make_image(1000 * seed + index) for index in range(num_frames)]


def make_sample(question: str, answer: str, images=(), audios=(), videos=()) -> dict:
    """A one-turn conversation: the images, the audio, the videos, then the question."""
    kinds = {"image": images, "audio": audios, "video": videos}
    media = [{"type": kind} for kind, items in kinds.items() for _ in items]
    content = [*media, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **{f"{kind}s": list(items) for kind, items in kinds.items()}}


def make_long_sample() -> dict:
    """Several turns with media of every kind between the words: images of several shapes, audio of several windows, videos."""

    def user(*content):
        parts = [
            {"type": part} if part in ("image", "audio", "video") else {"type": "text", "text": part}
            for part in content
        ]
        return {"role": "user", "content": parts}

    return {
        "messages": [
            user("video", "First ", "image", "?"),
            {"role": "assistant", "content": "One."},
            user("image", "audio", "and ", "image", "video", "?"),
            {"role": "assistant", "content": "Two."},
            user("audio"),
            {"role": "assistant", "content": "Three."},
        ],
        "images": [make_image(10, 40, 90), make_image(11, 3, 50), make_image(12, 16, 16)],
        "audios": [make_audio(13, 40000), make_audio(14, 900)],
        "videos": [make_video(15, 2), make_video(16, 1)],
    }


@pytest.fixture
def samples():
    return [
        make_sample("What is it?", "A cat.", images=[make_image(0)]),
        make_sample("Who speaks?", "Nobody at all.", audios=[make_audio(1)]),
        make_sample("Say hi.", "Hi!"),
        make_sample(
            "Compare.",
            "Same.",
            images=[make_image(2), make_image(3)],
            audios=[make_audio(4, 3400), make_audio(5, 1800)],
        ),
    ]


@pytest.fixture
def all_samples(samples):
    """The same, and samples with videos, large images and long audio."""
    return [*samples, make_sample("And then?", "Nothing.", videos=[make_video(6)]), make_long_sample()]
