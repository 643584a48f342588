r"""From a recipe's `model` section and a tokenizer to the model and its processor.

model, processor = build_model_and_processor(recipe, rows)  # what the recipe says
model, processor = build_model(recipe.model, tokenizer)      # new weights, for a tokenizer at hand
"""

import dataclasses
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedTokenizerFast
from transformers.processing_utils import VideosKwargs

from modeling_mmgpt import MMGPTConfig, MMGPTForConditionalGeneration, MMGPTProcessor, MMGPTTextConfig
from modeling_mmgpt.preprocessing_mmgpt import video_processor_like
from training.recipe import ModelArguments, Recipe, RecipeError, check_keys, merge, read_preset
from training.train_tokenizer import texts_of, train_tokenizer


# Fields that a model of transformers 5.17 reads and its config class does not declare.
UNDECLARED = {"siglip_vision_model": ["vision_use_head"]}


def build_model_and_processor(recipe: Recipe, rows: Dataset) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """The recipe's model with its processor; `rows` are the training data, whose texts a new tokenizer is trained on."""
    if recipe.model.checkpoint is not None:
        return load_checkpoint(recipe.model.checkpoint)
    if recipe.tokenizer.path is not None:
        tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer.path)
    else:
        tokenizer = train_tokenizer(texts_of(rows), recipe.tokenizer.vocab_size)
    return build_model(recipe.model, tokenizer)


def load_checkpoint(name: str) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """A saved folder, or a model of the Hub."""
    folder = Path(name)
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "outputs/"))):
        raise FileNotFoundError(
            f"{name} does not exist: train it first, or name another folder or a model of the Hub."
        )
    return MMGPTForConditionalGeneration.from_pretrained(name), MMGPTProcessor.from_pretrained(name)


def build_model(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerFast
) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """Random weights in the shape of the preset with the recipe's changes laid over it."""
    preset = read_preset(arguments.preset)
    place = f"preset {arguments.preset} with the recipe's model section"
    fields = merge(preset.get("config", {}), arguments.config)
    check_config_keys(fields, place)
    config = MMGPTConfig(**merge(fields, token_fields(fields, tokenizer)))

    parts: dict[str, Any] = {}
    for part, tower in (("image_processor", config.vision_config), ("feature_extractor", config.audio_config)):
        if tower is not None:
            parts[part] = build_processor_part(part, merge(preset.get(part, {}), getattr(arguments, part)), place)
    if config.vision_config is not None:
        frames = merge(preset.get("video_processor", {}), arguments.video_processor)
        check_keys(frames, VideosKwargs.__annotations__, "video_processor", place)
        parts["video_processor"] = video_processor_like(parts["image_processor"], **frames)
    processor = MMGPTProcessor.from_config(config, tokenizer, prompts=arguments.prompts, **parts)

    model = MMGPTForConditionalGeneration(config)
    # An answer ends with its turn; a text without turns ends with the document.
    end_of_turn = tokenizer.convert_tokens_to_ids(tokenizer.im_end_token)
    model.generation_config.eos_token_id = [end_of_turn, tokenizer.eos_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def token_fields(fields: dict, tokenizer: PreTrainedTokenizerFast) -> dict:
    """What the config takes from the tokenizer: sizes and ids, so that no preset has to state them."""
    text = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    ids = {"text_config": text}
    tokens = (("vision_config", "image_token"), ("vision_config", "video_token"), ("audio_config", "audio_token"))
    for tower, name in tokens:
        if fields.get(tower) is not None:
            ids[f"{name}_id"] = tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
    return ids


def check_config_keys(fields: dict, place: str) -> None:
    """Refuse fields that no config class has: the classes themselves would take them silently."""
    check_keys(fields, field_names(MMGPTConfig), "config", place)
    for key in ("text_config", "vision_config", "audio_config"):
        if fields.get(key) is None:
            continue
        model_type = fields[key].get("model_type", MMGPTTextConfig.model_type)
        check_keys({model_type: None}, ["mmgpt_text", *CONFIG_MAPPING], f"config.{key}.model_type", place)
        config_class = CONFIG_MAPPING[model_type]
        known = ["model_type", *field_names(config_class), *UNDECLARED.get(model_type, [])]
        check_keys(fields[key], known, f"config.{key}", place)


def field_names(config_class: type) -> list[str]:
    return [item.name for item in dataclasses.fields(config_class)]


def build_processor_part(part: str, fields: dict, place: str) -> Any:
    """An image processor or feature extractor of transformers, by the class name that its saved form carries too."""
    kind = f"{part}_type"
    fields = dict(fields)
    name = fields.pop(kind, None)
    if name is None:
        raise RecipeError(
            f"{place}: `{part}.{kind}` is missing: name a class of transformers, since the model has this tower."
        )
    if not hasattr(transformers, name):
        raise RecipeError(
            f"{place}: {part}.{kind} is {name!r}, which transformers {transformers.__version__} does not have."
        )
    return getattr(transformers, name)(**fields)
