"""`mmgpt serve`, asked over HTTP: every line of the table of modeling_mmgpt/SERVING.md, a guard, and many clients at a time."""

import base64
import io
import json
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, save_checkpoint
from modeling_mmgpt.media_sources_mmgpt import STRANGERS
from tests.conftest import TEXT, byte_tokenizer
from tests.test_downloads import serving as web_server
from tests.test_media_loading import clip
from tests.tiny_assistant import RATE
from training.checks import servers


PACKAGES = "the server needs packages: pip install transformers[serving] openai python-multipart"
openai = pytest.importorskip("openai", reason=PACKAGES)
for name in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(name, reason=PACKAGES)

import uvicorn  # noqa: E402
from transformers.cli.serving.model_manager import ModelManager  # noqa: E402

from modeling_mmgpt.tools.request_inputs import Rules, Served  # noqa: E402
from modeling_mmgpt.tools.serve import build_app  # noqa: E402


class Answer(dict):
    """The JSON of an answer, its status, and the words in it: what the model said, or what was wrong."""

    def __init__(self, status: int, content: bytes):
        self.status, self.content = status, content.decode()
        events = re.findall(r"^data: (.*)$", self.content, flags=re.MULTILINE)
        super().__init__({} if events else json.loads(content))
        self.pieces = [self.words_of(event) for event in events]
        self.words = "".join(self.pieces) if events else self.words_of(self.content)

    def words_of(self, text: str) -> str:
        try:
            answer = json.loads(text)
        except ValueError:
            return text
        if "error" in answer:
            return answer["error"]["message"]
        choice = answer["choices"][0] if "choices" in answer else answer
        choice = choice.get("message", choice.get("delta", choice))
        return choice.get("content", choice.get("text")) or ""


class Client:
    def __init__(self, address: str):
        self.address = address

    def post(self, path: str, content: bytes, kind: str = "application/json") -> Answer:
        request = urllib.request.Request(self.address + path, content, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())

    def ask(self, content, **fields) -> Answer:
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 24, **fields}
        return self.post("/v1/chat/completions", json.dumps(body).encode())

    def complete(self, prompt: str, **fields) -> Answer:
        return self.post("/v1/completions", json.dumps({"prompt": prompt, "max_tokens": 8, **fields}).encode())

    def transcribe(self, recording: bytes, **fields) -> Answer:
        mark, parts = uuid.uuid4().hex, []
        for name, value in fields.items():
            parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
        content = b"".join([*parts, head, recording, f"\r\n--{mark}--\r\n".encode()])
        return self.post("/v1/audio/transcriptions", content, f"multipart/form-data; boundary={mark}")


@contextmanager
def answering(served: Served):
    """A client of a server in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(build_app(served), host="127.0.0.1", port=0, log_level="error"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def manager(assistant):
    return ModelManager(device="cpu", force_model=str(assistant))


@pytest.fixture(scope="module")
def client(manager):
    with answering(Served(manager)) as client:
        yield client


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def image(source: bytes | str) -> dict:
    url = source if isinstance(source, str) else data_url(source, "image/png")
    return {"type": "image_url", "image_url": {"url": url}}


def audio(content: bytes) -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": "wav"}}


def video(content: bytes) -> dict:
    return {"type": "video_url", "video_url": {"url": data_url(content, "video/mp4")}}


def wav(wave: np.ndarray, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format=kind)
    return buffer.getvalue()


def large() -> bytes:
    """12 megapixels in a few kilobytes."""
    buffer = io.BytesIO()
    PIL.Image.new("1", (4000, 3000)).save(buffer, format="PNG")
    return buffer.getvalue()


def slowly(client: Client, seconds: float) -> Answer:
    """Begins to send a request, and stops."""
    host, port = client.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        received = b""
        while b"}}" not in received:
            received += connection.recv(4096)
    head, _, body = received.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), body)


class Media:
    """What the lines of the table send: files that the assistant knows, and damaged ones."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.png, self.low = ((folder / name).read_bytes() for name in ("blue.png", "low.wav"))
        self.damaged_flac = wav(soundfile.read(io.BytesIO(self.low))[0], "FLAC")[:200]
        self.describe = [image(self.png), text("Describe the picture.")]


