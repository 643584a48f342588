r"""Formats: how data sets become samples, by the name that a source of a recipe has as `format`.

A format is a function `format(record, **options) -> sample`, or a list of samples; the options name the record's columns, with
the names that are usual on the Hub as defaults. `a.b` names a field inside a column, also of each entry of a list. Formats
that bring a prompt of their own take `language`, such as `zh`, of this prompt (training/data/prompts.py).

    format             a record                                                                  data sets of this kind
    messages           messages (text or parts), images, audios, videos                          TRL, LLaMA-Factory
    llava              conversations of {from, value} with <image>, <audio>, <video> marks       LLaVA, ShareGPT
    cauldron           texts of {user, assistant}, images                                        the_cauldron, FineVision
    prompt_answer      any columns, written into a prompt, and an answer; media before it        GSM8K, anything
    labelled_media     image, audio or video, label (the classes in `words`)                     imagefolder, ESC, MNIST
    captions           image, caption (one or several)                                           COCO, Flickr
    vqa                image, question, answer (one or several)                                  VQAv2, GQA
    asr                audio, text                                                               LibriSpeech, LJSpeech
    translation        a text in two languages, in columns or under `translation`                WMT, OPUS
    summarization      document, summary                                                         XSum, SAMSum
    extractive_qa      context, question, answers.text (empty: there is no answer)               SQuAD
    instructions       instruction, input, output                                                Alpaca, Self-Instruct
    text               text: one assistant turn, without a question                              FineWeb, TinyStories
    samples            samples of the sample format                                              training/prepare_data.py

What no record format fits, or what is synthetic, brings its own data (`OWN_DATA`): a function
`load(root: Path, split: str, **options) -> datasets.Dataset` of samples (training/data/samples.py).
"""

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as parquet
from datasets import Dataset

from modeling_mmgpt.chat_templates_mmgpt import substitute
from training.data.prompts import WORDS
from training.data.samples import (
    FEATURES,
    NO_ANSWER,
    DataError,
    assistant_turn,
    find_files,
    make_dataset,
    medium,
    user_turn,
)
from training.data.synthetic.course import load_course, load_demo
from training.data.synthetic.nlvr_scenes import load_nlvr_scenes


ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
MARK = re.compile(r"\s*<(image|audio|video)>\s*")


class BrokenSample(DataError):
    """Something is wrong with one sample; the others can be used."""


class MissingColumn(DataError):
    """A recipe names a column that the data do not have."""


def lookup(record: dict, column: str) -> Any:
    """The value of a column, or of a field inside it (`answers.text`). Raises `BrokenSample` where it is empty."""
    value, keys = record, [column] if column in record else column.split(".")
    for key in keys:
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = [item.get(key) for item in value]
            continue
        if not isinstance(value, dict):
            raise MissingColumn(
                f"there is no column {column!r}: its part {key!r} is asked of a {type(value).__name__}."
            )
        if key not in value:
            nearest = difflib.get_close_matches(key, value, n=1, cutoff=0.0)
            raise MissingColumn(f"there is no column {column!r}; the nearest is {nearest}, of {list(value)}.")
        value = value[key]
        if value is None:
            raise BrokenSample(f"column {column!r} is empty")
    return value


def fill(template: str, record: dict) -> str:
    """The template with each {column} replaced by the record's value; {{ and }} are braces."""
    return substitute(template, lambda column: lookup(record, column))


def media_of(record: dict, column: str | None) -> list[dict]:
    """The media of a column: one or a list, each file bytes, a path or `{"bytes", "path"}`."""
    if column is None:
        return []
    value = lookup(record, column)
    return [as_medium(item, column) for item in (value if isinstance(value, list) else [value])]


def as_medium(item: Any, column: str) -> dict:
    if isinstance(item, bytes):
        return {"bytes": item, "path": None}
    if isinstance(item, str):
        return {"bytes": None, "path": item}
    if isinstance(item, dict) and (item.get("bytes") is not None or item.get("path")):
        return {"bytes": item.get("bytes"), "path": item.get("path")}
    raise BrokenSample(f"column {column!r} holds {type(item).__name__} where a file's bytes or path should be")


