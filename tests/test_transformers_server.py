"""`transformers serve` of a saved folder, a real process on a free port, asked by OpenAI's own client."""

import base64
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from packaging.version import Version
from transformers.utils import is_librosa_available

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig, save_checkpoint
from tests.conftest import TEXT, byte_tokenizer
from tests.test_media_loading import clip, web_server
from tests.tiny_assistant import RATE
from training.checks import servers


PACKAGES = "the server needs packages: pip install transformers[serving] openai python-multipart"
openai = pytest.importorskip("openai", reason=PACKAGES)
for name in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(name, reason=PACKAGES)

START_SECONDS = 180  # of a busy machine; else a few
transcribes = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23") and not is_librosa_available(),  # tried: 5.17 and 5.23
    reason="this release of transformers opens the recordings that it transcribes with librosa, which is not installed",
)


def serving(folder: Path, work: Path):
    """A server that answers with the model in `folder`, in a process with no other code of ours."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "home"), "HF_MODULES_CACHE": str(work / "modules")}
    program = (
        "import sys; sys.modules['modeling_mmgpt'] = None; from transformers.cli.transformers import main; main()"
    )
    options = ["serve", str(folder), "--trust-remote-code", "--device", "cpu"]
    command = [sys.executable, "-I", "-c", program, *options]
    return servers.serving(command, work / "server.log", environment, START_SECONDS)


@pytest.fixture(scope="module")
def server(assistant, tmp_path_factory):
    with serving(assistant, tmp_path_factory.mktemp("server")) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def ask(client, assistant):
    """The answer to one message of text and media, `stream=True`: in the pieces in which it came."""

    def ask(content, stream: bool = False, **options):
        messages = [{"role": "user", "content": content}]
        options = {"max_tokens": 24, **options}
        answer = client.chat.completions.create(model=str(assistant), messages=messages, stream=stream, **options)
        if not stream:
            return answer.choices[0].message.content
        return [chunk.choices[0].delta.content for chunk in answer if chunk.choices and chunk.choices[0].delta.content]

    return ask


def image(content: bytes | Path, kind: str = "png") -> dict:
    content = content if isinstance(content, bytes) else content.read_bytes()
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"},
    }


def audio(content: bytes | Path) -> dict:
    content = content if isinstance(content, bytes) else content.read_bytes()
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": "wav"}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


@pytest.fixture
def requests(assistant):
    """(content of a message, the answer) for text, an image and audio."""
    media = assistant.parent
    return {
        "text": ("In French: the dog", "le chien"),
        "image": ([image(media / "blue.png"), text("Describe the picture.")], "a blue one"),
        "audio": ([audio(media / "high.wav"), text("Heard?")], "high"),
    }


class TestChatCompletions:
    @pytest.mark.parametrize("kind", ["text", "image", "audio"])
    def test_answers(self, ask, requests, kind):
        content, answer = requests[kind]
        assert ask(content) == answer

    @pytest.mark.parametrize("kind", ["text", "image", "audio"])
    def test_streams(self, ask, requests, kind):
        content, answer = requests[kind]
        pieces = ask(content, stream=True)
        assert "".join(pieces) == answer and len(pieces) > 1

    @pytest.mark.parametrize(("first", "second"), [("red", "blue"), ("blue", "red")])
    def test_several_turns_with_images(self, client, assistant, first, second):
        messages = [
            {"role": "user", "content": [image(assistant.parent / f"{first}.png"), text("Colour?")]},
            {"role": "assistant", "content": first},
            {"role": "user", "content": [image(assistant.parent / f"{second}.png"), text("Colour?")]},
        ]
        answer = client.chat.completions.create(model=str(assistant), messages=messages, max_tokens=8)
        assert answer.choices[0].message.content == second
        assert answer.usage.prompt_tokens > 2 * 16  # both images

    @pytest.mark.parametrize("colours", [("red", "blue"), ("blue", "red")])
    def test_several_images_in_a_turn(self, ask, assistant, colours):
        images = [image(assistant.parent / f"{colour}.png") for colour in colours]
        assert ask([*images, text("Colours?")]) == " ".join(colours)

    def test_media_from_the_web(self, ask, assistant):
        with web_server(assistant.parent) as web:
            assert ask([{"type": "image_url", "image_url": {"url": f"{web}/blue.png"}}, text("Colour?")]) == "blue"
            assert ask([{"type": "audio_url", "audio_url": {"url": f"{web}/low.wav"}}, text("Heard?")]) == "low"

    def test_a_video(self, client, assistant, tmp_path):
        """An extension of transformers' server, which asks for a video's audio too where the model takes audio."""
        (tmp_path / "film.mp4").write_bytes(clip(num_frames=20))
        content = [{"type": "video_url", "video_url": {"url": str(tmp_path / "film.mp4")}}, text("?")]
        messages = [{"role": "user", "content": content}]
        answer = client.chat.completions.create(model=str(assistant), messages=messages, max_tokens=4)
        assert answer.usage.prompt_tokens > 2 * 16  # two seconds, a frame for each

    def test_what_ends_an_answer(self, ask):
        assert ask("In French: the dog", stop=["ch"]) == "le ch"

    def test_requests_at_the_same_time(self, ask, requests):
        def one(number: int):
            content, answer = list(requests.values())[number % 3]
            if number % 4 == 3:
                with pytest.raises(openai.BadRequestError):
                    ask([image(b"no image"), text("?")], stream=number % 8 == 7)
            return "".join(ask(content, stream=number % 2 == 1)) == answer

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(one, range(24)))

    def test_a_client_that_leaves_in_the_middle(self, server, ask, assistant):
        import httpx2  # comes with huggingface_hub

        body = {"model": str(assistant), "messages": [{"role": "user", "content": "?"}], "stream": True}
        body |= {"max_tokens": 200, "generation_config": "{}"}  # no token that ends it
        for _ in range(3):
            with httpx2.stream("POST", f"{server}/v1/chat/completions", json=body, timeout=60) as answer:
                next(answer.iter_raw())
        assert ask("Once") == "upon"


def test_completions_continue_text(client, assistant):
    prompt = "<|im_start|>user\nOnce<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model=str(assistant), prompt=prompt, max_tokens=8)
    assert answer.choices[0].text == "upon"
    pieces = client.completions.create(model=str(assistant), prompt=prompt, max_tokens=8, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "upon"


@transcribes
class TestTranscriptions:
    # The last is longer than the 20 tokens that the server stops at where generation_config.json sets no max_new_tokens.
    @pytest.mark.parametrize("word", ["low", "high", "neither low nor high but between"])
    def test_only_what_was_said(self, client, assistant, word):
        with (assistant.parent / f"{word}.wav").open("rb") as file:
            assert client.audio.transcriptions.create(model=str(assistant), file=file).text == word

    def test_streams(self, server, assistant):
        """As the server streams them: lines of text, which OpenAI's client does not read."""
        import httpx2  # comes with huggingface_hub

        files = {"file": ("low.wav", (assistant.parent / "low.wav").read_bytes())}
        data = {"model": str(assistant), "stream": "true"}
        lines = httpx2.post(f"{server}/v1/audio/transcriptions", files=files, data=data, timeout=60).text
        assert "".join(re.findall(r"data: (.*)\n", lines)) == "low"


