"""`mmgpt serve`: transformers' own server for clients that nobody knows.

The library's handlers make the answers. What reaches them was read, fetched, decoded and turned into tensors here, in threads of its
own, under a policy and within limits: a slow or hostile client delays nobody, and is told what was wrong with its request.

request -> form (request_forms.py) -> media fetched -> media decoded -> guard -> tensors -> the library's handler -> guard -> answer
"""

import asyncio
import copy
import json
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import BatchFeature
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerationState

from .. import register
from ..chat_templates_mmgpt import tokenize_chats
from ..collating_mmgpt import PARTS
from ..guarding_mmgpt import as_guard, withheld
from ..media_sources_mmgpt import STRANGERS, Limits, MediaPolicy, naming, read_bytes
from ..requests_mmgpt import check_length, longest_input, shown
from .chat import require_folder
from .request_forms import check_fields, check_letters, check_messages, texts_of


# Below those of a program that trusts its input: several requests are decoded at a time.
SERVER_LIMITS = Limits(
    image_pixels=25_000_000,
    request_pixels=50_000_000,
    audio_seconds=600,
    audio_bytes=128 * 2**20,
    video_seconds=600,
    video_bytes=128 * 2**20,
    download_bytes=20 * 2**20,
    download_seconds=10,
)
FETCHERS, DECODERS = 32, 2  # threads
DRAINED = 4  # times the largest body are read of one that is larger, so that its client gets to the answer


@dataclass(frozen=True)
class Rules:
    """What a server's operator decides."""

    policy: MediaPolicy = STRANGERS
    limits: Limits = SERVER_LIMITS
    guard: object = None  # see guarding_mmgpt.py
    body_bytes: int = 32 * 2**20
    body_seconds: float = 60  # for a client to send its request
    requests: int = 64  # at a time
    new_tokens: int = 4096  # of an answer


class Prepared:
    """A processor whose chat template was applied before."""

    def __init__(self, processor, inputs):
        self.processor, self.inputs = processor, inputs

    def apply_chat_template(self, *args, **kwargs):
        return self.inputs

    def __call__(self, *args, **kwargs):
        return self.processor(*args, **kwargs)

    def __getattr__(self, name: str):
        return getattr(self.processor, name)


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
        self.fetchers, self.decoders = ThreadPoolExecutor(FETCHERS), ThreadPoolExecutor(DECODERS)

    def limits_of(self, processor) -> Limits:
        return self.rules.limits.lowered(**getattr(processor, "media_limits", {}))

    def check_model(self, name: str | None) -> None:
        if name not in (None, self.name, self.manager.force_model):
            raise HTTPException(
                404, f"There is no model {shown(name)!r} here: this server answers with {self.name!r}."
            )

    def check_text(self, *texts: str) -> None:
        """Refuses what is certainly too long before a tokenizer makes it millions of tokens."""
        for text in texts:
            check_letters(text, "The text")
        length = sum(map(len, texts))
        if self.longest is not None and length > self.longest * self.longest_token:
            check_length(self.longest, length // self.longest_token)

    def check_biases(self, biases: dict | None) -> None:
        unknown = [key for key in biases or {} if int(key) >= self.vocab_size]
        if unknown:
            raise ValueError(
                f"logit_bias: the model has no token {shown(unknown[0], 20)}, only {self.vocab_size:,} tokens."
            )

    async def open_media(self, messages: list[dict]) -> list:
        """Opens all media of messages that the library has brought into the form of processors, in place; returns the images."""
        images, pixels = [], 0
        for number, message in enumerate(messages):
            for index, part in enumerate(message["content"] if isinstance(message["content"], list) else []):
                if part["type"] == "text":
                    continue
                kind, name = part["type"], f"messages[{number}].content[{index}]"
                medium = await self.open_medium(kind, part.pop("url"), name)
                part[kind] = medium
                if kind == "image":
                    images.append(medium)
                    pixels += medium.width * medium.height
                if pixels > self.preparing.limits.request_pixels:
                    limit = self.preparing.limits.request_pixels
                    raise ValueError(f"{name}: the images of a request have at most {limit:,} pixels: send fewer.")
        return images

    async def open_medium(self, kind: str, source: str | bytes, name: str):
        """Fetched by many threads at a time, since they wait, and decoded by few, since that takes memory."""
        loop, preparing = asyncio.get_running_loop(), self.preparing
        with naming(name):
            read = partial(read_bytes, source, preparing.media_policy, preparing.limits)
            content = await loop.run_in_executor(self.fetchers, read)
        return await loop.run_in_executor(self.decoders, preparing.load_medium, kind, content, name)

    async def in_thread(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function, *args)

    def render(self, conversation: list[dict], tools: list[dict] | None) -> BatchFeature:
        if self.processor.chat_template is None:
            raise ValueError("This model has no chat template: it continues texts, at /v1/completions.")
        if not self.takes:
            return self.tensors(tokenize_chats, self.preparing, [conversation], add_generation_prompt=True)
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "tools": tools}
        return self.tensors(self.preparing.apply_chat_template, conversation, **options)

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