def as_words(label: Any, words: list | dict | None) -> str:
    """What a label is called: entry `label` of a list, or of a dict; without words the label itself."""
    if words is None:
        return str(label)
    known = dict(enumerate(words)) if isinstance(words, list) else words
    if label not in known:
        raise BrokenSample(f"label {label!r} has no word among {words}")
    return str(known[label])


# ---- conversations


def messages(
    record: dict,
    messages: str = "messages",
    images: str | None = None,
    audios: str | None = None,
    videos: str | None = None,
) -> dict:
    """Conversations as TRL has them. Media without a part of their own stand before the first question.

    images, audios, videos (`str`, *optional*): columns; by default of these names, where the record has them."""
    columns = {"image": images or "images", "audio": audios or "audios", "video": videos or "videos"}
    found = {kind: media_or_none(record, column) for kind, column in columns.items()}
    turns = []
    for message in lookup(record, messages):
        content = message.get("content")
        if content is None:
            raise BrokenSample(f"a {message.get('role')} turn has no content")
        if isinstance(content, str):
            turns.append({"role": message["role"], "content": split_marks(content)})
            continue
        parts = []
        for part in content:
            kind = part["type"]
            if kind in found:
                inline = part.get(kind) or part.get("path") or part.get("url")
                found[kind] += [as_medium(inline, messages)] if inline else []
                parts.append({"type": kind, "text": None})
            elif kind == "text":
                parts.append({"type": "text", "text": part["text"]})
            else:
                raise BrokenSample(f"a part of a message is of type {kind!r}, which the sample format does not have")
        turns.append({"role": message["role"], "content": parts})
    return conversation_sample(turns, found)


def llava(
    record: dict,
    conversations: str = "conversations",
    image: str | None = "image",
    audio: str | None = None,
    video: str | None = None,
    role: str = "from",
    value: str = "value",
) -> dict:
    """Conversations as LLaVA and ShareGPT have them, each medium at the place of its mark."""
    turns = [
        {"role": ROLES.get(turn[role], turn[role]), "content": split_marks(turn[value])}
        for turn in lookup(record, conversations)
    ]
    columns = {"image": image, "audio": audio, "video": video}
    return conversation_sample(turns, {kind: media_or_none(record, column) for kind, column in columns.items()})


def cauldron(record: dict, texts: str = "texts", images: str = "images") -> dict:
    """Questions and answers about the same images."""
    turns = []
    for text in lookup(record, texts):
        turns += [user_turn(text["user"]), assistant_turn(text["assistant"])]
    return conversation_sample(turns, {"image": media_or_none(record, images)})


def media_or_none(record: dict, column: str | None) -> list[dict]:
    """As `media_of`; text-only samples stand among the others, with nothing in the column or without it."""
    return media_of(record, column) if column is not None and record.get(column) is not None else []


def split_marks(text: str) -> list[dict]:
    """The parts of a text with <image>, <audio> and <video> marks."""
    parts = []
    for index, piece in enumerate(MARK.split(text)):
        if index % 2:
            parts.append({"type": piece, "text": None})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def conversation_sample(turns: list[dict], found: dict[str, list[dict]]) -> dict:
    """The sample of a conversation and its media by kind; those that no part stands for come before the first question."""
    for kind in ("image", "audio", "video"):
        media = found.get(kind, [])
        count = sum(part["type"] == kind for turn in turns for part in turn["content"])
        if not count and media:
            first = next((turn for turn in turns if turn["role"] == "user"), None)
            if first is None:
                raise BrokenSample(f"it has {len(media)} {kind} inputs and no user turn for them")
            first["content"] = [{"type": kind, "text": None}] * len(media) + first["content"]
        elif count != len(media):
            raise BrokenSample(f"its messages have {count} {kind} parts, but it comes with {len(media)}")
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BrokenSample("it has no assistant turn: there is nothing to learn from it")
    return {"messages": turns, **{f"{kind}s": media for kind, media in found.items()}}


# ---- one question, one answer


