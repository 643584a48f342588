"""What a model is asked, and how a conversation becomes text.

Prompts: the words of each task. Conversations: what people write, read and checked. Chat templates: those of text-only decoders, which know nothing of media, get placeholders in the text
before rendering (one that names our placeholders places the media itself); and where, among the tokens, the assistant speaks and
media stand. Serving engines such as vLLM render a template without our processor: for them the same is written in front of it, in Jinja.
"""

import bisect
import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from transformers.utils.chat_template_utils import _get_template_variables, render_jinja_template

from .control_tokens_mmgpt import MARK, control_tokens, reader_of
from .requests_mmgpt import shown


KINDS = {"image": "images", "audio": "audio clips", "video": "videos"}  # of media, and what several are called


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

NAMES = re.compile(r"{{|}}|{([^{}]*)}")  # in a prompt; doubled braces stand for braces

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


class Chat(NamedTuple):
    """A conversation as templates take it, and the media of each kind that its parts hold, in their order; `None`: a part alone."""

    messages: list[dict]
    media: dict[str, list]


def read_chats(conversation) -> tuple[list[Chat], bool]:
    """One conversation or a list of them, and whether it was a list. Raises `ValueError` that names the message and the part."""
    is_batched = isinstance(conversation, (list, tuple)) and any(
        isinstance(one, (list, tuple)) or hasattr(one, "messages") for one in conversation
    )
    if not is_batched:
        return [read_chat(conversation, "The conversation")], False
    return [read_chat(chat, f"Conversation {index}") for index, chat in enumerate(conversation)], True


def read_chat(conversation, name: str) -> Chat:
    if isinstance(conversation, Chat):
        return conversation
    conversation = getattr(conversation, "messages", conversation)
    if not isinstance(conversation, (list, tuple)):
        raise ValueError(f"{name} is a {type(conversation).__name__}: give a list of messages.")
    if not conversation:
        raise ValueError(f"{name} is empty: give at least one message.")
    chat = Chat([], {kind: [] for kind in KINDS})
    for index, given in enumerate(conversation):
        where, message = f"message {index} of {name}", as_dict(given)
        if message is None:
            raise ValueError(f"{where} is a {type(given).__name__}: give {{'role': ..., 'content': ...}}.")
        if not isinstance(role := message.get("role"), str):
            raise ValueError(f"{where} has the role {shown(repr(role))}: give 'user', 'assistant' or 'system'.")
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            parts = [read_part(part, f"part {place} of {where}", chat.media) for place, part in enumerate(content)]
            message["content"] = parts
        elif not isinstance(content, str) and (content is not None or message.keys() <= {"role", "content"}):
            raise ValueError(f"{where} has the content {shown(repr(content))}: give a text or a list of parts.")
        chat.messages.append({key: value for key, value in message.items() if value is not None})
    return chat


