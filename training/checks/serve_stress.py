r"""Does `mmgpt serve` answer everybody when a third of its clients is hostile? Real processes, real HTTP, eight requests at a time.

    python -m training.checks.serve_stress                          # a small model with random weights
    python -m training.checks.serve_stress --model outputs/demo/model --requests 300

Prints how many requests of each kind were answered as they must be (the good ones with status 200, the others with 4xx and a reason),
what memory the server took beyond what it had before, and how much slower the good requests were than the same ones at the same
arrival times without the others (the median of three). Ends with status 1 where a limit is not kept.
"""

import argparse
import base64
import http.client
import http.server
import io
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import soundfile
import torch

from modeling_mmgpt import save_checkpoint
from training.checks.servers import serving
from training.model_building import build_model
from training.recipe import ModelArguments
from training.train_tokenizer import train_tokenizer


AT_A_TIME = 8
MEMORY = 200 * 2**20  # bytes beyond those before
SLOWER = 1.2  # times the 95th percentile
REPEATS = 3
WARM_UP = 24  # requests
ANSWER = {"max_tokens": 16}
JSON, CHAT, TEXT, SPEECH = "application/json", "/v1/chat/completions", "/v1/completions", "/v1/audio/transcriptions"


@dataclass(frozen=True)
class Request:
    kind: str
    path: str
    body: bytes
    is_good: bool = True
    content_type: str = JSON
    seconds: float = 0  # over which the body is sent


@dataclass(frozen=True)
class Outcome:
    request: Request
    start: float  # seconds from the beginning of the run
    seconds: float
    status: int
    reason: str

    @property
    def is_right(self) -> bool:
        if self.request.is_good:
            return self.status == 200 and not self.reason
        return 400 <= self.status < 500 and bool(self.reason)


# Media ---------------------------------------------------------------------------------------------------------------


