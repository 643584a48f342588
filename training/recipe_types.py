r"""Sections of a recipe from what its file says: known keys, and each value as the type and the range of its field have it.

build(EvaluationArguments, {"batch_size": "8"}, "eval")  # EvaluationArguments(batch_size=8)
typed("1e-3", float, "training.learning_rate")  # 0.001
typed("yes", bool, "eval.baselines")  # RecipeError: quoted, it is text; unquoted it is a `YesNo`, and true
"""

import dataclasses
import math
import types
from dataclasses import MISSING
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from training.recipe_files import RecipeError, RecipeLoader, YesNo, check_keys, check_name, without_words


# Types of fields with their smallest and largest value.
Count, Whole = Annotated[int, (1, math.inf)], Annotated[int, (0, math.inf)]
Amount, Share = Annotated[float, (0, math.inf)], Annotated[float, (0, 1)]
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "`key: value` lines"}


def build(cls: type, section: dict, where: str, types: dict[str, Any] | None = None) -> Any:
    """A dataclass from the section of that name; `types` are in place of those of its fields. A null where there can be none
    stands for the default."""
    fields = [item for item in dataclasses.fields(cls) if item.init]
    check_keys(section, [item.name for item in fields], where)
    values = {}
    for item in fields:
        expected, value = (types or {}).get(item.name, item.type), section.get(item.name)
        if item.name in section and (value is not None or expected is Any or type(None) in get_args(expected)):
            values[item.name] = typed(value, expected, f"{where}.{item.name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"`{where}.{item.name}` is missing.")
    try:
        return cls(**values)
    except RecipeError as error:
        raise RecipeError(f"in `{where}`: {error}") from None


def typed(value: Any, expected: Any, where: str) -> Any:
    """The value as a field of this type has it, or an error that says what it must be."""
    options = get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,)
    bounds = [get_args(option)[1] for option in options if get_origin(option) is Annotated]
    options = tuple(get_args(option)[0] if get_origin(option) is Annotated else option for option in options)
    if (value is None and type(None) in options) or expected is Any:
        return without_words(value)
    if dataclasses.is_dataclass(expected) and not isinstance(value, expected):
        return build(expected, value, where)
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
                for low, high in bounds:
                    check_range(found, low, high, where)
                return found
    if all(option not in NAMES and get_origin(option) not in (list, dict, Literal) for option in options):
        return value  # a type of a library, which checks it
    raise RecipeError(f"`{where}` is {value!r}; it must be {' or '.join(dict.fromkeys(map(name_of, options)))}.")


def check_range(number: float, low: float, high: float, where: str) -> None:
    if not low <= number <= high:
        way_out = f"from {low} to {high}" if high < math.inf else f"{low} or more"
        raise RecipeError(f"`{where}` is {number!r}; it must be {way_out}.")


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
    kind = dict if dataclasses.is_dataclass(kind) else kind
    return "null" if kind is type(None) else NAMES.get(kind, getattr(kind, "__name__", str(kind)))
