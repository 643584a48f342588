"""Parts that people have to one model: a causal decoder, a vision model and an audio model, each kept as it is.

text    -> decoder, head, tokenizer (with the media tokens added), chat template, generation configuration
vision  -> vision encoder, image processor
audio   -> audio encoder, feature extractor
new     -> the connectors between them, which are to be trained

No weight is copied: the parts' own modules become the model's, so that memory holds the parts and nothing else.
"""

import copy
import os
import re
from inspect import signature

import PIL.Image
import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import AddedToken
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.utils import logging

from ..configuration_mmgpt import MMGPTConfig
from ..modeling_mmgpt import MMGPTForConditionalGeneration, media_tokens
from ..preprocessing_mmgpt import image_chunks, plan_image, tiling_processor_like
from ..processing_mmgpt import MMGPTProcessor
from ..tower_families_mmgpt import AUDIO_FAMILIES, VISION_FAMILIES, family_names, vision_family
from ..towers_mmgpt import TOWER_CLASSES, fitted


MEDIA_TOKENS = {"image": "<|image|>", "audio": "<|audio|>", "video": "<|video|>"}
PAD_TOKEN = "<|pad|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")  # those of our own template
VOCABULARY_MULTIPLE = 64
PROBE_SIZES = ((64, 48), (40, 120))  # width and height of two images that an image processor is tried with

# What can be given as `vision` and `audio`, for error messages and help texts.
TOWER_NAMES = {"vision": family_names(VISION_FAMILIES), "audio": family_names(AUDIO_FAMILIES)}
CONNECTOR_FIELDS = [name for name in MMGPTConfig.__annotations__ if re.match("(vision|audio)_(?!config|token)", name)]


def assemble(
    text: str | os.PathLike,
    vision: str | os.PathLike | None = None,
    audio: str | os.PathLike | None = None,
    connectors: dict | None = None,
    dtype: str | torch.dtype = "auto",
) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """One multimodal model and its processor from parts; `save_checkpoint` makes a folder of them.

    Until its connectors are trained it continues texts exactly as the decoder did, and makes nothing of images and audio.

    Args:
        text: folder or Hub id of a causal decoder with its tokenizer: ours or any other that `AutoModelForCausalLM` loads. One of
            ours with gated blocks (`from_pretrained(..., cross_attention_every=4)` puts zero-initialised ones into any) attends to
            media through them.
        vision: folder or Hub id of a vision encoder of one of the families `TOWER_NAMES["vision"]`, such as SigLIP; of a model with
            a text half the vision half is taken.
        audio: folder or Hub id of an audio encoder of one of the families `TOWER_NAMES["audio"]`, such as Whisper; of a model with a
            decoder its encoder is taken.
        connectors: fields of [`MMGPTConfig`] that choose them, of `CONNECTOR_FIELDS`.
        dtype: of the whole model; `"auto"`: that of the decoder's checkpoint.
    """
    connectors = connectors or {}
    if unknown := sorted(set(connectors) - set(CONNECTOR_FIELDS)):
        raise ValueError(f"connectors has {', '.join(unknown)}, but only {', '.join(CONNECTOR_FIELDS)} can be chosen.")
    for part, source in (("vision", vision), ("audio", audio)):
        if source is None and (useless := [name for name in connectors if name.startswith(part)]):
            raise ValueError(
                f"connectors has {', '.join(useless)}, but no {part}= is given: give it, or leave them out."
            )
    decoder, tokenizer = load_decoder(text, dtype)
    probe = torch.arange(min(8, len(tokenizer)))[None]
    with torch.no_grad():
        expected = decoder(probe).logits[..., : len(tokenizer)]  # before the vocabulary grows
    grow_vocabulary(decoder, tokenizer, text)
    vision_tower = load_tower(vision, "vision", decoder.dtype) if vision is not None else None
    audio_tower = load_tower(audio, "audio", decoder.dtype) if audio is not None else None
    config = choose_config(decoder, tokenizer, vision_tower, audio_tower, connectors)
    model = join(config, decoder, vision_tower, audio_tower)
    check_text(model, probe, expected, text)
    image_processor = load_companion(AutoImageProcessor, vision, "image processor")
    if config.vision_max_tiles is not None:
        image_processor = tiling_processor_like(image_processor, config.vision_max_tiles)
    processor = MMGPTProcessor.from_config(
        config,
        tokenizer,
        image_processor=image_processor,
        feature_extractor=load_companion(AutoFeatureExtractor, audio, "feature extractor"),
    )
    if vision is not None:
        check_image_sizes(model.config.vision_config, processor.image_processor, vision)
        check_image_tokens(model, processor, vision)
    carry_generation(model, decoder, tokenizer)
    return model, processor


def load_config(source: str | os.PathLike, part: str):
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{part}={str(source)!r} cannot be read as a model: give a folder with a config.json, or the id of a model on the "
            f"Hub that can be reached ({str(error).splitlines()[0]})."
        ) from error