def png(seed: int, size: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((size, size)).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """900 megapixels in some hundred kilobytes."""
    buffer = io.BytesIO()
    PIL.Image.new("1", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def recording(seed: int, kind: str = "WAV") -> bytes:
    wave = 0.1 * np.random.default_rng(seed).normal(size=8000)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16000, format=kind)
    return buffer.getvalue()


def endless_flac() -> bytes:
    """42 bytes that promise 68 billion samples."""
    facts = (16000 << 44) | (0 << 41) | (15 << 36) | (2**36 - 1)
    head = b"\x10\x00\x10\x00" + bytes(6) + facts.to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\x00\x00\x22" + head


class Places(http.server.BaseHTTPRequestHandler):
    """An image, /redirect to a private address, /slow a letter at a time, /large without end."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        with suppress(OSError):
            if self.path == "/redirect":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/a.png")
                return self.end_headers()
            self.send_response(200)
            self.end_headers()
            for _ in range(10_000 if self.path in ("/slow", "/large") else 0):
                self.wfile.write(b"x" if self.path == "/slow" else b"x" * 2**16)
                time.sleep(0.05 if self.path == "/slow" else 0)
            return self.wfile.write(png(0))


@contextmanager
def web_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Places)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


# Requests ------------------------------------------------------------------------------------------------------------


def chat(kind: str, *parts: dict | str, is_good: bool = True, **fields) -> Request:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    body = {"messages": [{"role": "user", "content": content}], **ANSWER, **fields}
    return Request(kind, CHAT, json.dumps(body).encode(), is_good)


def image(source: str | bytes) -> dict:
    url = source if isinstance(source, str) else f"data:image/png;base64,{base64.b64encode(source).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def audio(content: bytes) -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": "wav"}}


def form(kind: str, file: bytes, is_good: bool = True) -> Request:
    head = b'--mark\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return Request(kind, SPEECH, head + file + b"\r\n--mark--\r\n", is_good, "multipart/form-data; boundary=mark")


def good_requests(takes: set[str], web: str) -> list[Callable[[int], Request]]:
    """Makers of requests that have to be answered, by the kinds of media that the model takes."""
    makers = [
        lambda seed: chat("text", f"Tell me about number {seed}."),
        lambda seed: chat("text, streamed", f"Tell me about number {seed}.", stream=True),
        lambda seed: Request("continued text", TEXT, json.dumps({"prompt": f"Once {seed}", **ANSWER}).encode()),
    ]
    if "image" in takes:
        makers += [
            lambda seed: chat("image", image(png(seed)), "What is this?"),
            lambda seed: chat("image, streamed", image(png(seed)), "What is this?", stream=True),
            lambda seed: chat("image from the web", image(f"{web}/a.png"), "What is this?"),
        ]
    if "audio" in takes:
        makers += [
            lambda seed: chat("audio", audio(recording(seed)), "What is heard?"),
            lambda seed: form("transcription", recording(seed)),
        ]
    if {"image", "audio"} <= takes:
        makers.append(lambda seed: chat("image and audio", image(png(seed)), audio(recording(seed)), "Both?"))
    return makers


def hostile_requests(takes: set[str], web: str) -> list[Callable[[int], Request]]:
    """Makers of requests that have to be refused."""

    def bad(kind: str, *parts, **fields) -> Callable[[int], Request]:
        return lambda seed: chat(kind, *parts, is_good=False, **fields)

    def raw(kind: str, body: bytes, path: str = CHAT, **options) -> Callable[[int], Request]:
        return lambda seed: Request(kind, path, body, False, **options)

    makers = [
        raw("no JSON", b"{'messages': 1}"),
        raw("deep JSON", b"[" * 200_000),
        raw("no object", b"[]"),
        raw("no messages", b"{}"),
        raw("slowly sent", b"{" * 20, seconds=2),
        raw("40 MiB", b'{"prompt": "' + b"x" * (40 * 2**20) + b'"}', TEXT),
        raw("another model", b'{"model": "x/y", "messages": [{"role": "user", "content": "?"}]}'),
        raw("another path", b'{"model": "x/y"}', "/load_model"),
        raw("100,000 messages", json.dumps({"messages": [{"role": "user", "content": ""}] * 100_000}).encode()),
        raw("no form", b"x", SPEECH),
        bad("unknown part", {"type": "smell"}),
        bad("5 MB of text", "x" * 5_000_000),
        bad("hot", "?", temperature="hot"),
        bad("endless beams", "?", generation_config=json.dumps({"num_beams": 10**6})),
        bad("own template", "?", chat_template_kwargs={"chat_template": "{{ 'x' * 10**9 }}"}),
        bad("negative tokens", "?", max_tokens=-1),
    ]
    if "image" in takes:
        makers += [
            lambda seed: chat("damaged image", image(png(seed)[: 40 + seed % 40]), is_good=False),
            bad("large image", image(bomb())),
            bad("1,000 images", *[image(png(0))] * 1000),
            bad("two of 12 megapixels", *[image(bomb(4000, 3000))] * 2),
            bad("path", image("/etc/hostname")),
            bad("file URL", image("file:///etc/hostname")),
            bad("private address", image("http://169.254.169.254/latest/meta-data")),
            bad("redirect", image(f"{web}/redirect")),
            bad("slow download", image(f"{web}/slow")),
            bad("large download", image(f"{web}/large")),
        ]
    if "audio" in takes:
        makers += [
            lambda seed: chat("damaged recording", audio(recording(seed, "FLAC")[: 60 + seed % 60]), is_good=False),
            lambda seed: form("damaged transcription", recording(seed, "FLAC")[: 60 + seed % 60], is_good=False),
            bad("endless recording", audio(endless_flac())),
            raw("damaged form", b"--mark\r\nContent-Disp", SPEECH, content_type="multipart/form-data; boundary=mark"),
        ]
    return makers


def make_requests(takes: set[str], web: str, count: int, seed: int) -> list[Request]:
    """`count` requests, every third of them hostile, in a random order."""
    shuffler = random.Random(seed)
    good, hostile = good_requests(takes, web), hostile_requests(takes, web)
    requests = [good[number % len(good)](number) for number in range(count - count // 3)]
    requests += [hostile[number % len(hostile)](number) for number in range(count // 3)]
    shuffler.shuffle(requests)
    return requests


# Runs ----------------------------------------------------------------------------------------------------------------


def send(address: str, request: Request, begin: float) -> Outcome:
    start = time.monotonic()
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    try:
        connection.putrequest("POST", request.path)
        connection.putheader("Content-Type", request.content_type)
        connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders()
        pieces = 10 if request.seconds else 1
        length = -(-len(request.body) // pieces)
        for place in range(0, len(request.body), length):
            time.sleep(request.seconds / pieces)
            connection.send(request.body[place : place + length])
        answer = connection.getresponse()
        status, reason = answer.status, reason_of(answer.read())
    except (OSError, http.client.HTTPException) as error:
        status, reason = 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return Outcome(request, start - begin, time.monotonic() - start, status, reason)


def reason_of(content: bytes) -> str:
    """What an answer says was wrong, also in the middle of a stream."""
    for line in content.decode().splitlines():
        with suppress(ValueError):
            answer = json.loads(line.removeprefix("data: "))
            if isinstance(answer, dict) and "error" in answer:
                error = answer["error"]
                return error["message"] if isinstance(error, dict) else str(error)
    return ""


def run_closed(address: str, requests: list[Request]) -> list[Outcome]:
    """`AT_A_TIME` clients, each of which sends its next request when it has the answer."""
    begin = time.monotonic()
    with ThreadPoolExecutor(AT_A_TIME) as clients:
        return list(clients.map(lambda request: send(address, request, begin), requests))


def run_at(address: str, requests: list[Request], starts: list[float]) -> list[Outcome]:
    """Each request at its time, whether others were answered or not."""
    begin = time.monotonic()

    def later(request: Request, start: float) -> Outcome:
        time.sleep(max(0.0, begin + start - time.monotonic()))
        return send(address, request, begin)

    with ThreadPoolExecutor(len(requests)) as clients:
        return list(clients.map(later, requests, starts))


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


@contextmanager
def watched_memory(pid: int):
    """Yields a list that holds the most bytes that were in memory while the block ran."""
    most, is_over = [resident(pid)], threading.Event()

    def watch():
        while not is_over.wait(0.02):
            most[0] = max(most[0], resident(pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield most
    is_over.set()
    watcher.join()


def percentile(outcomes: list[Outcome]) -> float:
    return statistics.quantiles([one.seconds for one in outcomes], n=20)[-1]


def small_model(folder: Path) -> Path:
    torch.manual_seed(0)
    model, processor = build_model(ModelArguments(preset="nano"), train_tokenizer(["Tell me about it."], 320))
    return save_checkpoint(folder, model, processor)


def kinds_of(folder: Path) -> set[str]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {kind for kind, part in (("image", "vision_config"), ("audio", "audio_config")) if config.get(part)}


def stress(folder: Path, count: int, work: Path) -> list[str]:
    """Prints what was measured; returns what was wrong."""
    outcomes, ratios, faults = [], [], []
    with web_server() as web:
        domain = web.removeprefix("http://")
        command = [sys.executable, "-m", "modeling_mmgpt.tools.cli", "serve", str(folder), "--allow-domain", domain]
        command += ["--limit", "download_seconds=2"]
        with serving(command, work / "server.log") as (address, pid):
            makers = good_requests(kinds_of(folder), web)
            run_closed(address, [makers[number % len(makers)](number) for number in range(WARM_UP)])
            before, most = resident(pid), 0
            for repeat in range(REPEATS):
                with watched_memory(pid) as peak:
                    mixed = run_closed(address, make_requests(kinds_of(folder), web, count, seed=repeat))
                most = max(most, peak[0])
                good = [one for one in mixed if one.request.is_good]
                alone = run_at(address, [one.request for one in good], [one.start for one in good])
                ratios.append(percentile(good) / percentile(alone))
                outcomes += [*mixed, *alone]
                print(
                    f"run {repeat + 1}: {len(mixed)} requests, {len(mixed) - len(good)} of them hostile; 95th percentile of the good "
                    f"{percentile(good):.3f} s, alone {percentile(alone):.3f} s",
                    flush=True,
                )
    sent, wrong = Counter(one.request.kind for one in outcomes), [one for one in outcomes if not one.is_right]
    print("\n| kind | requests | wrong |\n|---|---|---|")
    for kind in sent:
        print(f"| {kind} | {sent[kind]} | {sum(one.request.kind == kind for one in wrong)} |")
    more, slower = most - before, statistics.median(ratios)
    statuses = ", ".join(
        f"{status}: {number}" for status, number in sorted(Counter(one.status for one in outcomes).items())
    )
    print(f"\n{len(outcomes)} requests, {len(wrong)} answered wrongly (statuses: {statuses})")
    print(
        f"memory: {before / 2**20:,.0f} MiB before, {more / 2**20:,.0f} MiB more at the most (limit {MEMORY / 2**20:,.0f})"
    )
    print(
        f"95th percentile of the good requests: {slower:.2f} times that without the others (limit {SLOWER}; {ratios})"
    )
    faults += [f"{one.request.kind}: status {one.status}, {one.reason[:200]!r}" for one in wrong[:20]]
    faults += ["the server took too much memory"] if more > MEMORY else []
    faults += ["good requests were too slow"] if slower > SLOWER else []
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a saved folder; default: a small one with random weights")
    parser.add_argument("--requests", type=int, default=300, help="in each of three runs, a third of them hostile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        faults = stress((arguments.model or small_model(work / "model")).absolute(), arguments.requests, work)
    if faults:
        sys.exit("\n".join(["", "WRONG:", *faults]))
    print("All as it must be.")


if __name__ == "__main__":
    main()
