"""What a client sent, turned into tensors under the operator's rules: media fetched, decoded and counted, text bounded, in threads.

Fetching waits for others, so many threads do it. Decoding takes memory, so few requests are at it at a time, each within a bound.
"""

import asyncio
import copy
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
from starlette.exceptions import HTTPException
from transformers import BatchFeature
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState

from ..chat_templates_mmgpt import tokenize_chats
from ..collating_mmgpt import PARTS
from ..media_sources_mmgpt import STRANGERS, Limits, MediaPolicy, naming, read_bytes
from ..requests_mmgpt import check_length, longest_input, shown
from .request_forms import check_letters, check_messages, media_places, texts_of


# Below those of a program that trusts its input: several requests are decoded at a time.
SERVER_LIMITS = Limits(
    image_pixels=20_000_000,
    audio_seconds=600,
    audio_bytes=64 * 2**20,
    video_seconds=60,
    video_bytes=64 * 2**20,
    download_bytes=20 * 2**20,
    download_seconds=10,
)
FETCHERS, WORKERS = 32, 4  # threads
HEAVY = (
    2**20,
    12 * 2**20,
)  # bytes of a file, and decoded: one request with more of either is decoded at a time, beside the others
LONGEST_TEXT = 1_000_000  # characters, for a model that reads texts of any length


@dataclass(frozen=True)
class Rules:
    """What a server's operator decides."""

    policy: MediaPolicy = STRANGERS
    limits: Limits = SERVER_LIMITS
    guard: Any = None  # see guarding_mmgpt.py
    body_bytes: int = 32 * 2**20
    body_seconds: float = 60  # for a client to send its request
    requests: int = 64  # at a time
    new_tokens: int = 4096  # of an answer
    media: int = 32  # in a request
    media_bytes: int = 64 * 2**20  # of all of them, decoded

    @classmethod
    def of(
        cls, folders: list[Path] | None, domains: list[str] | None, downloads: bool, limits: list[str] | None
    ) -> "Rules":
        """What the command line allows."""
        known = [field.name for field in fields(Limits)]
        changed = {}
        for limit in limits or []:
            name, _, value = limit.partition("=")
            if name not in known or not value.replace(".", "", 1).isdecimal():
                raise ValueError(f"--limit {limit}: give name=number, with one of {', '.join(known)}.")
            changed[name] = type(getattr(SERVER_LIMITS, name))(float(value))
        policy = replace(
            STRANGERS,
            paths=bool(folders),
            folders=tuple(map(str, folders)) if folders else None,
            downloads=downloads,
            domains=None if domains is None else tuple(domains),
        )
        return cls(policy, replace(SERVER_LIMITS, **changed))