def load_decoder(source: str | os.PathLike, dtype: str | torch.dtype) -> tuple[PreTrainedModel, object]:
    """The causal decoder with its head, and its tokenizer."""
    config = load_config(source, "text")
    kind = config.model_type
    is_decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    if not is_decoder or kind == "mmgpt":
        raise ValueError(
            f"text={str(source)!r} holds a {kind!r} model, which is not a causal decoder alone: give a model that continues texts, "
            "such as mmgpt_text, gpt2, llama or qwen3."
        )
    if os.path.isdir(source) and not any(name.startswith(("tokenizer", "vocab")) for name in os.listdir(source)):
        raise ValueError(
            f"text={str(source)!r} has no tokenizer: copy the tokenizer files of the decoder into the folder."
        )
    decoder = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype)
    if (
        type(decoder.base_model) is not MODEL_MAPPING[type(config)]
        or type(decoder.get_output_embeddings()) is not nn.Linear
    ):
        raise ValueError(
            f"text={str(source)!r}: a {kind!r} decoder is not a model under one linear head, and cannot be taken over unchanged: "
            "use a decoder of another family."
        )
    return decoder, AutoTokenizer.from_pretrained(source)


def grow_vocabulary(decoder: PreTrainedModel, tokenizer, source: str | os.PathLike) -> None:
    """Adds the tokens that are missing, each with the mean of the old ones' rows in embeddings and head: a token of which
    nothing is known, and which greedy decoding never prefers to all others."""
    known = max(tokenizer.get_vocab().values()) + 1
    embeddings, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    old_size = len(embeddings.weight)
    if known > old_size:
        raise ValueError(
            f"text={str(source)!r}: its tokenizer has {known} tokens but its decoder only {old_size}: they do not belong together."
        )
    wanted = list(MEDIA_TOKENS.values())
    wanted += [PAD_TOKEN] if tokenizer.pad_token is None else []
    wanted += CHAT_TOKENS if tokenizer.chat_template is None else []
    added = [token for token in wanted if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in added], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD_TOKEN
    size = max(old_size, max(tokenizer.get_vocab().values()) + 1)
    size += -size % VOCABULARY_MULTIPLE
    if size != old_size:
        decoder.resize_token_embeddings(size, mean_resizing=False)
    embeddings, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    new = sorted({*tokenizer.convert_tokens_to_ids(added), *range(old_size, size)})
    with torch.no_grad():
        for parameter in (embeddings.weight, head.weight, head.bias):
            if parameter is not None:
                parameter[new] = parameter[:known].mean(0, dtype=torch.float32).to(parameter.dtype)


def load_tower(source: str | os.PathLike, part: str, dtype: torch.dtype) -> PreTrainedModel:
    """The vision or audio encoder of a checkpoint, without its other halves and heads."""
    whole = load_config(source, part)
    config = getattr(whole, f"{part}_config", whole)
    family = {"vision": VISION_FAMILIES, "audio": AUDIO_FAMILIES}[part].get(config.model_type)
    if family is None or family.label is None:
        raise ValueError(
            f"{part}={str(source)!r} holds a {whole.model_type!r} model, which cannot be the {part} encoder: give {TOWER_NAMES[part]}."
        )
    for name, value in family.settings.items():
        setattr(config, name, value)
    places = {
        rf"^(model\.)?{place}\.": "" for place in (f"{part}_tower", family.checkpoint_prefix) if place is not None
    }
    tower_class = TOWER_CLASSES.get(family.model_class) or MODEL_MAPPING[type(config)]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the other halves are left behind on purpose
    try:
        tower, info = tower_class.from_pretrained(
            source, config=config, dtype=dtype, key_mapping=places, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith(family.unread)):
        raise ValueError(
            f"{part}={str(source)!r} lacks {len(missing)} of the encoder's weights (first: {missing[0]}): the checkpoint is not "
            f"complete, or its config.json describes another model."
        )
    return fitted(tower)


def load_companion(loader, source: str | os.PathLike | None, name: str):
    """What prepares the inputs of an encoder, from the encoder's own folder."""
    if source is None:
        return None
    try:
        return loader.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{str(source)!r} has no {name}: copy the preprocessor_config.json of the original model into the folder."
        ) from error


def choose_config(decoder: PreTrainedModel, tokenizer, vision_tower, audio_tower, connectors: dict) -> MMGPTConfig:
    try:
        return MMGPTConfig(
            text_config=decoder.config.to_dict(),
            fusion="interleave"
            if getattr(decoder.config, "cross_attention_every", None) is None
            else "cross_attention",
            vision_config=vision_tower.config.to_dict() if vision_tower is not None else None,
            audio_config=audio_tower.config.to_dict() if audio_tower is not None else None,
            **{f"{kind}_token_id": tokenizer.convert_tokens_to_ids(token) for kind, token in MEDIA_TOKENS.items()},
            lm_head_bias=decoder.get_output_embeddings().bias is not None,
            use_cache=keeps_cache(decoder),
            dtype=decoder.dtype,
            **connectors,
        )
    except StrictDataclassError as error:
        raise ValueError(f"These connectors do not fit: {error.__cause__}") from error


def keeps_cache(decoder: PreTrainedModel) -> bool:
    names = signature(decoder.base_model.forward).parameters.keys()
    return not names.isdisjoint({"past_key_values", "cache"})  # GPT-1 reads the whole text each time