def prompt_answer(
    record: dict,
    prompt: str,
    answer: str,
    references: list[str] | None = None,
    image: str | None = None,
    audio: str | None = None,
    video: str | None = None,
    words: list | dict | None = None,
    no_answer: str | None = None,
    choices: str | None = None,
) -> dict:
    r"""
    prompt (`str`): the question; `{column}` stands for a value of the record.
    answer (`str`): column of the answer, or of a list of right ones: the most common is the target, all are references.
    references (`list[str]`, *optional*): columns of all right answers, where they stand in several.
    image, audio, video (`str`, *optional*): column of one medium or a list of them, put before the question.
    words (`list` or `dict`, *optional*): what each label in the answer's column is called.
    no_answer (`str`, *optional*): the answer where the list of answers is empty; without it the sample is broken.
    choices (`str`, *optional*): column of a list of choices, put after the question as A, B, C ...; the answer's column
        then has the number of the right one, from 0.
    """
    question = fill(prompt, record)
    given = lookup(record, answer)
    answers = [as_words(item, words) for item in given] if isinstance(given, list) else [as_words(given, words)]
    if choices is not None:
        letters = [chr(ord("A") + index) for index in range(len(lookup(record, choices)))]
        lines = [f"{letter}. {choice}" for letter, choice in zip(letters, lookup(record, choices), strict=True)]
        question, answers = "\n".join([question, *lines]), [as_words(given, letters)]
    if not answers and no_answer is not None:
        answers = [no_answer]
    answers = [text.strip() for text in answers if text.strip()]
    if not answers:
        raise BrokenSample(f"column {answer!r} has no answer")
    learnt = Counter(answers).most_common(1)[0][0]
    if references is not None:
        answers = [str(lookup(record, column)) for column in references]
    found = {"image": media_of(record, image), "audio": media_of(record, audio), "video": media_of(record, video)}
    media = tuple(kind for kind, items in found.items() for _ in items)
    return {
        "messages": [user_turn(question, media), assistant_turn(learnt)],
        "references": answers if len(answers) > 1 else [],
        **{f"{kind}s": items for kind, items in found.items()},
    }


def captions(
    record: dict, prompt: str = WORDS["en"]["captions"], answer: str = "caption", each: bool = False, **options
) -> list[dict]:
    r"""
    each (`bool`, *optional*, defaults to False): a sample for each caption of an image, for training; else one sample with all
        of them as references.
    """
    sample = prompt_answer(record, prompt, answer, **{"image": "image"} | options)
    if not each:
        return [sample]
    question = sample["messages"][0]
    texts = sample["references"] or [sample["messages"][1]["content"][0]["text"]]
    return [{**sample, "messages": [question, assistant_turn(text)], "references": []} for text in texts]


def translation(
    record: dict,
    source: str = "en",
    target: str = "de",
    prompt: str = WORDS["en"]["translation"],
    **options,
) -> dict:
    r"""
    source, target (`str`, *optional*): the languages, which are the names of the columns.
    """
    texts = lookup(record, "translation") if "translation" in record else record
    filled = fill(prompt, {"source": source, "target": target, "text": lookup(texts, source)})
    return prompt_answer({"prompt": filled, "answer": lookup(texts, target)}, "{prompt}", "answer", **options)


def instructions(
    record: dict, instruction: str = "instruction", input: str | None = "input", answer: str = "output", **options
) -> dict:
    r"""
    input (`str`, *optional*): column of what the instruction is about; it may be empty.
    """
    about = record.get(input) if input is not None else None
    prompt = f"{lookup(record, instruction)}\n\n{about}" if about else lookup(record, instruction)
    return prompt_answer({**record, "\0prompt": prompt}, "{\0prompt}", answer, **options)


# ---- plain text


def text(record: dict, text: str = "text", window: int | None = None) -> list[dict]:
    r"""
    text (`str`, *optional*): column of the text.
    window (`int`, *optional*): cut into windows of so many characters, a sample each.
    """
    whole = lookup(record, text)
    if not whole.strip():
        raise BrokenSample(f"column {text!r} is blank")
    window = window or len(whole)
    return [{"messages": [assistant_turn(whole[start : start + window])]} for start in range(0, len(whole), window)]


