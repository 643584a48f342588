"""The families of vision and audio encoders ("towers"): ONE entry says all that the rest of the code knows of a family.

Token counts, validation, building, assembling, dummy inputs and help texts read it. Data only, so that the configuration can read it
too. A new family is an entry here and a line in the tables of tests/test_assemble.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


def side(size: int | list | tuple) -> int:
    """One side of a square that some configurations write as a number and others as a pair."""
    return size if isinstance(size, int) else size[0]


@dataclass(frozen=True)
class TowerFamily:
    """What vision and audio families have in common. Functions take the encoder's own configuration."""

    label: str | None = None  # its name for people; None: `assemble` does not take it
    model_class: str | None = None  # a class of towers_mmgpt.py; None: the one that AutoModel builds
    checkpoint_prefix: str | None = None  # where it stands in a checkpoint of which it is only a part
    width: Callable = lambda config: config.hidden_size  # of its output
    settings: dict = field(default_factory=dict)  # fields of its configuration that `assemble` sets
    unread: tuple[str, ...] = ()  # modules whose output is not used: their parameters would never have a gradient
    # Ends of names of modules whose weights, or their device, it reads outside their calls.
    read_outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class VisionFamily(TowerFamily):
    patch_size: Callable = lambda config: side(config.patch_size)  # pixels on a side of what a vector stands for
    image_size: Callable | None = lambda config: side(config.image_size)  # None: its configuration has none
    # "one": only image_size; "smaller": image_size and below; "any": as the image processor makes them.
    sizes: Literal["one", "smaller", "any"] = "one"
    pixels: bool = True  # takes whole images (N, channels, height, width)
    patches: bool = False  # takes patches (N, L, p * p * channels) of images of any shape (NaFlex)
    convolutional: bool = False  # stages of several sizes, of which only the last fits a connector


@dataclass(frozen=True)
class AudioFamily(TowerFamily):
    waveform: bool = False  # takes samples (N, samples), else spectrograms (N, mel, frames)
    time_first: bool = False  # its own class takes (N, frames, mel)
    frames: Callable | None = None  # of the one length of spectrogram that it takes; None: any length
    convolutions: Callable = lambda config: []  # (kernel, stride, padding) of each step that shortens time
    bands: Callable | None = None  # vectors for each step of time, one for each band of frequencies; None: one for all
    frames_per_vector: Callable = lambda config: 1  # of a family that groups them, the last group filled up
    special_tokens: int = 0  # before the vectors of the audio
    # Of waveforms: whether an attention mask keeps padding out; else each audio clip is encoded by itself.
    takes_mask: Callable = lambda config: False
    smallest: int = 1  # the fewest samples that it takes in training


# (kernel, stride, padding) of the convolutions at the entrance of Whisper's encoder (Radford et al. 2022, section 2.2).
WHISPER_CONVOLUTIONS = [[3, 1, 1], [3, 2, 1]]


def halving_stride(config) -> int:
    """The entrance takes squares of 4 pixels, and each stage but the first halves the sides."""
    return 4 * 2 ** (len(config.hidden_sizes) - 1)


def has_adapter(config) -> bool:
    return getattr(config, "add_adapter", False)


def listed_convolutions(config) -> list:
    """Those that a configuration like wav2vec 2.0's lists (Baevski et al. 2020), and of its adapter."""
    convolutions = [[*step, 0] for step in zip(config.conv_kernel, config.conv_stride, strict=True)]
    if has_adapter(config):
        convolutions += [[config.adapter_kernel_size, config.adapter_stride, 1]] * config.num_adapter_layers
    return convolutions


def whisper_like(label: str, pooling: tuple = (), **entry) -> AudioFamily:
    """Whisper's encoder and its descendants: windows of one length, two frames for each position."""
    return AudioFamily(
        label,
        convolutions=lambda config: [*WHISPER_CONVOLUTIONS, *pooling],
        frames=lambda config: 2 * config.max_source_positions,
        **entry,
    )