def as_dict(message) -> dict | None:
    """A message or part, also as a dataclass or a model of pydantic; `None`: it is something else."""
    if dataclasses.is_dataclass(message) and not isinstance(message, type):
        return {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    message = message.model_dump() if hasattr(message, "model_dump") else message
    return dict(message) if isinstance(message, Mapping) else None


def read_part(part, name: str, media: dict[str, list]) -> dict:
    """A part of a message as templates take it, its medium moved to `media`. Servers write {"type": "image_url", "image_url": {"url"}}."""
    known, part = part, as_dict(part)
    if part is None or not isinstance(part.get("type"), str):
        raise ValueError(
            f"{name} is {shown(repr(known))}: give {{'type': 'text', 'text': ...}} or one of {', '.join(KINDS)}."
        )
    kind = part["type"].removesuffix("_url")
    if kind not in KINDS:
        if not isinstance(part.get("text"), str):
            raise ValueError(
                f"{name} is of type {shown(part['type'])!r} without a text: there are text, {', '.join(KINDS)}."
            )
        return part
    keys = (kind, "url", "path", "base64", f"{kind}_url")
    source = next((part[key] for key in keys if part.get(key) is not None), None)
    if part["type"] != kind and isinstance(source, Mapping):
        source = source.get("url")
        part = {"url": source}
    media[kind].append({"frames": source} if kind == "video" and isinstance(source, (list, tuple)) else source)
    return {**part, "type": kind}


def flatten(message: dict, placeholders: dict[str, str]) -> dict:
    """The message with its parts as one string: text as it is, media as their placeholder."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    return {**message, "content": "".join(placeholders.get(part["type"]) or part.get("text", "") for part in content)}


class Rendered(NamedTuple):
    """Conversations as texts; `spans`: for each the (start, end) of what the assistant says in it, where that was asked for."""

    texts: list[str]
    chats: list[Chat]
    is_batched: bool
    spans: list
    tokenizer: object  # the one to encode the texts with


def template_settings(template: str) -> set[str]:
    """The names of what `render_chats` takes besides: the variables of the template, and what transformers renders with."""
    return _get_template_variables(template) | {"tools", "documents", "continue_final_message"}


def render_chats(
    conversation,
    template: str,
    tokenizer,
    placeholders: dict[str, str],
    is_flat: bool = False,
    sanitize_control_tokens: bool = True,
    return_assistant_tokens_mask: bool = False,
    **settings,
) -> Rendered:
    """One conversation or several in the words of a chat template.

    Args:
        placeholders: what stands for each kind of media.
        is_flat: whether the template takes texts alone: then placeholders are put into them here.
        sanitize_control_tokens: whether control tokens in what the conversation, tools, documents and variables hold are text.
        return_assistant_tokens_mask: whether to return the spans.
        settings: what transformers' `apply_chat_template` renders with, and variables of the template.
    """
    if settings.get("continue_final_message") and (
        settings.get("add_generation_prompt") or return_assistant_tokens_mask
    ):
        raise ValueError(
            "continue_final_message goes with neither add_generation_prompt nor return_assistant_tokens_mask."
        )
    chats, is_batched = read_chats(conversation)
    messages, reader = [chat.messages for chat in chats], tokenizer
    if sanitize_control_tokens:
        controls = control_tokens(tokenizer, template, tuple(placeholders.values()))
        messages, settings = controls.mark(messages), controls.mark_variables(settings)
    if is_flat:
        messages = [[flatten(message, placeholders) for message in own] for own in messages]
    render = partial(rendered, chat_template=template, **{**tokenizer.special_tokens_map, **settings})
    is_marked = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None
    texts, spans = render(messages, return_assistant_tokens_mask=return_assistant_tokens_mask and is_marked)
    if return_assistant_tokens_mask and not is_marked:
        ends = [token.content for token in tokenizer.added_tokens_decoder.values()]
        spans = [assistant_spans(*one, render, ends) for one in zip(messages, texts, strict=True)]
    if sanitize_control_tokens:
        reader = reader_of(tokenizer, texts, controls.all)
    return Rendered(texts, chats, is_batched, spans, reader)


def rendered(messages: list[list[dict]], **settings) -> tuple[list[str], list]:
    try:
        return render_jinja_template(messages, **settings)
    except Exception as error:  # whatever the template does with what it was not written for
        words = shown(str(error).replace(MARK, "").partition("\n")[0])
        raise ValueError(f"The chat template does not take this conversation: {words}") from error


def tokenize_chats(tokenizer, conversation, sanitize_control_tokens: bool = True, **options):
    """`apply_chat_template` of a tokenizer alone, of a model that takes only text: on every release, text in the conversation is text.

    A tokenizer without a template takes texts in the place of conversations. `options` are those of a call of the tokenizer, and
    `add_generation_prompt`."""
    add_generation_prompt = options.pop("add_generation_prompt", False)
    options.setdefault("return_token_type_ids", False)
    if tokenizer.chat_template is None:
        controls = control_tokens(tokenizer, "")
        texts = controls.mark(conversation) if sanitize_control_tokens else conversation
        return reader_of(tokenizer, texts, controls.all)(texts, **options)
    template = tokenizer.get_chat_template()
    result = render_chats(
        conversation,
        template,
        tokenizer,
        {},
        is_flat=True,
        sanitize_control_tokens=sanitize_control_tokens,
        add_generation_prompt=add_generation_prompt,
    )
    for chat in result.chats:
        for kind, media in chat.media.items():
            if media:
                raise ValueError(
                    f"The conversation holds {KINDS[kind]}, but the model takes text alone: leave them out."
                )
    return result.tokenizer(result.texts, add_special_tokens=False, **options)


def check_counts(found: list[int], given: list[int], token: str, kind: str) -> None:
    """As many placeholders as media in each sample."""
    for index, (places, media) in enumerate(zip(found, given, strict=True)):
        if places != media:
            raise ValueError(
                f"Sample {index} has {places} {token} in its text but {media} {KINDS[kind]} were given with it."
            )


def assistant_spans(conversation: list[dict], text: str, render, end_tokens: list[str]) -> list[tuple[int, int]]:
    """Where in `text`, the rendered conversation, the assistant speaks: (start, end) of each turn with its end token.

    The conversation is rendered again with a mark in the place of each answer; what stands between the marks is what the
    template writes around the answers."""
    answers = [flatten(message, {}).get("content", "") for message in conversation if message["role"] == "assistant"]
    marks = [f"\ue000{index}\ue001" for index in range(len(answers))]
    waiting, marked = iter(marks), []
    for message in conversation:
        if message["role"] == "assistant":
            mark = next(waiting)
            is_text = isinstance(message.get("content", ""), str)
            message = {**message, "content": mark if is_text else [{"type": "text", "text": mark}]}
        marked.append(message)
    frames = re.split("|".join(map(re.escape, marks)), render([marked])[0][0]) if marks else [text]
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


def mask_answers(outputs, spans: list[list[tuple[int, int]]]) -> None:
    """Adds `assistant_masks` to what a processor returned: 1 for each token in `spans`, the characters of each text that the assistant
    says, before placeholders were repeated; and the attribute `media_spans`: kind, first token and end of each medium in each sample.

    transformers walks over every token in Python, which takes longer than a small model's step."""
    offsets = outputs.pop("offset_mapping")
    replacements = outputs.pop("text_replacement_offsets", None) or [[]] * len(offsets)
    located = [locate(np.asarray(own), *rest) for own, *rest in zip(offsets, replacements, spans, strict=True)]
    outputs["assistant_masks"] = [mask.tolist() for mask, _ in located]
    outputs.media_spans = [found for _, found in located]


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
        if not isinstance(prompt, str):
            raise ValueError(f"The prompt of {task} is {shown(repr(prompt))}: give a text.")
        check_names(task, prompt)
        missing = [name for name in needed.get(task, []) if f"{{{name}}}" not in prompt]
        if missing:
            raise ValueError(f"The prompt of {task} is {prompt!r}: it lacks {{{missing[0]}}}.")


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
