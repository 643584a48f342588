"""A conversation with one model in a terminal: `mmgpt chat`, and one turn of it: `mmgpt generate`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import httpx
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, TextStreamer, pipeline

from .. import register
from ..chat_templates_mmgpt import tokenize_chats
from ..collating_mmgpt import PARTS
from ..guarding_mmgpt import ClassifierGuard, as_guard, withheld
from .checkpoints import load_whole


console = Console(highlight=False)
error_console = Console(stderr=True, highlight=False)

HELP = """\
/image FILE   attach an image to your next message (also a URL)
/audio FILE   attach audio
/video FILE   attach a video
/clear        begin a new conversation
/exit         leave (or Ctrl-D); Ctrl-C stops an answer"""

# What is wrong with a request, a folder or the way to the Hub. It leaves the model as it was.
ERRORS = (ValueError, OSError, ImportError, torch.OutOfMemoryError, httpx.HTTPError)
DTYPES = ("float32", "bfloat16", "float16")


class Speaker(TextStreamer):
    """Prints an answer while it is generated: as Markdown in a terminal, as it is into a file or a pipe."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.said = ""
        self.live = Live(console=console, vertical_overflow="visible") if console.is_terminal else None

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.said += text
        if self.live is None:
            console.print(text, end="\n" if stream_end else "", markup=False, soft_wrap=True)
            return
        self.live.start()
        self.live.update(Markdown(self.said))
        if stream_end:
            self.close()

    def close(self):
        if self.live is not None:
            self.live.stop()


class Session:
    """A conversation with one model: its messages, and the media that go with the next one."""

    def __init__(self, folder: str, device: str | None, dtype: str, system: str | None = None, guard: Any = None):
        self.guard = as_guard(guard)
        self.model, self.processor = load(folder, device, dtype)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.caches = ExitStack()  # open as long as the session lives
        if self.model.config.model_type == "mmgpt":  # each turn sends all media of the conversation again
            self.caches.enter_context(self.model.media_cache(max_items=256))
        self.system = [{"role": "system", "content": system}] if system else []
        self.clear()

    def clear(self):
        self.messages, self.waiting = list(self.system), []

    def attach(self, kind: str, source: str):
        """Opens a medium now, so that a bad one is refused before it is part of the conversation."""
        if not source:
            raise ValueError(f"Name a file or a URL: /{kind} FILE.")
        if not hasattr(self.processor, PARTS[kind]):
            raise ValueError(f"This model takes no {'audio' if kind == 'audio' else f'{kind}s'}.")
        medium = self.processor.load_medium(kind, source, source)
        self.waiting.append({"type": kind, kind: medium})

    def say(self, text: str, settings: dict) -> str:
        """The answer, printed while it is generated. A message that could not be answered is forgotten again."""
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes that were no text reached us as lone surrogates
            raise ValueError("Your message is not valid UTF-8 text.") from error
        images = [part["image"] for part in self.waiting if part["type"] == "image"]
        if (sentence := withheld(self.guard, text, images)) is not None:
            return self.refuse(sentence)
        content = [*self.waiting, {"type": "text", "text": text}] if self.waiting else text
        messages = [*self.messages, {"role": "user", "content": content}]
        options = {"add_generation_prompt": True, "return_tensors": "pt"}
        if self.processor is self.tokenizer:
            asked = messages if self.tokenizer.chat_template else [content]  # some models only continue text
            inputs = tokenize_chats(self.tokenizer, asked, **options)
        else:
            inputs = self.processor.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
        inputs = {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        length = inputs["input_ids"].shape[1]
        speaker = Speaker(self.tokenizer) if self.guard is None else None  # a guard reads an answer before it is shown
        try:
            output = self.model.generate(**inputs, **settings, streamer=speaker)
        finally:
            if speaker is not None:
                speaker.close()
        answer = self.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip()
        if (sentence := withheld(self.guard, answer)) is not None:
            return self.refuse(sentence)
        if speaker is None:
            console.print(answer, markup=False, soft_wrap=True)
        self.messages, self.waiting = [*messages, {"role": "assistant", "content": answer}], []
        return answer

    def refuse(self, sentence: str) -> str:
        """Says that an answer was withheld, and forgets the message."""
        console.print(sentence, markup=False, soft_wrap=True)
        self.waiting = []
        return sentence


def load(folder: str, device: str | None, dtype: str):
    """The model with its processor (a tokenizer, where the model takes only text)."""
    require_folder(folder)
    register()
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = "cpu" if accelerator is None else accelerator.type
    try:
        model = load_whole(AutoModelForCausalLM, folder, dtype=as_dtype(dtype) or "auto").to(device).eval()
    except SafetensorError as error:
        raise ValueError(f"The weights of {folder} are damaged: {error}") from error
    except RuntimeError as error:  # no such device, weights that do not fit the configuration
        raise ValueError(str(error)) from error
    return model, AutoProcessor.from_pretrained(folder)


def load_guard(source: str | None, labels: list[str] | None, threshold: float) -> ClassifierGuard | None:
    """The guard that a command line names: a classifier in a folder or on the Hub."""
    if source is None:
        return None
    architectures = AutoConfig.from_pretrained(source).architectures or [""]
    kind = "image" if architectures[0].endswith("ForImageClassification") else "text"
    return ClassifierGuard(pipeline(f"{kind}-classification", source), set(labels or ()), threshold)


def require_folder(folder: str) -> None:
    if not Path(folder).is_dir() and (folder.startswith((".", "/", "~")) or folder.count("/") != 1):
        raise FileNotFoundError(
            f"There is no folder {folder}, and the name of a model of the Hub has the form owner/name."
        )


def as_dtype(name: str) -> torch.dtype | None:
    if name not in ("auto", *DTYPES):
        raise ValueError(f"--dtype {name}: give one of auto, {', '.join(DTYPES)}.")
    return None if name == "auto" else getattr(torch, name)


def generation_settings(max_new_tokens: int, temperature: float | None, seed: int | None) -> dict:
    if seed is not None:
        torch.manual_seed(seed)
    settings = {"max_new_tokens": max_new_tokens}
    if temperature is not None:
        settings |= {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    return settings


def converse(session: Session, settings: dict) -> None:
    """Line by line, until /exit or the end of the input."""
    console.print("/help lists what else you can do here.", style="dim")
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if line == "/exit":
            break
        if line:
            respond(session, line, settings)


def respond(session: Session, line: str, settings: dict) -> None:
    """Does what one line asks for; an error is printed, and leaves the conversation as it was."""
    command, _, rest = line.partition(" ")
    try:
        if command in ("/image", "/audio", "/video"):
            session.attach(command[1:], rest.strip().strip("'\""))
            console.print(f"{len(session.waiting)} attached to your next message.", style="dim")
        elif command == "/clear":
            session.clear()
        elif command.startswith("/"):
            console.print(HELP, markup=False)
        else:
            session.say(line, settings)
    except ERRORS as error:
        error_console.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        if len(session.messages) > len(session.system):
            console.print("The conversation goes on without it; /clear begins a new one.", style="dim")
    except KeyboardInterrupt:
        console.print("\nStopped; your last message is forgotten.", style="dim")