def join(config: MMGPTConfig, decoder: PreTrainedModel, vision_tower, audio_tower) -> MMGPTForConditionalGeneration:
    """A model whose parts are the given modules themselves, with new connectors between them."""
    with init.no_init_weights(), torch.device("meta"), init.meta_device_safe_creation_ops():
        model = MMGPTForConditionalGeneration(config)
    model.model.language_model, config.text_config = decoder.base_model, decoder.config
    model.lm_head = decoder.get_output_embeddings()
    config._attn_implementation = {"": decoder.config._attn_implementation}
    for part, tower in (("vision", vision_tower), ("audio", audio_tower)):
        if tower is None:
            continue
        setattr(model.model, f"{part}_tower", tower)
        setattr(config, f"{part}_config", tower.config)
        new = [getattr(model.model, f"{part}_connector")]
        if part == "vision" and config.vision_max_tiles is not None:
            new.append(model.model.tile_embedding)
        for part_module in new:
            part_module.to_empty(device=decoder.device).to(decoder.dtype)
            for module in part_module.modules():
                model._init_weights(module)
    for part_config in (config.text_config, config.vision_config, config.audio_config):
        if part_config is not None:
            part_config._name_or_path = ""  # a local folder means nothing to whoever gets the model
    return model.eval()


@torch.no_grad()
def check_text(model: MMGPTForConditionalGeneration, probe: torch.Tensor, expected: torch.Tensor, source) -> None:
    """Refuses decoders that do more than their base model and head, judged by the logits of a few tokens."""
    refusal = (
        f"text={str(source)!r}: an MMGPT does not know all that the {model.config.text_config.model_type!r} family does, and cannot "
        "take it over unchanged: use a decoder of another family"
    )
    try:
        logits = model(probe).logits[..., : expected.shape[-1]]
    except Exception as error:  # whatever the family trips over
        raise ValueError(f"{refusal} ({type(error).__name__}: {error}).") from error
    difference = (logits - expected).abs().max().item()
    if not difference <= 1e-3 * max(1.0, expected.abs().max().item()):
        raise ValueError(f"{refusal} (its logits differ by {difference:.3g}).")


def check_image_sizes(vision_config, image_processor, source: str | os.PathLike) -> None:
    """Refuses an image processor whose images the vision encoder does not take."""
    if not vision_family(vision_config).pixels:
        return
    images = [PIL.Image.new("RGB", size) for size in PROBE_SIZES]
    chunks = [image_chunks(image_processor, [image], return_tensors="pt")["pixel_values"] for image in images]
    sizes = {tuple(pixels.shape[-2:]) for pixels in chunks}
    family = vision_family(vision_config)
    own_size = family.image_size(vision_config)
    if sizes == {(own_size, own_size)} or (family.sizes == "any" and len(sizes) == 1):
        return
    made = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
    raise ValueError(
        f"vision={str(source)!r}: its image processor makes images of {made} pixels, but its encoder takes {own_size} x {own_size}: "
        "set size (and crop_size) in its preprocessor_config.json."
    )


@torch.no_grad()
def check_image_tokens(
    model: MMGPTForConditionalGeneration, processor: MMGPTProcessor, source: str | os.PathLike
) -> None:
    """Refuses encoders that do not make as many vectors as an image has tokens, and images that leave no room for text."""
    width, height = PROBE_SIZES[0]
    tokens, _ = plan_image(processor.image_processor, height, width, processor.image_geometry)
    chunks = image_chunks(processor.image_processor, [PIL.Image.new("RGB", (width, height))], return_tensors="pt")
    features = model.get_image_features(**{**chunks, "pixel_values": chunks["pixel_values"].to(model.dtype)})
    if model.config.fusion == "interleave" and len(features.pooler_output[0]) != tokens:
        raise ValueError(
            f"vision={str(source)!r}: its encoder returns {len(features.pooler_output[0])} vectors for an image of {tokens} tokens."
        )
    positions = getattr(model.config.text_config, "max_position_embeddings", None)
    if positions is not None and tokens >= positions:
        raise ValueError(
            f"An image becomes {tokens} tokens, but the decoder has only {positions} positions: merge patches with "
            'connectors={"vision_connector": "pixel_shuffle", "vision_merge_size": 2} or more, or use an encoder with fewer patches.'
        )


def carry_generation(model: MMGPTForConditionalGeneration, decoder: PreTrainedModel, tokenizer) -> None:
    """The decoder's own generation configuration; with our chat template, the end of a turn ends the answer as well."""
    generation = copy.deepcopy(decoder.generation_config)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.suppress_tokens = [*(generation.suppress_tokens or []), *media_tokens(model.config).values()]
    if not keeps_cache(decoder):
        generation.use_cache = False
    if tokenizer.chat_template is None:
        ends = generation.eos_token_id
        ends = ends if isinstance(ends, list) else [ends] if ends is not None else []
        generation.eos_token_id = [tokenizer.convert_tokens_to_ids(CHAT_TOKENS[1]), *ends]
    model.generation_config = generation