class Body(dict):
    """What a client sent, with what was prepared of it."""

    inputs: BatchFeature | None = None
    length: int = 0  # of the prompt, in tokens


class Answering:
    """What the handlers of chats and completions share: one model, answers within its length, and a guard."""

    def __init__(self, served: Served):
        super().__init__(served.manager, served.state)
        self.served = served

    def _resolve_model(self, body: Body):
        served = self.served
        processor = served.processor if body.inputs is None else Prepared(served.processor, body.inputs)
        return served.name, served.model, processor

    def _build_generation_config(self, body: Body, *args, **kwargs):
        config = super()._build_generation_config(body, *args, **kwargs)
        longest = self.served.rules.new_tokens
        if self.served.longest is not None:
            longest = min(longest, self.served.longest - body.length)
        config.max_new_tokens = min(config.max_new_tokens, longest)
        return config

    async def guarded(self, body: Body, request_id: str, text: str, images: list) -> Response:
        """The library's answer, unless the guard withholds it. A stream waits until the guard has read all of the answer."""
        guard, in_thread = self.served.rules.guard, self.served.in_thread
        if guard is None:
            return await super().handle_request(body, request_id)
        stream = body.pop("stream", None)
        refusal = await in_thread(withheld, guard, text, images)
        if refusal is None:
            answer = json.loads((await super().handle_request(body, request_id)).body)
            refusal = await in_thread(withheld, guard, self.said(answer["choices"][0]))
        if refusal is not None:
            answer = self.refuse(refusal, request_id)
        return self.stream(answer) if stream else JSONResponse(answer)


def one_event(answer: dict) -> StreamingResponse:
    return StreamingResponse(iter([f"data: {json.dumps(answer)}\n\n"]), media_type="text/event-stream")


class Chats(Answering, ChatCompletionHandler):
    async def handle_request(self, body: Body, request_id: str) -> Response:
        served, messages = self.served, body.get("messages")
        if messages is None:
            raise ValueError("messages is missing: give the conversation.")
        self._validate_request(body)
        check_messages(messages, served.takes)
        served.check_biases(body.get("logit_bias"))
        if body.get("logit_bias"):
            body["logit_bias"] = {token: float(bias) for token, bias in body["logit_bias"].items()}
        texts = list(texts_of(messages))
        served.check_text(*texts, *([json.dumps(body["tools"])] if body.get("tools") else []))
        conversation = self.get_processor_inputs_from_messages(messages, served.modality)
        images = await served.open_media(conversation)
        body.inputs = await served.in_thread(served.render, conversation, body.get("tools"))
        body.length = body.inputs["input_ids"].shape[1]
        body["messages"] = []  # from here on the tensors stand for them
        return await self.guarded(body, request_id, "\n".join(texts), images)

    def said(self, choice: dict) -> str:
        message = choice["message"]
        calls = message.get("tool_calls")
        return (message.get("content") or "") + (json.dumps(calls) if calls else "")

    def refuse(self, sentence: str, request_id: str) -> dict:
        return self._build_completion(request_id, sentence, self.served.name, finish_reason="content_filter")

    def stream(self, answer: dict) -> StreamingResponse:
        choice = answer["choices"][0]
        calls = [{"index": index, **call} for index, call in enumerate(choice["message"].get("tool_calls") or [])]
        delta = choice["message"] | ({"tool_calls": calls} if calls else {})
        choice = {"index": 0, "delta": delta, "finish_reason": choice["finish_reason"]}
        return one_event({**answer, "object": "chat.completion.chunk", "choices": [choice]})


class Completions(Answering, CompletionHandler):
    async def handle_request(self, body: Body, request_id: str) -> Response:
        served, prompt = self.served, body.get("prompt") or ""
        served.check_text(prompt)
        tokenizer = getattr(served.preparing, "tokenizer", served.preparing)
        inputs = await served.in_thread(served.tensors, tokenizer, prompt)
        body.length = inputs["input_ids"].shape[1]
        return await self.guarded(body, request_id, prompt, [])

    def said(self, choice: dict) -> str:
        return choice["text"]

    def refuse(self, sentence: str, request_id: str) -> dict:
        chunk = self._build_chunk_sse(request_id, self.served.name, text=sentence, finish_reason="content_filter")
        return json.loads(chunk.removeprefix("data: "))

    def stream(self, answer: dict) -> StreamingResponse:
        return one_event(answer)