def wav2vec2_like(label: str, **entry) -> AudioFamily:
    """wav2vec 2.0 and models built like it."""
    return AudioFamily(
        label,
        waveform=True,
        convolutions=listed_convolutions,
        width=lambda config: config.output_hidden_size if has_adapter(config) else config.hidden_size,
        # SpecAugment's spans are longer than short audio, and hide what is asked about.
        settings={"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0},
        smallest=16000,  # a span must fit, where SpecAugment is on
        # With one norm over all samples it was trained without a mask.
        **{"takes_mask": lambda config: config.feat_extract_norm != "group"} | entry,
    )


VISION_FAMILIES = {
    "siglip_vision_model": VisionFamily(
        "SigLIP",
        settings={"vision_use_head": False},  # the head pools to one vector
        read_outside=("head.attention.out_proj",),
    ),
    "siglip2_vision_model": VisionFamily(  # Tschannen et al. 2025, arXiv:2502.14786
        "SigLIP 2 (of a fixed resolution or NaFlex)",
        image_size=None,
        sizes="any",
        pixels=False,
        patches=True,
        settings={"vision_use_head": False},
        read_outside=("embeddings.position_embedding", "head.attention.out_proj"),
    ),
    "clip_vision_model": VisionFamily("CLIP", unread=("post_layernorm",)),  # serves only the pooled vector
    "vit": VisionFamily("ViT", unread=("pooler",)),  # Dosovitskiy et al. 2021
    "dinov2": VisionFamily("DINOv2", sizes="any", settings={"use_mask_token": False}),  # the token is for pretraining
    "dinov2_with_registers": VisionFamily("DINOv2", sizes="any"),
    "dinov3_vit": VisionFamily("DINOv3 (ViT)", sizes="any"),
    # Not among the convolutional families: those with batch norm, such as ResNet, whose output for one image depends on the others
    # in training.
    "dinov3_convnext": VisionFamily(
        patch_size=halving_stride, sizes="any", convolutional=True, width=lambda config: config.hidden_sizes[-1]
    ),
    "bit": VisionFamily(
        # Beyond output_stride it dilates instead.
        patch_size=lambda config: min(halving_stride(config), max(4, config.output_stride)),
        image_size=None,
        sizes="any",
        convolutional=True,
        width=lambda config: config.hidden_sizes[-1],
    ),
    "mmgpt_patch": VisionFamily(model_class="MMGPTPatchTower", sizes="smaller", patches=True),
}

AUDIO_FAMILIES = {
    "whisper": whisper_like("Whisper", model_class="WhisperEncoder", checkpoint_prefix="encoder"),
    "qwen2_audio_encoder": whisper_like(
        "Qwen2-Audio",
        pooling=([2, 2, 0],),  # pairs averaged
        read_outside=("embed_positions", "conv1"),
    ),
    "voxtral_encoder": whisper_like("Voxtral", read_outside=("embed_positions", "conv1")),
    "audio-spectrogram-transformer": AudioFamily(
        "AST (environmental sounds)",
        time_first=True,
        frames=lambda config: config.max_length,
        # Patches that overlap in time and frequency (Gong et al. 2021, section 2.1): 12 bands at each of 101 steps for 10 s. A
        # "frame_stack" connector with audio_merge_size=12 makes a token of each step.
        convolutions=lambda config: [[side(config.patch_size), config.time_stride, 0]],
        bands=lambda config: (config.num_mel_bins - side(config.patch_size)) // config.frequency_stride + 1,
        special_tokens=2,  # of the class and of distillation
    ),
    "wav2vec2": wav2vec2_like("wav2vec 2.0"),
    "hubert": wav2vec2_like("HuBERT"),
    "wavlm": wav2vec2_like("WavLM", read_outside=("q_proj", "k_proj", "v_proj", "out_proj", "rel_attn_embed")),
    # Its convolutions of positions lie one behind the other, and past the first one they reach into padding.
    "data2vec-audio": wav2vec2_like("data2vec", takes_mask=lambda config: False),
    "unispeech": wav2vec2_like("UniSpeech"),
    "unispeech-sat": wav2vec2_like("UniSpeech"),
    "mmgpt_frame": AudioFamily(model_class="MMGPTFrameTower", frames_per_vector=lambda config: config.frame_size),
}


def vision_family(config) -> VisionFamily:
    """The entry of a vision encoder's configuration; one that is not listed takes images of one size."""
    return VISION_FAMILIES.get(config.model_type, VisionFamily())


def audio_family(config) -> AudioFamily:
    if config.model_type not in AUDIO_FAMILIES:
        raise ValueError(
            f"How many tokens an audio clip becomes in a {config.model_type!r} encoder is not known: use one of "
            f"{', '.join(sorted(AUDIO_FAMILIES))}."
        )
    return AUDIO_FAMILIES[config.model_type]


def tower_family(config) -> TowerFamily:
    """The entry of an encoder of either kind."""
    return AUDIO_FAMILIES.get(config.model_type) or vision_family(config)


def family_names(families: dict[str, TowerFamily]) -> str:
    """For people: the families that `assemble` takes."""
    *names, last = dict.fromkeys(family.label for family in families.values() if family.label is not None)
    return f"{', '.join(names)} or {last}"
