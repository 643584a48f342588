"""Text that people write stays text: role marks, end marks and placeholders in it are encoded as the letters they are made of.

Before a chat template is rendered, a character that no text has (`MARK`) is put into whatever in the conversation is a control token,
or would become one beside other text: `<` MARK `|im_end|>`. In the rendered text the template's own control tokens are the only whole
ones. A copy of the tokenizer, whose normalizer drops the mark once control tokens are found, encodes it: offsets, padding and
masks are as ever. Conversations that hold no such text never get there. transformers' own `sanitize_control_tokens` came with
5.24, is off by default, covers neither keys nor tokens that are joined of pieces, and does not go with `return_assistant_tokens_mask`.
"""

import copy
import importlib
import json
import re
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from transformers.utils.chat_template_utils import _compile_jinja_template


MARK = "\ufdd0"  # one of the noncharacters of Unicode, which are not for interchange
# Of these, templates may build tokens such as "<|" + role + "|>"; of any other role they are forged.
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
KEYS = frozenset(
    {"role", "content", "type", "text", "image", "audio", "video", "name", "function"}
)  # templates ask for them

GUARDS = weakref.WeakKeyDictionary()  # of each tokenizer that met marks: the one that reads over them


class ControlTokens(NamedTuple):
    """The control tokens that a tokenizer and a template have."""

    all: tuple[str, ...]
    of_turns: tuple[
        str, ...
    ]  # those that the assistant does not write either: marks of what it thinks and calls are its own
    joins: bool  # whether the template ends some of its words within a token, as before the role in "<|" + role + "|>"

    def mark(self, value, key: str = "", tokens: tuple[str, ...] | None = None):
        """`value`, of texts, lists and dictionaries with their keys, with a mark in each control token that it holds."""
        tokens = self.all if tokens is None else tokens
        if isinstance(value, str):
            is_asked_for = key == "type" or (key == "role" and value in ROLES)
            return value if is_asked_for else mark_text(value, tokens, self.joins)
        if isinstance(value, Mapping):
            tokens = self.of_turns if value.get("role") == "assistant" else tokens
            marked = {name: self.mark(one, name, tokens) for name, one in value.items()}
            return {name if name in KEYS else self.mark(name, "", tokens): one for name, one in marked.items()}
        return [self.mark(one, key, tokens) for one in value] if isinstance(value, (list, tuple)) else value

    def mark_variables(self, variables: dict) -> dict:
        """What a template is rendered with; variables that are a token, such as `image_token`, are for the template to write."""
        return {name: one if one in self.all else self.mark(one, name) for name, one in variables.items()}


def control_tokens(tokenizer, template: str, placeholders=()) -> ControlTokens:
    """Special tokens, placeholders, tokens of roles, and those of the tokenizer's added tokens that the template names."""
    added = tuple((token.content, token.special) for token in tokenizer.added_tokens_decoder.values())
    named = (*placeholders, *(getattr(tokenizer, "chat_control_tokens", None) or ()))
    return find_control_tokens(added, template, named)


@lru_cache
def find_control_tokens(added: tuple, template: str, named: tuple[str, ...]) -> ControlTokens:
    nodes = importlib.import_module("jinja2.nodes")  # an import statement would be demanded of whoever loads a model
    parsed = _compile_jinja_template(template).environment.parse(template)
    words = [node.data for node in parsed.find_all(nodes.TemplateData)]
    words += [node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str)]
    tokens, of_turns = [], []
    for token, is_special in added:
        if token.isspace() or not token:  # templates write it as ordinary text
            continue
        is_of_turns = is_special or token in named or any(role in token for role in ROLES)
        if is_of_turns or any(token in word for word in words):
            tokens.append(token)
            of_turns += [token] if is_of_turns else []
    begin = beginnings(tuple(tokens))
    joins = any(word[-size:] in begin for word in words for size in range(1, len(word) + 1))
    return ControlTokens(tuple(tokens), tuple(of_turns), joins)


@lru_cache
def beginnings(tokens: tuple[str, ...]) -> frozenset[str]:
    return frozenset(token[:end] for token in tokens for end in range(1, len(token)))