class Transcriptions(TranscriptionHandler):
    def __init__(self, served: Served):
        super().__init__(served.manager, served.state)
        self.served = served

    async def handle_request(self, form) -> Response:
        served, guard = self.served, self.served.rules.guard
        self._validate_request(set(form))
        served.check_model(form.get("model"))
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise ValueError("file is missing: send the recording as a file of a multipart form.")
        if "audio" not in served.takes:
            raise ValueError("This model takes no audio.")
        waveform = await served.open_medium("audio", await file.read(), "file")
        rate = served.preparing.feature_extractor.sampling_rate
        inputs = await served.in_thread(partial(served.tensors, served.preparing, waveform, sampling_rate=rate))
        manager = served.state.get_manager(served.name)
        answering = manager, served.model, served.processor, inputs
        stream = form.get("stream") == "true"
        if stream and guard is None:
            return self._streaming(*answering)
        answer = await self._non_streaming(*answering)
        text = json.loads(answer.body)["text"]
        text = await served.in_thread(withheld, guard, text) or text
        if stream:
            return StreamingResponse(iter([f"data: {text}\n\n"]), media_type="text/event-stream")
        return JSONResponse({"text": text})


# The server ---------------------------------------------------------------------------------------------------------


class Door:
    """Counts requests, and refuses those that are too many."""

    def __init__(self, app, most: int):
        self.app, self.most, self.inside = app, most, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self.inside >= self.most:
            return await refuse(429, "Too many requests are being answered: ask again later.")(scope, receive, send)
        self.inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside -= 1


def refuse(status: int, reason: str) -> JSONResponse:
    """In the form of OpenAI's interface."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": reason.encode("utf-8", "backslashreplace").decode(), "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status)


async def read_body(request: Request, rules: Rules) -> bytes:
    """All of it, in no more than so many bytes and seconds."""
    parts, size = [], 0
    async with asyncio.timeout(rules.body_seconds):
        async for part in request.stream():
            size += len(part)
            if size > DRAINED * rules.body_bytes:
                break
            if size <= rules.body_bytes:
                parts.append(part)
    if size > rules.body_bytes:
        raise HTTPException(413, f"The request has more than {rules.body_bytes:,} bytes: send smaller or fewer media.")
    return b"".join(parts)


def build_app(served: Served) -> Door:
    chats, completions, transcriptions = (kind(served) for kind in (Chats, Completions, Transcriptions))

    def answering(handler):
        async def endpoint(request: Request) -> Response:
            try:
                body = await served.in_thread(json.loads, await read_body(request, served.rules))
            except ValueError as error:
                raise ValueError(f"The body is not JSON: {shown(error)}") from error
            check_fields(body)
            served.check_model(body.get("model"))
            return await handler.handle_request(Body(body), uuid.uuid4().hex)

        return endpoint

    async def transcribe(request: Request) -> Response:
        form = await Request(request.scope, replay(await read_body(request, served.rules))).form(
            max_files=1, max_fields=16
        )
        return await transcriptions.handle_request(form)

    async def models(request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"id": served.name, "object": "model", "created": 0, "owned_by": "local"}]}
        )

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/v1/chat/completions", answering(chats), methods=["POST"]),
        Route("/v1/completions", answering(completions), methods=["POST"]),
        Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
    ]
    return Door(Starlette(routes=routes, exception_handlers=EXCEPTIONS), served.rules.requests)


def replay(content: bytes):
    async def receive() -> dict:
        return {"type": "http.request", "body": content}

    return receive


async def with_own_status(request: Request, error: HTTPException) -> Response:
    if error.detail in ("Not Found", "Method Not Allowed"):
        return refuse(error.status_code, f"{request.method} {shown(request.url.path)} is not offered here.")
    return refuse(error.status_code, str(error.detail))


def with_status(status: int, reason: str | None = None):
    async def handle(request: Request, error: Exception) -> Response:
        return refuse(status, reason or str(error))

    return handle


EXCEPTIONS = {
    HTTPException: with_own_status,
    ClientDisconnect: with_status(400, "The client left."),
    ValueError: with_status(400),
    OSError: with_status(400),
    jinja2.TemplateError: with_status(400),
    RecursionError: with_status(400, "The body is nested too deeply."),
    TimeoutError: with_status(408, "The request did not arrive in time."),
    ImportError: with_status(501),
    torch.OutOfMemoryError: with_status(503, "The request takes more memory than there is: send less."),
    Exception: with_status(500, "The server has made a mistake; its log has the reason."),
}


def rules_of(
    folders: list[Path] | None, domains: list[str] | None, downloads: bool, limits: list[str] | None
) -> Rules:
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
    return Rules(policy, replace(SERVER_LIMITS, **changed))


def serve(folder: str, rules: Rules, host: str, port: int, device: str | None, dtype: str, guard: Any = None) -> None:
    """Answers until it is stopped."""
    require_folder(folder)
    register()
    manager = ModelManager(device=device or "auto", dtype=dtype, force_model=folder)
    served = Served(manager, replace(rules, guard=as_guard(guard)))
    print(f"{served.name} answers at http://{host}:{port}/v1", flush=True)
    uvicorn.run(build_app(served), host=host, port=port, log_level="warning")
