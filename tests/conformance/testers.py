"""The models that the suites are run on, each in its smallest form, as the suites want to be told about them.

A tester gives a tiny config and inputs for it. Where its classes come from is a choice: the installed package, or remote code
from a saved folder.
"""

from dataclasses import dataclass

import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import modeling_mmgpt
from modeling_mmgpt import MMGPTForCausalLM, MMGPTForConditionalGeneration


PAD, IMAGE, AUDIO, FIRST_WORD = 0, 3, 4, 5
TEXT = {
    "model_type": "mmgpt_text",
    "vocab_size": 99,  # not divisible by two ranks: the suites want uneven shards of the head
    "hidden_size": 32,
    "intermediate_size": 36,  # divisible: transformers 5.17 cuts no odd rows
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vision_use_head": False,
}
WHISPER = {
    "model_type": "whisper",
    "num_mel_bins": 20,
    "max_source_positions": 10,
    "d_model": 32,
    "num_hidden_layers": 2,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 37,
    "max_target_positions": 20,
    "vocab_size": 99,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
PATCHES = {"model_type": "mmgpt_patch", "image_size": 8, "patch_size": 4, "hidden_size": 24}
FRAMES = {"model_type": "mmgpt_frame", "num_mel_bins": 20, "frame_size": 2, "hidden_size": 24}
FRAMES_PER_SOUND, TOKENS_PER_SOUND, TOKENS_PER_IMAGE = 20, 10, 4


@dataclass
class Source:
    """Base and head class of a model, from the installed package or from a saved folder."""

    base: type
    head: type

    @classmethod
    def package(cls, text_only: bool) -> "Source":
        if text_only:
            return cls(modeling_mmgpt.MMGPTTextModel, MMGPTForCausalLM)
        return cls(modeling_mmgpt.MMGPTModel, MMGPTForConditionalGeneration)

    @classmethod
    def folder(cls, folder: str, text_only: bool) -> "Source":
        """As AutoModel gets them with trust_remote_code. AutoModel itself would hand back the package's, which are registered."""
        package = cls.package(text_only)
        loaded = []
        for local in (package.base, package.head):
            reference = f"{local.__module__.rpartition('.')[2]}.{local.__name__}"
            loaded.append(get_class_from_dynamic_module(reference, folder))
            assert loaded[-1] is not local
        return cls(*loaded)


class Tester:
    """What all testers have in common; the names of the attributes are the ones that the suites read."""

    text_only = False
    batch_size = 3
    is_training = True
    num_hidden_layers = TEXT["num_hidden_layers"]
    num_attention_heads = TEXT["num_attention_heads"]
    hidden_size = TEXT["hidden_size"]
    vocab_size = TEXT["vocab_size"]
    image_size, patch_size = SIGLIP["image_size"], SIGLIP["patch_size"]
    text_config = TEXT

    def __init__(self, source: Source):
        self.source = source
        self.base_model_class, self.head_class = source.base, source.head
        self.config_class = source.head.config_class

    def words(self, length: int) -> torch.Tensor:
        return torch.randint(FIRST_WORD, self.vocab_size, (self.batch_size, length))


class TextTester(Tester):
    """The decoder alone, as today's are."""

    text_only = True
    seq_length = 7
    choices: dict = {}

    def __init__(self, source: Source):
        super().__init__(source)
        self.causal_lm_class = source.head

    def get_config(self):
        return self.config_class(**TEXT, **self.choices)

    def prepare_config_and_inputs_for_common(self):
        attention_mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long)
        return self.get_config(), {"input_ids": self.words(self.seq_length), "attention_mask": attention_mask}


class FirstTransformerTester(TextTester):
    """The Transformer's decoder and GPT-1: norms after, learned positions, biases, untied."""

    choices = {
        "position_embedding_type": "learned",
        "norm_type": "layernorm",
        "norm_placement": "post",
        "mlp_type": "plain",
        "hidden_act": "gelu_new",
        "attention_bias": True,
        "mlp_bias": True,
        "lm_head_bias": True,
        "tie_word_embeddings": False,
    }


class SlidingTester(TextTester):
    """Parallel residuals, part of each head rotated, normalised queries and keys, every other layer local."""

    choices = {
        "parallel_residual": True,
        "qk_norm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    }


class MixtureTester(TextTester):
    """A dense layer and one of experts."""

    choices = {"num_experts": 4, "moe_intermediate_size": 16, "mlp_layer_types": ["dense", "sparse"]}


class MultimodalTester(Tester):
    """Each sample: an image, a sound (as far as the model has towers for them), then five words."""

    vision_config: dict = {}
    audio_config: dict = {}
    num_words = 5
    choices: dict = {}

    def __init__(self, source: Source):
        super().__init__(source)
        self.conditional_generation_class = source.head
        is_interleaved = self.choices.get("fusion") != "cross_attention"
        per_image, per_sound = (TOKENS_PER_IMAGE, TOKENS_PER_SOUND) if is_interleaved else (1, 1)
        self.placeholders = [IMAGE] * per_image if self.vision_config else []
        self.placeholders += [AUDIO] * per_sound if self.audio_config else []
        self.seq_length = len(self.placeholders) + self.num_words

    def get_config(self):
        return self.config_class(
            text_config=dict(TEXT),
            vision_config=dict(self.vision_config) or None,
            audio_config=dict(self.audio_config) or None,
            image_token_id=IMAGE,
            audio_token_id=AUDIO,
            **self.choices,
        )

    def prepare_config_and_inputs_for_common(self):
        placeholders = torch.tensor(self.placeholders).repeat(self.batch_size, 1)
        input_ids = torch.cat([placeholders, self.words(self.num_words)], dim=1)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if self.vision_config:
            size = self.vision_config["image_size"]
            inputs["pixel_values"] = torch.rand(self.batch_size, 3, size, size)
        if self.audio_config:
            shape = (self.batch_size, self.audio_config["num_mel_bins"], FRAMES_PER_SOUND)
            inputs["input_features"] = torch.rand(shape)
            inputs["input_features_mask"] = torch.ones(self.batch_size, FRAMES_PER_SOUND, dtype=torch.long)
        return self.get_config(), inputs


class ImageTester(MultimodalTester):
    vision_config = SIGLIP


class AudioTester(MultimodalTester):
    audio_config = WHISPER


class ImageAudioTester(MultimodalTester):
    vision_config = SIGLIP
    audio_config = WHISPER


class EncoderFreeTester(MultimodalTester):
    vision_config = PATCHES
    audio_config = FRAMES


class CrossAttentionTester(ImageAudioTester):
    """Both towers, and a gated block before each layer that looks at what they give."""

    choices = {"fusion": "cross_attention"}