class TestBadRequests:
    """Each gets an answer that says what is wrong with it, and the server answers the next one."""

    @pytest.fixture(autouse=True)
    def still_answers(self, ask):
        yield
        assert ask("Once") == "upon"

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([image(b"no image at all")], "is not an image that can be read"),
            ([image(b"\x89PNG\r\n\x1a\n" + bytes(40))], "image 0"),
            ([{"type": "image_url", "image_url": {"url": "ftp://example.org/a.png"}}], "http"),
            (
                [{"type": "image_url", "image_url": {"url": "http://no host/a.png"}}],
                "cannot download http://no host/a.png",
            ),
            ([{"type": "image_url", "image_url": {"url": "/no/such/file.png"}}], "/no/such/file.png"),
            ([audio(b"no audio at all")], "is not audio that can be read"),
            ("word " * 200, "reads at most 256"),
        ],
        ids=["text as png", "broken png", "scheme", "no url", "no file", "text as wav", "too long"],
    )
    def test_message(self, ask, content, message, stream):
        with pytest.raises(openai.BadRequestError) as error:
            ask(content if isinstance(content, str) else [*content, text("?")], stream=stream)
        assert message in error.value.body["detail"]

    def test_an_image_of_100_megapixels(self, ask, assistant):
        with pytest.raises(openai.BadRequestError) as error:
            ask([image(assistant.parent / "bomb.png"), text("Colour?")])
        assert "10000 x 10000 pixels, more than the 89,478,485 that are decoded" in error.value.body["detail"]

    def test_nothing_at_all(self, client, assistant):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=str(assistant), messages=[])
        assert "The conversation is empty" in error.value.body["detail"]
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=str(assistant), prompt="")
        assert "there is nothing to continue" in error.value.body["detail"]

    def test_a_text_too_long_to_be_continued(self, client, assistant):
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=str(assistant), prompt="word " * 200, max_tokens=4)
        assert "reads at most 256" in error.value.body["detail"]

    def test_a_text_too_long_to_be_continued_in_a_stream(self, client, assistant):
        """The server has answered 200 before it begins: what is wrong comes in the stream."""
        with pytest.raises(openai.APIError) as error:
            list(client.completions.create(model=str(assistant), prompt="word " * 200, max_tokens=4, stream=True))
        assert "reads at most 256" in error.value.body

    @transcribes
    @pytest.mark.parametrize(("seconds", "message"), [(0, "it has no samples"), (12, "reads at most 256")])
    def test_a_recording(self, client, assistant, tmp_path, seconds, message):
        soundfile.write(tmp_path / "silence.wav", np.zeros(seconds * RATE, dtype=np.float32), RATE)
        with (tmp_path / "silence.wav").open("rb") as file, pytest.raises(openai.BadRequestError) as error:
            client.audio.transcriptions.create(model=str(assistant), file=file)
        assert message in error.value.body["detail"]

    def test_empty_audio(self, ask, tmp_path):
        soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype=np.float32), RATE)
        with pytest.raises(openai.BadRequestError) as error:
            ask([audio(tmp_path / "empty.wav"), text("Heard?")])
        assert "it has no samples" in error.value.body["detail"]


