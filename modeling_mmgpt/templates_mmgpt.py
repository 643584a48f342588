"""Chat templates of text-only decoders, which know nothing of media: placeholders go into the text before rendering.

A template that names our placeholders places the media itself and never comes here.
"""

import re

import numpy as np


def flatten(message: dict, placeholders: dict[str, str]) -> dict:
    """The message with its parts as one string: text as it is, media as their placeholder."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    words = [placeholders[part["type"]] if part["type"] in placeholders else part["text"] for part in content]
    return {**message, "content": "".join(words)}


def media_of(conversation: list[dict], kind: str) -> list:
    """The media of one kind that stand in the messages, in order, however they are named."""
    parts = [
        part
        for message in conversation
        if isinstance(message.get("content"), (list, tuple))
        for part in message["content"]
        if part["type"] in (kind, f"{kind}_url")
    ]
    found = []
    for part in parts:
        source = next((part[key] for key in (kind, "url", "path", "base64", f"{kind}_url") if key in part), None)
        if source is not None:
            found.append(source["url"] if part["type"] == f"{kind}_url" else source)
    return found


def assistant_spans(conversation: list[dict], text: str, render, end_tokens: list[str]) -> list[tuple[int, int]]:
    """Where in `text`, the rendered conversation, the assistant speaks: (start, end) of each turn with its end token.

    The conversation is rendered again with a mark in the place of each answer; what stands between the marks is what the
    template writes around the answers."""
    answers = [message["content"] for message in conversation if message["role"] == "assistant"]
    marks = [f"\ue000{index}\ue001" for index in range(len(answers))]
    waiting = iter(marks)
    marked = [
        {**message, "content": next(waiting)} if message["role"] == "assistant" else message
        for message in conversation
    ]
    frames = re.split("|".join(map(re.escape, marks)), render(marked)) if marks else [text]
    for said in (answers, [answer.strip() for answer in answers]):  # some templates trim
        if len(frames) != len(said) + 1:
            break
        pieces = [piece for pair in zip(frames, [*said, ""], strict=True) for piece in pair]
        if "".join(pieces) != text:
            continue
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        spans = []
        for index, answer in enumerate(said):
            end = ends[2 * index + 1]
            closing = next((token for token in end_tokens if text.startswith(token, end)), "")
            spans.append((end - len(answer), end + len(closing)))
        return spans
    raise ValueError(
        "What the assistant says cannot be found in the rendered conversation, because the chat template changes it: give "
        "the processor a chat_template with {% generation %} around the assistant's words."
    )


def mask_of(spans: list[tuple[int, int]], offsets: list[tuple[int, int]]) -> np.ndarray:
    """1 for each token that lies in a span of the text, else 0."""
    return np.array([int(any(start < last and first < end for start, end in spans)) for first, last in offsets])


__all__ = ["assistant_spans", "flatten", "mask_of", "media_of"]
