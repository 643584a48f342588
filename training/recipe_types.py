r"""The values of a recipe, each checked against the type and the range of its field.

typed("1e-3", float, "training.learning_rate")  # 0.001
typed("yes", bool, "eval.baselines")  # RecipeError: quoted, it is text; unquoted it is a `YesNo`, and true
"""

import math
import types
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from transformers import TrainingArguments

from training.recipe_files import RecipeError, RecipeLoader, YesNo, check_name, without_words
from training.recipe_sections import (
    AugmentationArguments,
    ClassifierArguments,
    EvaluationArguments,
    LearningRateArguments,
    PrepareArguments,
    SequenceArguments,
    SourceArguments,
    TokenizerArguments,
    field_names,
)


COUNT, AMOUNT, SHARE = (1, math.inf), (0, math.inf), (0, 1)
# Smallest and largest values. What is not here is checked by its section, or may be any value of its type.
RANGES = {
    SourceArguments: {"limit": COUNT},
    TokenizerArguments: {"vocab_size": COUNT},
    SequenceArguments: {"max_length": COUNT, "pack_to": COUNT},
    LearningRateArguments: dict.fromkeys(field_names(LearningRateArguments), AMOUNT),
    AugmentationArguments: dict.fromkeys(field_names(AugmentationArguments), AMOUNT)
    | dict.fromkeys(("audio_crop", "audio_speed", "image_scale", "image_light"), SHARE),
    EvaluationArguments: {"batch_size": COUNT, "max_new_tokens": COUNT},
    PrepareArguments: {
        "min_characters": AMOUNT,
        "max_characters": COUNT,
        "max_repetition": SHARE,
        "similarity": SHARE,
        "image_distance": (0, 64),
        "contamination_words": COUNT,
    },
    ClassifierArguments: {"threshold": SHARE},
    TrainingArguments: {
        "per_device_train_batch_size": COUNT,
        "per_device_eval_batch_size": COUNT,
        "gradient_accumulation_steps": COUNT,
        "learning_rate": AMOUNT,
        "weight_decay": AMOUNT,
        "adam_beta1": SHARE,
        "adam_beta2": SHARE,
        "adam_epsilon": AMOUNT,
        "max_grad_norm": AMOUNT,
        "num_train_epochs": AMOUNT,
        "max_steps": (-1, math.inf),
        "warmup_steps": AMOUNT,
        "logging_steps": AMOUNT,
        "eval_steps": AMOUNT,
        "save_steps": AMOUNT,
        "seed": AMOUNT,
        "dataloader_num_workers": AMOUNT,
        "label_smoothing_factor": SHARE,
    },
}
# Fields of TrainingArguments that take more than their annotation says.
WIDER_TYPES = {"resume_from_checkpoint": str | bool | None}
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "`key: value` lines"}


def typed_section(cls: type, section: dict, fields: list, where: str) -> dict:
    """The section with each value as its field has it; a null where there can be none is left out, for the default."""
    values = {}
    for item in fields:
        if item.name not in section:
            continue
        expected = WIDER_TYPES.get(item.name, item.type) if cls is TrainingArguments else item.type
        value, place = section[item.name], f"{where}.{item.name}"
        if value is None and expected is not Any and type(None) not in get_args(expected):
            continue
        values[item.name] = value = typed(value, expected, place)
        low, high = RANGES.get(cls, {}).get(item.name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            way_out = f"from {low} to {high}" if high < math.inf else f"{low} or more"
            raise RecipeError(f"`{place}` is {value!r}; it must be {way_out}.")
    return values


def typed(value: Any, expected: Any, where: str) -> Any:
    """The value as a field of this type has it, or an error that says what it must be."""
    options = get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,)
    if (value is None and type(None) in options) or expected is Any:
        return without_words(value)
    enums = [option for option in options if isinstance(option, type) and issubclass(option, Enum)]
    if enums and not isinstance(value, Enum):
        names = [one.value for one in enums[0]]
        value = "no" if value is False and "no" in names else value
        check_name(f"`{where}`", without_words(value, as_text=True), names)
        return str(value)
    # The first that fits the value as it stands; then text that is a number, and a number that is text.
    for convert in (exactly, nearly):
        for option in sorted(options, key=lambda one: one is not bool):
            found = convert(value, option, where)
            if found is not None:
                return found
    if all(option not in NAMES and get_origin(option) not in (list, dict, Literal) for option in options):
        return value  # a type of a library, which checks it
    raise RecipeError(f"`{where}` is {value!r}; it must be {' or '.join(dict.fromkeys(map(name_of, options)))}.")


def exactly(value: Any, option: Any, where: str) -> Any:
    kind = get_origin(option) or option
    if kind is bool:
        return value.meaning if isinstance(value, YesNo) else value if isinstance(value, bool) else None
    if kind is str:
        return str(value) if isinstance(value, str) else None
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return (
            value
            if is_number and (kind is float or (value == int(value) == value and isinstance(value, int)))
            else None
        )
    if kind is Literal:
        return str(value) if isinstance(value, str) and value in get_args(option) else None
    if kind is list and isinstance(value, list | tuple):
        (of,) = get_args(option) or (Any,)
        return [typed(one, of, f"{where}.{index}") for index, one in enumerate(value)]
    if kind is dict and isinstance(value, dict):
        _, of = get_args(option) or (str, Any)
        return {str(key): typed(one, of, f"{where}.{key}") for key, one in value.items()}
    return value if isinstance(kind, type) and isinstance(value, kind) else None


def nearly(value: Any, option: Any, where: str) -> Any:
    """`"1e-3"` is a number that another reader of YAML took for text, 1e3 is whole, and a name may be 2024."""
    if option in (int, float):
        if isinstance(value, str) and not isinstance(value, YesNo):
            try:
                value = yaml.load(value, Loader=RecipeLoader)
            except yaml.YAMLError:
                return None
        if option is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        return exactly(value, option, where)
    if option is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def name_of(option: Any) -> str:
    kind, inside = get_origin(option) or option, get_args(option)
    if kind is Literal:
        return " or ".join(repr(one) for one in inside)
    if kind is list:
        return f"a list such as [a, b], each {name_of(inside[0])}" if inside and inside[0] is not Any else "a list"
    return "null" if kind is type(None) else NAMES.get(kind, getattr(kind, "__name__", str(kind)))
