"""The form of what clients send to `mmgpt serve`: checked before anything is done with it, so that an error names the place and the way out.

The library's handlers read requests as they come: what is wrong would be their KeyError, or an error in the middle of an answer.
"""

import math
from collections.abc import Callable, Iterator

from ..requests_mmgpt import shown


MAX_STOPS, MAX_STOP_LENGTH = 4, 64
# Part of a message: the kind of medium, and the key under which the object in the part has it.
MEDIA_PARTS = {
    "image_url": ("image", "url"),
    "input_audio": ("audio", "data"),
    "audio_url": ("audio", "url"),
    "video_url": ("video", "url"),
}
CONVERSATION = "a list of messages with at least one in it"


def is_number(value, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value, low: int, high: int) -> bool:
    return isinstance(value, int) and is_number(value, low, high)


def are_stops(value) -> bool:
    stops = [value] if isinstance(value, str) else value
    is_list = isinstance(stops, list) and len(stops) <= MAX_STOPS
    return is_list and all(isinstance(one, str) and 0 < len(one) <= MAX_STOP_LENGTH for one in stops)


def are_biases(value) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and is_number(value[key], -100, 100) for key in value)


# Field: whether its value is fit, and what it has to be. None is as if it were not there.
FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "model": (lambda value: isinstance(value, str), "the name of the model"),
    "messages": (lambda value: isinstance(value, list) and len(value) > 0, CONVERSATION),
    "prompt": (lambda value: isinstance(value, str), "a text"),
    "suffix": (lambda value: isinstance(value, str), "a text"),
    "stream": (lambda value: isinstance(value, bool), "true or false"),
    "temperature": (lambda value: is_number(value, 0, 2), "a number from 0 to 2"),
    "top_p": (lambda value: is_number(value, 0, 1) and value > 0, "a number above 0, up to 1"),
    "frequency_penalty": (lambda value: is_number(value, 0, 2), "a number from 0 to 2"),
    "max_tokens": (lambda value: is_whole(value, 1, math.inf), "a whole number from 1"),
    "max_completion_tokens": (lambda value: is_whole(value, 1, math.inf), "a whole number from 1"),
    "seed": (lambda value: is_whole(value, 0, 2**63 - 1), "a whole number from 0 to 2^63 - 1"),
    "stop": (are_stops, f"a text or a list of up to {MAX_STOPS}, each of 1 to {MAX_STOP_LENGTH} characters"),
    "logit_bias": (are_biases, "an object of token numbers and their biases from -100 to 100"),
    "tools": (
        lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
        "a list of objects",
    ),
}
# What the library's server takes of everybody, though it reaches the whole of generate() or of the template engine.
REFUSED_FIELDS = ("generation_config", "chat_template_kwargs")


def check_fields(body) -> None:
    if not isinstance(body, dict):
        raise ValueError("The body has to be a JSON object.")
    for name in REFUSED_FIELDS:
        if body.get(name) is not None:
            raise ValueError(f"{name} is not taken from clients: use temperature, top_p, max_tokens, stop, seed.")
    for name, (is_fit, wanted) in FIELDS.items():
        if body.get(name) is not None and not is_fit(body[name]):
            raise ValueError(f"{name} is {shown(repr(body[name]), 40)}, but has to be {wanted}.")


def check_messages(messages: list, takes: set[str]) -> None:
    """`takes`: the kinds of media that the model takes."""
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"{place} has to be an object with a role.")
        content, calls = message.get("content"), message.get("tool_calls")
        if content is None and not calls:
            raise ValueError(f"{place} has no content: give a text or a list of parts.")
        if content is not None and not isinstance(content, (str, list)):
            raise ValueError(f"{place}.content has to be a text or a list of parts.")
        check_letters(message["role"], f"{place}.role")
        for index, part in enumerate(content if isinstance(content, list) else []):
            check_part(part, f"{place}.content[{index}]", takes)
        for call in calls or []:
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not {"name", "arguments"} <= function.keys():
                raise ValueError(
                    f"{place}.tool_calls: each has to be an object with a function of name and arguments."
                )


def check_part(part, place: str, takes: set[str]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{place}.text has to be a text.")
        return
    if kind not in MEDIA_PARTS:
        raise ValueError(f"{place}.type is {shown(repr(kind), 40)}, but has to be text, {', '.join(MEDIA_PARTS)}.")
    medium, key = MEDIA_PARTS[kind]
    if not isinstance(part.get(kind), dict) or not isinstance(part[kind].get(key), str) or not part[kind][key]:
        raise ValueError(f"{place}.{kind} has to be an object with {key}: a text that is not empty.")
    if not isinstance(part[kind].get("format", ""), str):
        raise ValueError(f"{place}.{kind}.format has to be a text, for example wav.")
    if medium not in takes:
        raise ValueError(f"{place}: this model takes no {medium}.")


def check_letters(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # what JSON writes as "\\ud800"
        raise ValueError(f"{place} is no text: it has lone surrogates.") from error


def media_places(messages: list[dict]) -> Iterator[tuple[str, dict, int]]:
    """For each medium its name, its message, and the number of its part: of what clients send, and of the library's form of it."""
    for number, message in enumerate(messages):
        parts = message.get("content")
        for index, part in enumerate(parts if isinstance(parts, list) else []):
            if part["type"] != "text":
                yield f"messages[{number}].content[{index}]", message, index


def texts_of(messages: list[dict]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") or []
        yield from [content] if isinstance(content, str) else (p["text"] for p in content if p["type"] == "text")
