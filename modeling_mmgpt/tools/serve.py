"""`mmgpt serve`: transformers' own server for clients that nobody knows.

The library's handlers make the answers. What reaches them was read, fetched, decoded and turned into tensors here, in threads of its
own, under a policy and within limits: a slow or hostile client delays nobody, and is told what was wrong with its request.

request -> form (request_forms.py) -> media fetched -> media decoded -> guard -> tensors -> the library's handler -> guard -> answer
"""

import asyncio
import json
import uuid
from dataclasses import replace
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

from .. import register
from ..guarding_mmgpt import as_guard, withheld
from ..requests_mmgpt import shown
from .chat import require_folder
from .request_forms import check_fields
from .request_inputs import Rules, Served


DRAINED = 4  # times the largest body are read of one that is larger, so that its client gets to the answer


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
        served = self.served
        self._validate_request(body)
        conversation, texts = await served.in_thread(self.read, body)
        body.inputs, images = await served.prepare_chat(conversation, body.get("tools"))
        body.length = body.inputs["input_ids"].shape[1]
        body["messages"] = []  # from here on the tensors stand for them
        return await self.guarded(body, request_id, "\n".join(texts), images)

    def read(self, body: Body) -> tuple[list[dict], list[str]]:
        """The conversation in the form of processors, and its texts."""
        texts = self.served.check_chat(body)
        if body.get("logit_bias"):
            body["logit_bias"] = {token: float(bias) for token, bias in body["logit_bias"].items()}
        if body.get("max_completion_tokens") is not None:  # releases before 5.23 know the older name alone
            body["max_tokens"] = body.pop("max_completion_tokens")
        return self.get_processor_inputs_from_messages(body["messages"], self.served.modality), texts

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
        await served.in_thread(served.check_text, prompt)
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
        inputs = await served.prepare_recording(await file.read())
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


def serve(folder: str, rules: Rules, host: str, port: int, device: str | None, dtype: str, guard: Any = None) -> None:
    """Answers until it is stopped."""
    require_folder(folder)
    register()
    manager = ModelManager(device=device or "auto", dtype=dtype, force_model=folder)
    served = Served(manager, replace(rules, guard=as_guard(guard)))
    print(f"{served.name} answers at http://{host}:{port}/v1", flush=True)
    uvicorn.run(build_app(served), host=host, port=port, log_level="warning")