@lru_cache
def remainders(tokens: tuple[str, ...]) -> frozenset[str]:
    """What of each token is left without its beginning, or without both ends."""
    return frozenset(
        token[start:end]
        for token in tokens
        for start in range(1, len(token))
        for end in range(start + 1, len(token) + 1)
    )


def mark_text(text: str, tokens: tuple[str, ...], joins: bool) -> str:
    """`text` with a mark in each of the `tokens`, and beside pieces of one at its ends, which other text could complete."""
    text = text.replace(MARK, "")
    known, sizes = set(tokens), sorted({len(token) for token in tokens})
    marked, last = [], 0
    for place in re.finditer(f"[{re.escape(''.join({token[0] for token in tokens}))}]" if tokens else "(?!)", text):
        start = place.start()
        if any(text[start : start + size] in known for size in sizes):
            marked += [text[last : start + 1], MARK]
            last = start + 1
    text = "".join(marked) + text[last:]
    longest = sizes[-1] if sizes else 0
    bare = text.rstrip()
    if any(bare[-size:] in beginnings(tokens) for size in range(1, min(longest, len(bare) + 1))):
        text = bare + MARK + text[len(bare) :]
    bare = text.lstrip()
    if joins and any(bare[:size] in remainders(tokens) for size in range(1, min(longest, len(bare) + 1))):
        text = text[: len(text) - len(bare)] + MARK + bare
    return text


class Guard(NamedTuple):
    """A tokenizer that reads over marks, what it was made for, and the control tokens that it cannot spell in letters."""

    tokenizer: object
    made_for: tuple
    unspelt: list[str]


def reader_of(tokenizer, texts: list[str], tokens: tuple[str, ...]):
    """The tokenizer, or where texts hold marks the copy of it that reads over them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not any(MARK in text for text in texts) and not normalizes_tokens(tokenizer, backend, tokens):
        return tokenizer
    if backend is None:
        raise ValueError(
            "A text holds control tokens, and this tokenizer, which is none of the tokenizers library, cannot encode them as text: leave "
            "them out, or pass sanitize_control_tokens=False where you trust the text."
        )
    guard = GUARDS.get(tokenizer)
    if guard is None or guard.made_for != (len(tokenizer), tokens):
        guard = GUARDS[tokenizer] = build_guard(tokenizer, backend, tokens)
    for token in guard.unspelt:
        if any(token[0] + MARK + token[1:] in text for text in texts):
            raise ValueError(
                f"A text holds {token}, which this tokenizer encodes as the control token even in parts: leave it out, or pass "
                "sanitize_control_tokens=False where you trust the text."
            )
    return guard.tokenizer


def normalizes_tokens(tokenizer, backend, tokens: tuple[str, ...]) -> bool:
    """Whether other letters than its own, such as capital ones, may become a control token."""
    if backend is None or backend.normalizer is None:
        return False
    return any(token.normalized and token.content in tokens for token in tokenizer.added_tokens_decoder.values())


def build_guard(tokenizer, backend, tokens: tuple[str, ...]) -> Guard:
    state = json.loads(backend.to_str())
    drop = {"type": "Replace", "pattern": {"String": MARK}, "content": ""}
    normalizers = [drop] + ([state["normalizer"]] if state["normalizer"] else [])
    state["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    for token in state["added_tokens"]:
        token["normalized"] = token["normalized"] and token["content"] not in tokens
    if state["model"]["type"] == "Unigram":  # its vocabulary holds control tokens, as pieces like others
        for piece in state["model"]["vocab"]:
            piece[1] = -1e6 if piece[0] in tokens else piece[1]
    guard = copy.copy(tokenizer)
    guard._tokenizer = type(backend).from_str(json.dumps(state))
    spelt = guard([token[0] + MARK + token[1:] for token in tokens], add_special_tokens=False)["input_ids"]
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    unspelt = [token for token, own, letters in zip(tokens, ids, spelt, strict=True) if own in letters]
    return Guard(guard, (len(tokenizer), tokens), unspelt)