MANY = json.dumps({"messages": [{"role": "user", "content": ""}] * 100_000})
ENDLESS = "[" * 100_000
# The first cell of each line of the table, and the request.
SENT = {
    "text": lambda client, media: client.ask("In French: the dog"),
    "an image as data URL": lambda client, media: client.ask(media.describe),
    "audio as `input_audio`": lambda client, media: client.ask([audio(media.low), text("Heard?")]),
    "a video as data URL": lambda client, media: client.ask([video(clip(num_frames=20)), text("?")]),
    "any of these with `stream: true`": lambda client, media: client.ask(media.describe, stream=True),
    "a text to be continued": lambda client, media: client.complete("Once"),
    "a recording to be transcribed": lambda client, media: client.transcribe(media.low),
    "a damaged image": lambda client, media: client.ask([image(media.png[:60]), text("?")]),
    "a damaged recording in a chat": lambda client, media: client.ask([audio(media.damaged_flac), text("?")]),
    "a damaged recording to be transcribed": lambda client, media: client.transcribe(media.damaged_flac),
    "a damaged video": lambda client, media: client.ask([video(clip()[:400]), text("?")]),
    "audio without samples": lambda client, media: client.ask([audio(wav(np.zeros(0)))]),
    "an image of 100 megapixels": lambda client, media: client.ask([image((media.folder / "bomb.png").read_bytes())]),
    "the path of a file": lambda client, media: client.ask([image(str(media.folder / "blue.png"))]),
    "a `file://` URL": lambda client, media: client.ask([image("file:///etc/hostname")]),
    "a URL of another scheme": lambda client, media: client.ask([image("ftp://example.org/a.png")]),
    "a URL on a private network": lambda client, media: client.ask([image("http://169.254.169.254/a.png")]),
    "a URL that cannot be opened": lambda client, media: client.ask([image("http://no host/a.png")]),
    "a conversation that is too long": lambda client, media: client.ask("word " * 200),
    "millions of letters": lambda client, media: client.ask("x" * 5_000_000),
    "more messages than tokens": lambda client, media: client.post("/v1/chat/completions", MANY.encode()),
    "more than 32 media": lambda client, media: client.ask([image(media.png)] * 33),
    "media of more than 64 MiB decoded": lambda client, media: client.ask([image(large())] * 2),
    "letters that are no text": lambda client, media: client.ask("\ud800"),
    "a message without content": lambda client, media: client.ask(None),
    "a part of an unknown type": lambda client, media: client.ask([{"type": "smell"}]),
    "an image without URL": lambda client, media: client.ask([{"type": "image_url", "image_url": {}}]),
    "no messages": lambda client, media: client.post("/v1/chat/completions", b"{}"),
    'a `temperature` of `"hot"`': lambda client, media: client.ask("Once", temperature="hot"),
    "`max_tokens` below 1": lambda client, media: client.ask("Once", max_tokens=0),
    "a bias for a token that is none": lambda client, media: client.ask("Once", logit_bias={"999999": 1}),
    "`generation_config`, `chat_template_kwargs`": lambda client, media: client.ask("Once", generation_config="{}"),
    "a field that is unknown": lambda client, media: client.ask("Once", colour="red"),
    "a body that is no JSON": lambda client, media: client.post("/v1/completions", b"{'prompt'"),
    "JSON nested without end": lambda client, media: client.post("/v1/completions", ENDLESS.encode()),
    "the name of another model": lambda client, media: client.ask("Once", model="other"),
    "`/load_model`, `/reset`, `/v1/responses`": lambda client, media: client.post("/load_model", b"{}"),
    "more than 32 MiB": lambda client, media: client.complete("x" * (33 * 2**20)),
}