def samples(record: dict) -> dict:
    """Samples as training/prepare_data.py writes them, with everything that they state of themselves."""
    return {name: value for name, value in record.items() if name in FEATURES and value is not None}


FORMATS: dict[str, Callable[..., dict | list[dict]]] = {
    "messages": messages,
    "llava": llava,
    "cauldron": cauldron,
    "prompt_answer": prompt_answer,
    "labelled_media": partial(prompt_answer, answer="label"),
    "captions": captions,
    "vqa": partial(prompt_answer, prompt="{question}", answer="answer", image="image"),
    "asr": partial(prompt_answer, prompt=WORDS["en"]["asr"], answer="text", audio="audio"),
    "translation": translation,
    "summarization": partial(prompt_answer, prompt=WORDS["en"]["summarization"], answer="summary"),
    "extractive_qa": partial(
        prompt_answer, prompt="{context}\n\n{question}", answer="answers.text", no_answer=NO_ANSWER
    ),
    "instructions": instructions,
    "text": text,
    "samples": samples,
}
RECORD_OPTIONS = ("id", "detokenise", "media_folder")  # of every record format, see SourceArguments


# ---- data sets that bring their own files, or none


def load_fsdd(root: Path, split: str) -> Dataset:
    """Free Spoken Digit Dataset: six English speakers say the digits (Jakobovski et al.); a sample for each clip."""
    table = parquet.read_table(find_files(f"fsdd/{split}.parquet", root)[0], columns=["id", "audio", "label"])
    return make_dataset(
        [
            {
                "id": clip["id"],
                "task": "fsdd",
                "messages": [user_turn("Which digit is spoken?", ("audio",)), assistant_turn(str(clip["label"]))],
                "audios": [medium(clip["audio"])],
            }
            for clip in table.to_pylist()
        ]
    )


def load_easy_vqa(root: Path, split: str, open_only: bool = False) -> Dataset:
    r"""easy-VQA: short questions on drawings of one coloured shape (Victor Zhou).

    open_only (`bool`, *optional*, defaults to False): leave out the questions that are answered by yes or no.
    """
    files = [find_files(f"easy_vqa/{kind}_{split}.parquet", root)[0] for kind in ("images", "questions")]
    images, questions = (parquet.read_table(file).to_pylist() for file in files)
    media = {image["image_id"]: medium(image["image"]) for image in images}
    return make_dataset(
        [
            {
                "id": f"{split}-{index}",
                "task": "easy_vqa",
                "messages": [user_turn(question["question"], ("image",)), assistant_turn(question["answer"])],
                "images": [media[question["image_id"]]],
            }
            for index, question in enumerate(questions)
            if not (open_only and question["answer"] in ("yes", "no"))
        ]
    )


class OwnData(NamedTuple):
    """A format that brings its own data: how they are loaded, and their licence, which stands in the model card."""

    load: Callable[..., Dataset]
    license: str | None = None


DIGITS_LICENSE = "cc-by-4.0 (the digits, from UCI by way of scikit-learn); everything else is synthetic"
OWN_DATA = {
    "demo": OwnData(load_demo, DIGITS_LICENSE),
    "demo_course": OwnData(load_course, DIGITS_LICENSE),
    "easy_vqa": OwnData(load_easy_vqa, "mit"),
    "fsdd": OwnData(load_fsdd, "cc-by-sa-4.0"),
    "nlvr_scenes": OwnData(load_nlvr_scenes, "none: synthetic"),
}


def format_options(name: str) -> list[str]:
    """The options that a format takes."""
    if name in OWN_DATA:
        return sorted(set(inspect.signature(OWN_DATA[name].load).parameters) - {"root", "split"})
    names = set(inspect.signature(FORMATS[name]).parameters)
    if "options" in names:
        names = names - {"options"} | set(inspect.signature(prompt_answer).parameters)
    language = ["language"] if name in WORDS["en"] else []
    return [*sorted(names - {"record"}), *RECORD_OPTIONS, *language]