@transcribes
@pytest.mark.parametrize("kept", [0, 30, 200], ids=["nothing", "half a header", "a part"])
def test_a_damaged_recording_gets_no_reason(client, assistant, tmp_path, kept):
    """The server opens recordings itself, before any code of ours. It goes on answering."""
    waveform, _ = soundfile.read(assistant.parent / "low.wav")
    soundfile.write(tmp_path / "low.flac", waveform, RATE)
    damaged = (tmp_path / "low.flac").read_bytes()[:kept]
    with pytest.raises(openai.InternalServerError) as error:
        client.audio.transcriptions.create(model=str(assistant), file=("low.flac", damaged))
    assert error.value.body == "Internal Server Error"
    with (assistant.parent / "low.wav").open("rb") as file:
        again = client.with_options(max_retries=3)  # after such an error the server closes the connection
        assert again.audio.transcriptions.create(model=str(assistant), file=file).text == "low"


@transcribes
def test_the_snippet_of_the_page_runs(server, assistant, tmp_path, monkeypatch, capsys):
    page = Path("modeling_mmgpt/SERVING.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "openai" in block)
    code = code.replace("http://localhost:8000", server).replace("outputs/demo/model", str(assistant))
    monkeypatch.chdir(tmp_path)
    shutil.copy(assistant.parent / "red.png", "image.png")
    shutil.copy(assistant.parent / "low.wav", "audio.wav")
    exec(compile(code, "SERVING.md", "exec"), {})
    assert capsys.readouterr().out.endswith("low\n")


def test_a_text_only_model_continues_text(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "text", MMGPTForCausalLM(MMGPTTextConfig(**TEXT)), byte_tokenizer())
    with serving(tmp_path / "text", tmp_path) as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
        answer = client.completions.create(model=str(tmp_path / "text"), prompt="Once", max_tokens=4)
        assert answer.usage.completion_tokens == 4
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=str(tmp_path / "text"), prompt="word " * 200)
        assert "reads at most 512" in error.value.body["detail"]


def test_transformers_chat_talks_to_it(server, assistant, tmp_path):
    program = "from transformers.cli.transformers import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "chat", str(assistant), server, "max_new_tokens=8", "do_sample=False"],
        input="Once\n!exit\n",
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},  # any server counts as the Hub
    )
    assert done.returncode == 0 and "upon" in done.stdout, done.stdout + done.stderr