def table() -> dict[str, tuple[int, str]]:
    """What is answered to what is sent: the status, and words of the answer."""
    page = Path("modeling_mmgpt/SERVING.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^\| what was sent .*\n\|[-|]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    cells = [line.strip("|").split(" | ") for line in lines.splitlines()]
    return {sent.strip(): (int(status), words.strip(" `")) for sent, status, words in cells}


def test_every_line_of_the_table_is_sent_and_nothing_else():
    elsewhere = {sent for sent in table() if sent not in SENT}
    assert set(SENT) <= set(table()) and elsewhere == set(TestOperators.SENT)


@pytest.mark.parametrize("sent", SENT)
def test_what_was_sent_is_answered_as_the_table_says(client, assistant, sent):
    status, words = table()[sent]
    answer = SENT[sent](client, Media(assistant.parent))
    assert answer.status == status and words in answer.words, answer.content
    assert client.ask("Once").words == "upon"


class TestOperators:
    """Lines of the table that depend on what the operator decided."""

    SENT = (
        "a URL on an allowed domain",
        "a URL on no allowed domain",
        "a redirect to no allowed domain",
        "media that come too slowly",
        "a request that comes too slowly",
        "a request too many",
        "the path of a file in an allowed folder",
    )

    def check(self, number: int, answer: Answer) -> None:
        status, words = table()[self.SENT[number]]
        assert answer.status == status and words in answer.words, answer.content

    def test_domains(self, manager, assistant):
        with web_server("127.0.0.1") as web, web_server("127.0.0.2") as other:
            web.content = (assistant.parent / "blue.png").read_bytes()
            here = f"http://127.0.0.1:{web.server_port}"
            rules = Rules.of(None, [f"127.0.0.1:{web.server_port}"], True, ["download_seconds=1"])
            with answering(Served(manager, rules)) as client:
                self.check(0, client.ask([image(f"{here}/a.png"), text("Describe the picture.")]))
                there = f"http://127.0.0.2:{other.server_port}/a.png"
                self.check(1, client.ask([image(there)]))
                self.check(2, client.ask([image(f"{here}/to/{there}")]))
                self.check(3, client.ask([image(f"{here}/slow")]))
            assert other.asked == []

    def test_one_slow_client_delays_nobody(self, manager):
        with web_server("127.0.0.1") as web:
            rules = Rules.of(None, [f"127.0.0.1:{web.server_port}"], True, ["download_seconds=3"])
            url = f"http://127.0.0.1:{web.server_port}/slow"
            with answering(Served(manager, rules)) as client, ThreadPoolExecutor(8) as threads:
                assert client.ask("Once").words == "upon"
                slow = [threads.submit(client.ask, [image(url)]) for _ in range(8)]
                started = time.monotonic()
                assert client.ask("Once").words == "upon" and not any(one.done() for one in slow)
                assert time.monotonic() - started < 2
                assert {one.result().status for one in slow} == {400}

    def test_requests_that_are_slow_or_too_many(self, manager):
        with answering(Served(manager, Rules(body_seconds=1, requests=1))) as client, ThreadPoolExecutor(1) as threads:
            slow = threads.submit(slowly, client, 1)
            time.sleep(0.3)
            self.check(5, client.ask("Once"))
            self.check(4, slow.result())
            assert client.ask("Once").words == "upon"

    def test_folders(self, manager, assistant):
        folder = assistant.parent
        with answering(Served(manager, Rules.of([folder], None, False, None))) as client:
            self.check(6, client.ask([image(str(folder / "blue.png")), text("Describe the picture.")]))
            assert "outside the allowed folders" in client.ask([image("/etc/hostname")]).words
            assert "is not downloaded here" in client.ask([image("http://example.org/a.png")]).words

    def test_mistakes_of_the_operator_are_named(self):
        for limit in ("image_pixel=9", "image_pixels", "image_pixels=many"):
            with pytest.raises(ValueError, match=rf"--limit {limit}: give name=number, with one of image_side"):
                Rules.of(None, None, True, [limit])
        assert Rules.of(None, None, True, ["image_pixels=9"]).limits.image_pixels == 9
        assert Rules.of(None, None, True, None).policy == STRANGERS


class TestAnswers:
    def test_a_stream_comes_in_pieces(self, client, assistant):
        media = Media(assistant.parent)
        for answer in (client.ask("In French: the dog", stream=True), client.ask(media.describe, stream=True)):
            assert len([piece for piece in answer.pieces if piece]) > 1
        assert client.complete("Once", stream=True).pieces
        assert client.transcribe(media.low, stream="true").words == "low"

    def test_answers_end_where_the_model_does(self, client):
        """Asked for more tokens than it has places for, it stops there; this answer has no end of its own."""
        answer = client.ask("?", max_tokens=10**9, logit_bias={"3": -100})
        assert answer["usage"]["total_tokens"] == 256 and answer["choices"][0]["finish_reason"] == "length"

    def test_the_name_of_the_model_is_not_its_path(self, client, assistant):
        answer = client.ask("Once")
        assert answer["model"] == assistant.name and str(assistant.parent) not in answer.content
        assert client.ask("Once", model=assistant.name).status == 200
        assert client.ask("Once", model=str(assistant)).status == 200

    def test_many_clients_good_and_bad(self, client, assistant):
        media = Media(assistant.parent)
        good = [(SENT[name], table()[name][1]) for name in list(SENT)[:3]]
        bad = [SENT[name] for name in SENT if table()[name][0] >= 400 and "32 MiB" not in name]

        def one(number: int) -> bool:
            if number % 3 == 2:
                return 400 <= bad[number % len(bad)](client, media).status < 500
            send, words = good[number % len(good)]
            return send(client, media).words == words

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(one, range(60)))

    def test_a_text_only_model(self, tmp_path):
        torch.manual_seed(0)
        save_checkpoint(tmp_path / "text", MMGPTForCausalLM(MMGPTTextConfig(**TEXT)), byte_tokenizer())
        with answering(Served(ModelManager(device="cpu", force_model=str(tmp_path / "text")))) as client:
            assert client.complete("Once")["usage"]["completion_tokens"] == 8
            assert "this model takes no image" in client.ask([image(b"") | {"image_url": {"url": "a"}}]).words
            assert client.ask("Once").status == 400, "without a chat template"
            assert client.transcribe(b"").status == 400


