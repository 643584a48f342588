"""What a model is asked, and how a conversation becomes text.

Prompts: the words of each task. Chat templates: those of text-only decoders, which know nothing of media, get placeholders in the text
before rendering (one that names our placeholders places the media itself); and where, among the tokens, the assistant speaks and
media stand. Serving engines such as vLLM render a template without our processor: for them the same is written in front of it, in Jinja.
"""

import bisect
import re
from collections.abc import Callable

import numpy as np


# The prompt of each task: names in braces are filled in, media come before the text. A model knows the words it was trained on: a
# checkpoint carries its own prompts in processor_config.json, and these take the place of those it does not name.
DEFAULT_PROMPTS = {
    "summarization": "Summarise: {text}",
    "translation": "Translate into {tgt_lang}: {text}",
    "question-answering": "{context} {question}",
    "visual-question-answering": "{question}",
    "image-to-text": "Describe the picture.",
    "automatic-speech-recognition": "Transcribe the recording.",
}

NAMES = re.compile(r"{{|}}|{([^{}]*)}")

# A checkpoint that names this one was trained to answer it as Whisper does: "<|0.00|> words<|1.20|>", in seconds.
TIMESTAMPS = "automatic-speech-recognition/timestamps"

# ChatML. `generation` marks the assistant's turns, which are trained. Content is a string or a list of parts. A lone turn of the
# assistant is a plain text: it is rendered as in pre-training, between the tokens that start and end a text.
CHAT_TEMPLATE = """\
{%- set is_text = messages | length == 1 and messages[0]['role'] == 'assistant' %}
{%- for message in messages %}
    {%- set content = message['content'] if message['content'] is not string else [{'type': 'text', 'text': message['content']}] %}
    {{- bos_token | default('') if is_text else '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {%- for part in content %}
                {{- part['text'] }}
            {%- endfor %}
            {{- eos_token if is_text else '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {%- for part in content %}
            {%- if part['type'] == 'image' %}
                {{- '<|image|>' }}
            {%- elif part['type'] == 'audio' %}
                {{- '<|audio|>' }}
            {%- elif part['type'] == 'video' %}
                {{- '<|video|>' }}
            {%- else %}
                {{- part['text'] }}
            {%- endif %}
        {%- endfor %}
        {{- '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' if not is_text }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


# {placeholders} is a Jinja dictionary from kinds of parts to what stands for them in the text.
PLACING = """\
{%- set flat = namespace(messages=[]) %}
{%- for message in messages %}
    {%- if message['content'] is string or not message['content'] %}
        {%- set flat.messages = flat.messages + [message] %}
    {%- else %}
        {%- set words = namespace(text='') %}
        {%- for part in message['content'] %}
            {%- set words.text = words.text + ({placeholders}[part['type'] | replace('_url', '')] or part['text']) %}
        {%- endfor %}
        {%- set flat.messages = flat.messages + [dict(message, content=words.text)] %}
    {%- endif %}
{%- endfor %}
{%- set messages = flat.messages %}
"""
PLACED = "{#- Media are placed; the decoder's own template follows. #}"


def with_media(template: str, placeholders: dict[str, str]) -> str:
    """`template`, which knows only text, behind the Jinja lines that make one string of each message's parts."""
    return PLACING.replace("{placeholders}", str(placeholders)) + PLACED + template


def without_media(template: str) -> str:
    """The decoder's own template again; any other as it is."""
    return template.partition(PLACED)[2] if PLACED in template else template


def flatten(message: dict, placeholders: dict[str, str]) -> dict:
    """The message with its parts as one string: text as it is, media as their placeholder."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    kinds = [part["type"].removesuffix("_url") for part in content]
    words = [
        placeholders[kind] if kind in placeholders else part["text"] for kind, part in zip(kinds, content, strict=True)
    ]
    return {**message, "content": "".join(words)}


def media_of(conversation: list[dict], kind: str) -> list:
    """The media of one kind that stand in the messages, in order, however they are named."""
    found = []
    for message in conversation:
        content = message.get("content")
        for part in content if isinstance(content, (list, tuple)) else []:
            if part["type"] not in (kind, f"{kind}_url"):
                continue
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


def locate(offsets: np.ndarray, replacements: list[dict], spans: list[tuple[int, int]]):
    """Where spans of a text are among its tokens, after its placeholders were replaced.

    `offsets` `(num_tokens, 2)`: the characters of each token in the final text; `replacements`: as
    `ProcessorMixin.get_text_with_replacements` returns them; `spans`: characters of the text before. Returns a mask of the tokens in
    the spans, and for each replacement its kind, its first token and the one behind its last."""
    starts, ends = offsets.reshape(-1, 2).T
    old_ends = [one["span"][1] for one in replacements]
    gained = [0] + [one["new_span"][1] - one["span"][1] for one in replacements]

    def tokens_in(start: int, end: int) -> np.ndarray:
        return (starts < end) & (ends > start)

    mask = np.zeros(len(starts), dtype=np.int64)
    for span in spans:
        start, end = (place + gained[bisect.bisect_right(old_ends, place)] for place in span)
        mask[tokens_in(start, end)] = 1
    found = []
    for one in replacements:
        places = np.flatnonzero(tokens_in(*one["new_span"]))
        found.append((one["type"], int(places[0]), int(places[-1]) + 1))
    return mask, found


def check_prompts(prompts: dict[str, str]) -> None:
    """Refuses unknown tasks, and prompts that leave no place for what they are about."""
    unknown = prompts.keys() - DEFAULT_PROMPTS.keys() - {TIMESTAMPS}
    if unknown:
        raise ValueError(f"prompts has no task {sorted(unknown)}: it takes {[*DEFAULT_PROMPTS, TIMESTAMPS]}.")
    needed = {"summarization": ["text"], "translation": ["text"], "question-answering": ["context", "question"]}
    for task, prompt in prompts.items():
        missing = [name for name in needed.get(task, []) if f"{{{name}}}" not in prompt]
        if missing:
            raise ValueError(f"The prompt of {task} is {prompt!r}: it lacks {{{missing[0]}}}.")
        check_names(task, prompt)


def check_names(task: str, prompt: str) -> None:
    """Refuses what `str.format` would read as more than a name, such as {text.__class__} or {text:>200000000}."""
    for found in NAMES.finditer(prompt):
        if found[1] is not None and not found[1].isidentifier():
            raise ValueError(f"The prompt of {task} has {found[0][:80]}: names alone are filled in, such as {{text}}.")


def fill_prompt(task: str, prompt: str, fields: dict[str, str]) -> str:
    """`prompt` with its names filled in from `fields`."""
    check_names(task, prompt)
    try:
        return substitute(prompt, fields.__getitem__)
    except KeyError as error:
        name = error.args[0]
        raise ValueError(f"The prompt of {task} is {prompt!r}: give {name}=... with the input.") from None


def substitute(template: str, value_of: Callable[[str], object]) -> str:
    """The template with each {name} replaced by the value of that name, and {{ and }} by braces; no attribute is read, nothing is
    formatted."""
    return NAMES.sub(lambda found: found[0][0] if found[1] is None else str(value_of(found[1])), template)
