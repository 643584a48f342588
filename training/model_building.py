r"""From a recipe's `model` section and a tokenizer to the model and its processor.

model, processor = build_model_and_processor(recipe, samples)  # as the recipe has them
model, processor = build_model(recipe.model, tokenizer)         # new weights, for a tokenizer at hand
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modeling_mmgpt import MMGPTConfig, MMGPTForConditionalGeneration, MMGPTProcessor
from modeling_mmgpt.preprocessing_mmgpt import video_processor_like
from modeling_mmgpt.tools.checkpoints import load_whole
from training.recipe import ModelArguments, Recipe, RecipeError
from training.train_tokenizer import reopen_tokenizer, texts_of, train_tokenizer


def build_model_and_processor(
    recipe: Recipe, samples: Iterable[dict], checkpoint: str | None = None
) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """The recipe's model with its processor; `samples` are the training data, whose texts a new tokenizer is trained on. A run that
    goes on from a `checkpoint` has the tokenizer that it began with, whatever its data are now."""
    if recipe.model.checkpoint is not None:
        return load_checkpoint(recipe.model.checkpoint)
    if recipe.tokenizer.path is not None:
        tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer.path)
    elif checkpoint is not None:
        tokenizer = reopen_tokenizer(checkpoint)
    else:
        tokenizer = train_tokenizer(texts_of(samples), recipe.tokenizer.vocab_size)
    return build_model(recipe.model, tokenizer)


def load_checkpoint(name: str) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """A saved folder, or a model of the Hub."""
    folder = Path(name)
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "outputs/"))):
        raise FileNotFoundError(
            f"{name} does not exist: train it first, or name another folder or a model of the Hub."
        )
    try:
        model = load_whole(MMGPTForConditionalGeneration, name)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return model, MMGPTProcessor.from_pretrained(name)


def build_model(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerFast
) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """Random weights in the shape of the preset with the recipe's changes."""
    fields = dict(arguments.config)
    # Sizes and ids are the tokenizer's, so that no preset has to state them.
    fields["text_config"] = (fields.get("text_config") or {}) | {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    tokens = (("vision_config", "image_token"), ("vision_config", "video_token"), ("audio_config", "audio_token"))
    for encoder, name in tokens:
        if fields.get(encoder) is not None:
            fields[f"{name}_id"] = tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
    config = MMGPTConfig(**fields)
    parts: dict[str, Any] = {}
    for part in ("image_processor", "feature_extractor"):
        fields = dict(getattr(arguments, part))
        if fields:  # without the encoder there are none
            parts[part] = getattr(transformers, fields.pop(f"{part}_type"))(**fields)
    if config.vision_config is not None:
        parts["video_processor"] = video_processor_like(parts["image_processor"], **arguments.video_processor)
    processor = MMGPTProcessor.from_config(config, tokenizer, prompts=arguments.prompts, **parts)

    model = MMGPTForConditionalGeneration(config)
    # An answer ends with its turn; a text without turns ends with the document.
    end_of_turn = tokenizer.convert_tokens_to_ids(tokenizer.im_end_token)
    model.generation_config.eos_token_id = [end_of_turn, tokenizer.eos_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor
