r"""Recipes and presets as YAML files: read, changed by `key.sub=value` overrides, laid over each other, their keys checked.

Names that recipes used before are refused with the new one (`RENAMED`), other unknown names with the nearest that exists.
"""

import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import yaml


CONFIGURATION = Path(__file__).resolve().parent.parent / "configuration"

# What recipes called keys, formats, options and kinds of data before, and what each is called now.
RENAMED = {
    "adapter": "format",
    "boxes": "nlvr_scenes",
    "exchanges": "turns",
    "rows": "samples",
    "sounds": "audio",
    "summarisation": "summarization",
}


class RecipeError(ValueError):
    """What is wrong in a recipe, where it stands and the way out."""


class YesNo(str):
    """yes, no, on or off, unquoted: a truth value, or this text where a field takes text, such as the language `no`."""

    @property
    def meaning(self) -> bool:
        return self.lower() in ("yes", "on")


class RecipeLoader(yaml.SafeLoader):
    """YAML as people write it. YAML 1.1 reads 1e-3 as text, 017 as 15, 12:30 as 750 and 2020-01-01 as a date."""

    yaml_implicit_resolvers: ClassVar = {}

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key `{twice}` stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_decimal(self, node) -> int:
        text = node.value.replace("_", "")
        return int(text, 0) if text.lstrip("+-")[:2] in ("0x", "0o") else int(text)

    def construct_word(self, node) -> YesNo:
        return YesNo(node.value)


TAG = "tag:yaml.org,2002:"
for kind, pattern, first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("word", r"(?i:yes|no|on|off)", "yYnNoO"),
    ("int", r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    RecipeLoader.add_implicit_resolver(
        f"{TAG}{kind}", re.compile(rf"^(?:{pattern})$"), [*first, ""] if kind == "null" else list(first)
    )
RecipeLoader.add_constructor(f"{TAG}int", RecipeLoader.construct_decimal)
RecipeLoader.add_constructor(f"{TAG}word", RecipeLoader.construct_word)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text; `where` names it in the error."""
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise RecipeError(f"{where} is not valid YAML{place}: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None


def without_words(value: Any, as_text: bool = False) -> Any:
    """Where no field says what it takes, yes, no, on and off are truth values, as everywhere in YAML; or text."""
    if isinstance(value, YesNo):
        return str(value) if as_text else value.meaning
    if isinstance(value, list):
        return [without_words(one) for one in value]
    if isinstance(value, dict):
        return {str(key): without_words(one) for key, one in value.items()}
    return value


def read_yaml(path: str | Path, listed_in: Path) -> dict:
    """Read a YAML file of `key: value` lines; `listed_in` is the folder whose files a missing name is compared with."""
    path = Path(path)
    if not path.is_file():
        names = sorted(str(found.relative_to(listed_in).with_suffix("")) for found in listed_in.glob("*.yaml"))
        raise FileNotFoundError(f"{path} does not exist; {listed_in} has: {', '.join(names)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not valid YAML: it is not text in UTF-8.") from None
    tree = parse(text, str(path))
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must be `key: value` lines, but holds {type(tree).__name__}.")
    return tree


def write_atomically(path: Path, text: str) -> None:
    """A file that is never seen half written; what a killed process leaves ends with `.part`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def read_preset(name: str) -> dict:
    """A preset of configuration/models by name, or any preset file by path."""
    folder = CONFIGURATION / "models"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    preset = without_words(read_yaml(path, listed_in=folder))
    check_keys(preset, ["config", "image_processor", "video_processor", "feature_extractor"], "")
    return preset


def apply_override(tree: dict, override: str) -> None:
    """Set one `key.sub=value` in the tree; the value is read as YAML, an index steps into a list."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"{override!r} is no override: write key.sub=value, for example training.max_steps=100.")
    node: Any = tree
    keys = dotted.removeprefix("--").split(".")
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise RecipeError(
                    f"{override!r}: {'.'.join(keys[:depth])} is a list of {len(node)}; {key!r} is not in it."
                )
            key = int(key)
        elif not isinstance(node, dict):
            raise RecipeError(f"{override!r}: {'.'.join(keys[:depth])} is a single value and has no {key!r}.")
        if depth == len(keys) - 1:
            node[key] = parse(value, f"the value of {override!r}")
        elif isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]


def merge(base: dict, changes: dict) -> dict:
    """`changes` laid over `base`, dict by dict; any other value, and a part of another `model_type`, replaces what was there."""
    merged = dict(base)
    for key, value in changes.items():
        there = merged.get(key)
        both = isinstance(value, dict) and isinstance(there, dict)
        same_kind = both and value.get("model_type", there.get("model_type")) == there.get("model_type")
        merged[key] = merge(there, value) if same_kind else value
    return merged


def check_keys(section: Any, known: Collection[str], where: str) -> None:
    """Refuse keys of `section` that are not among `known`; `where` is its dotted name, empty for a whole file."""
    if not isinstance(section, dict):
        raise RecipeError(f"`{where or 'the recipe'}` must be a list of `key: value` lines, not {section!r}.")
    for key in section:
        if key not in known:
            full = f"{where}.{key}" if where else str(key)
            raise RecipeError(f"unknown key `{full}`; {valid_name(key, known, '`')}.")


def check_name(what: str, name: Any, known: Collection[str]) -> None:
    """Refuse a name that is not among `known`; `what` it names, such as `"format"`."""
    if name not in known:
        raise RecipeError(f"unknown {what} {name!r}; {valid_name(name, known)}.")


def valid_name(name: Any, known: Collection[str], quote: str = "'") -> str:
    """The way out for a name that is not known: what it is called now, or the nearest name that is."""
    if RENAMED.get(name) in known:
        return f"it is called {quote}{RENAMED[name]}{quote} now"
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
    return f"the nearest valid name is {quote}{nearest}{quote}"


def with_new_names(source: Any) -> Any:
    """A source of a recipe with the keys, the format and the options that were renamed by their new names."""
    if not isinstance(source, dict):
        return source
    renamed = {RENAMED.get(key, key): with_new_names(value) for key, value in source.items()}
    for key in ("format", "source"):
        if isinstance(renamed.get(key), str):
            renamed[key] = RENAMED.get(renamed[key], renamed[key])
    return renamed