class TestGuard:
    """Any callable; it withholds questions and answers, at once and streamed."""

    @pytest.fixture(scope="class")
    def guarded(self, manager):
        seen = []

        def guard(words, images):
            seen.append((words, len(images)))
            return "bad words" if "French" in words or "blue" in words else None

        with answering(Served(manager, Rules(guard=guard))) as client:
            client.seen = seen
            yield client

    @pytest.mark.parametrize("stream", [False, True])
    def test_questions_and_answers(self, guarded, assistant, stream):
        media, withheld = Media(assistant.parent), "The answer was withheld (bad words)."
        assert guarded.ask("In French: cat", stream=stream).words == withheld
        assert guarded.seen[-1] == ("In French: cat", 0), "the answer was not even made"
        assert guarded.ask(media.describe, stream=stream).words == withheld
        assert guarded.seen[-2:] == [("Describe the picture.", 1), ("a blue one", 0)]
        assert guarded.ask("Once", stream=stream).words == "upon"
        assert guarded.complete("In French: cat", stream=stream).words == withheld
        assert guarded.complete("Once", stream=stream).words != withheld
        assert guarded.transcribe(media.low, stream=str(stream).lower()).words == "low"

    def test_the_reason_to_finish_says_so(self, guarded):
        answer = guarded.ask("In French: cat")
        assert answer["choices"][0]["finish_reason"] == "content_filter"
        assert guarded.ask("Once")["choices"][0]["finish_reason"] == "stop"


def test_the_command_serves_and_the_snippet_of_the_page_runs(assistant, tmp_path, monkeypatch, capsys):
    page = Path("modeling_mmgpt/SERVING.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "openai" in block)
    for name, file in (("image.png", "red.png"), ("audio.wav", "low.wav")):
        (tmp_path / name).write_bytes((assistant.parent / file).read_bytes())
    command = [sys.executable, "-m", "modeling_mmgpt.tools.cli", "serve", str(assistant), "--device", "cpu"]
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    with servers.serving(command, tmp_path / "server.log", seconds=180) as (address, _):
        monkeypatch.chdir(tmp_path)
        code = code.replace("http://localhost:8000", address).replace("outputs/demo/model", str(assistant))
        exec(compile(code, "SERVING.md", "exec"), {})
        assert capsys.readouterr().out.endswith("low\n")
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="is not an image that can be read"):
            client.chat.completions.create(model="model", messages=[{"role": "user", "content": [image(b"no")]}])
        assert [model.id for model in client.models.list()] == ["model"]
    assert f"model answers at {address}/v1" in (tmp_path / "server.log").read_text()