@dataclass
class Served:
    """A model with what prepares requests to it."""

    manager: ModelManager
    rules: Rules = Rules()
    state: GenerationState = field(default_factory=GenerationState)

    def __post_init__(self):
        folder = self.manager.force_model
        self.name = Path(folder).name if os.path.isdir(folder) else folder
        name = self.manager.process_model_name(folder)
        self.model, self.processor = self.manager.load_model_and_processor(name)
        self.preparing = copy.deepcopy(self.processor)  # a tokenizer cannot be used in two threads at a time
        self.preparing.media_policy, self.preparing.limits = self.rules.policy, self.limits_of(self.processor)
        self.lock = threading.Lock()
        self.takes = {kind for kind, part in PARTS.items() if hasattr(self.processor, part)}
        self.modality = self.manager.get_model_modality(self.model, processor=self.processor)
        config = self.model.config.get_text_config()
        self.longest = longest_input(config)
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.longest_token = max(map(len, tokenizer.get_vocab()))  # characters
        self.vocab_size = config.vocab_size
        self.fetchers, self.workers = ThreadPoolExecutor(FETCHERS), ThreadPoolExecutor(WORKERS)
        self.rooms = {False: asyncio.Semaphore(2), True: asyncio.Semaphore(1)}  # for what is decoded, light and heavy

    def limits_of(self, processor) -> Limits:
        return self.rules.limits.lowered(**getattr(processor, "media_limits", {}))

    def check_model(self, name: str | None) -> None:
        if name not in (None, self.name, self.manager.force_model):
            raise HTTPException(
                404, f"There is no model {shown(name)!r} here: this server answers with {self.name!r}."
            )

    def check_text(self, *texts: str, pieces: int = 1) -> None:
        """Refuses what is certainly too long before a tokenizer makes it millions of tokens; each of the `pieces` is one at least."""
        for text in texts:
            check_letters(text, "The text")
        length = sum(map(len, texts))
        if self.longest is not None:
            certain = max(length // self.longest_token, pieces)
            if certain > self.longest:
                check_length(self.longest, certain)
        elif max(length, pieces) > LONGEST_TEXT:
            raise ValueError(
                f"The text has {length:,} characters, but {LONGEST_TEXT:,} are read at the most: shorten it."
            )

    def check_biases(self, biases: dict | None) -> None:
        unknown = [key for key in biases or {} if int(key) >= self.vocab_size]
        if unknown:
            raise ValueError(
                f"logit_bias: the model has no token {shown(unknown[0], 20)}, only {self.vocab_size:,} tokens."
            )

    def check_chat(self, body: dict) -> list[str]:
        """Refuses a chat that cannot be answered, by its form; returns its texts."""
        messages = body.get("messages")
        if messages is None:
            raise ValueError("messages is missing: give the conversation.")
        check_messages(messages, self.takes)
        self.check_biases(body.get("logit_bias"))
        texts = list(texts_of(messages))
        tools = [json.dumps(body["tools"])] if body.get("tools") else []
        media = list(media_places(messages))
        self.check_text(*texts, *tools, pieces=len(messages) + len(media))
        if len(media) > self.rules.media:
            raise ValueError(
                f"The request has {len(media)} images, audio clips and videos, but takes {self.rules.media}: send fewer."
            )
        return texts

    async def prepare_chat(self, conversation: list[dict], tools: list[dict] | None) -> tuple[BatchFeature, list]:
        """The tensors of a conversation that the library has brought into the form of processors, and its images."""
        parts = [(name, message["content"][index]) for name, message, index in media_places(conversation)]
        size, is_heavy = 0, False
        for name, part in parts:
            content = part["content"] = await self.fetch(part.pop("url"), name)
            size += len(content)
            if size > self.rules.body_bytes:
                raise ValueError(
                    f"{name}: with it the media of this request have more than {self.rules.body_bytes:,} bytes."
                )
            is_heavy |= part["type"] == "video" or size > HEAVY[0] or decoded_bytes(part["type"], content) > HEAVY[1]
        async with self.rooms[is_heavy]:
            return await self.in_thread(self.render, conversation, parts, tools)

    async def prepare_recording(self, content: bytes) -> BatchFeature:
        def render() -> BatchFeature:
            waveform = self.preparing.load_medium("audio", content, "file")
            return self.tensors(self.preparing, waveform, sampling_rate=self.preparing.feature_extractor.sampling_rate)

        async with self.rooms[len(content) > HEAVY[0]]:
            return await self.in_thread(render)

    async def fetch(self, source: str, name: str) -> bytes:
        read = partial(read_bytes, source, self.preparing.media_policy, self.preparing.limits)
        with naming(name):
            return await asyncio.get_running_loop().run_in_executor(self.fetchers, read)

    async def in_thread(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self.workers, function, *args)

    def render(self, conversation: list[dict], parts: list[tuple[str, dict]], tools) -> tuple[BatchFeature, list]:
        if self.processor.chat_template is None:
            raise ValueError("This model has no chat template: it continues texts, at /v1/completions.")
        if not self.takes:
            return self.tensors(tokenize_chats, self.preparing, [conversation], add_generation_prompt=True), []
        size, images, most = 0, [], self.rules.media_bytes
        for name, part in parts:
            kind, content = part["type"], part.pop("content")
            size += decoded_bytes(kind, content)
            if size <= most or part is parts[0][1]:  # for one alone its own limits hold
                medium = part[kind] = self.preparing.load_medium(kind, content, name)
                size += 0 if kind == "image" else array_of(medium).nbytes
                images += [medium] if kind == "image" else []
            if size > most and len(parts) > 1:
                raise ValueError(
                    f"{name}: with it the media of this request take more than {most:,} bytes decoded: send less."
                )
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "tools": tools}
        return self.tensors(self.preparing.apply_chat_template, conversation, **options), images

    def tensors(self, prepare, *args, **kwargs) -> BatchFeature:
        with self.lock:
            inputs = prepare(*args, return_tensors="pt", **kwargs)
        length = inputs["input_ids"].shape[1]
        check_length(self.longest, length)
        dtype = self.model.dtype
        return BatchFeature(
            {
                name: tensor.to(self.model.device, dtype if tensor.is_floating_point() else None)
                for name, tensor in inputs.items()
            }
        )


def decoded_bytes(kind: str, content: bytes) -> int:
    """What an image says that it will take; 0 for what says nothing of that at its beginning."""
    if kind != "image":
        return 0
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            return 3 * image.width * image.height
    except Exception:  # whatever Pillow trips over is said when it is opened
        return 0


def array_of(medium):
    """The numbers of audio or a video as it was opened."""
    return medium["frames"] if isinstance(medium, dict) else medium
