"""mmgpt: talk to a saved model, ask it once, look at it, publish it. Runs the installed package's code, not the folder's.

    mmgpt chat outputs/demo/model --image picture.png
    mmgpt generate outputs/demo/model "Describe the picture." --image picture.png
    mmgpt info outputs/demo/model
    mmgpt push outputs/demo/model me/my-model

This file stays in the package: what travels with a checkpoint are the files that its configuration reaches.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import torch
import typer
from huggingface_hub.utils import httpx
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, TextStreamer
from transformers.utils import logging

from ..media_loading_mmgpt import load_audio, load_image, load_video
from ..preprocessing_mmgpt import sampling
from .checkpoints import push_folder
from .model_card import part_sizes


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)
complaints = Console(stderr=True, highlight=False)

HELP = """\
/image FILE   show it a picture with your next words (also a URL)
/audio FILE   let it hear a sound
/video FILE   show it a video
/clear        begin a new conversation
/exit         leave (or Ctrl-D); Ctrl-C stops an answer"""

# What is wrong with a request, and leaves the model as it was.
REQUEST_ERRORS = (ValueError, OSError, ImportError, torch.OutOfMemoryError)
# And what is wrong with a folder, a device or the way to the Hub.
LOADING_ERRORS = (*REQUEST_ERRORS, RuntimeError, httpx.HTTPError)

Folder = Annotated[str, typer.Argument(help="A saved folder, or a model of the Hub.")]
Images = Annotated[list[str] | None, typer.Option("--image", help="Picture: a path or URL. May be repeated.")]
Audios = Annotated[list[str] | None, typer.Option("--audio", help="Sound: a path or URL. May be repeated.")]
Videos = Annotated[list[str] | None, typer.Option("--video", help="Video: a path or URL. May be repeated.")]
System = Annotated[str | None, typer.Option(help="System message before everything.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="Sample with it; 0 never samples. Default: as the model's own settings say."),
]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the accelerator if there is one.")]
DTYPES = ("auto", "float32", "bfloat16", "float16")
Dtype = Annotated[str, typer.Option(help="auto (as saved), float32, bfloat16 or float16.")]


class Speaker(TextStreamer):
    """Writes an answer while it is made: as Markdown where a person watches, as it is into a file or a pipe."""

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
    """A conversation with one model: what was said, and the media for what will be said next."""

    def __init__(self, folder: str, device: str | None, dtype: str, system: str | None = None):
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
        part, noun = {
            "image": ("image_processor", "pictures"),
            "audio": ("feature_extractor", "sounds"),
            "video": ("video_processor", "videos"),
        }[kind]
        if not hasattr(self.processor, part):
            raise ValueError(f"This model takes no {noun}.")
        if kind == "image":
            medium = load_image(source, source)
        elif kind == "audio":
            medium = load_audio(source, self.processor.feature_extractor.sampling_rate, source)
        else:
            medium = load_video(source, *sampling(self.processor.video_processor), source)
        self.waiting.append({"type": kind, kind: medium})

    def say(self, text: str, settings: dict) -> str:
        """The answer, written out as it is made. Words that could not be answered are forgotten again."""
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes that were no text reached us as halves of characters
            raise ValueError("Your words are not valid UTF-8 text.") from error
        content = [*self.waiting, {"type": "text", "text": text}] if self.waiting else text
        messages = [*self.messages, {"role": "user", "content": content}]
        inputs = self.prepare(messages)
        length = inputs["input_ids"].shape[1]
        speaker = Speaker(self.tokenizer)
        try:
            output = self.model.generate(**inputs, **settings, streamer=speaker)
        finally:
            speaker.close()
        answer = self.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip()
        self.messages, self.waiting = [*messages, {"role": "assistant", "content": answer}], []
        return answer

    def prepare(self, messages: list[dict]) -> dict[str, torch.Tensor]:
        if self.processor.chat_template is None:  # a model that only continues text
            inputs = self.tokenizer(messages[-1]["content"], return_tensors="pt", return_token_type_ids=False)
        else:
            inputs = self.processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        return {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }


def load(folder: str, device: str | None, dtype: str):
    """The model with its processor (a tokenizer, where the model only reads)."""
    require_folder(folder)
    if dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: give one of {', '.join(DTYPES)}.")
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = "cpu" if accelerator is None else accelerator.type
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    except SafetensorError as error:
        raise ValueError(f"The weights of {folder} are damaged: {error}") from error
    return model, AutoProcessor.from_pretrained(folder)


def require_folder(folder: str) -> None:
    if not Path(folder).is_dir() and (folder.startswith((".", "/", "~")) or folder.count("/") != 1):
        raise FileNotFoundError(
            f"There is no folder {folder}, and the name of a model of the Hub has the form owner/name."
        )


def fail(message: str):
    complaints.print(f"Error: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


def settings_of(max_new_tokens: int, temperature: float | None, seed: int | None) -> dict:
    if seed is not None:
        torch.manual_seed(seed)
    settings = {"max_new_tokens": max_new_tokens}
    if temperature is not None:
        settings |= {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    return settings


def start(folder: str, device: str | None, dtype: str, system: str | None, media: dict[str, list]) -> Session:
    """A session with the media of the command line; what is wrong with them or the model ends the command."""
    try:
        session = Session(folder, device, dtype, system)
        for kind, sources in media.items():
            for source in sources or []:
                session.attach(kind, source)
    except LOADING_ERRORS as error:
        fail(str(error))
    return session


@app.command()
def chat(
    folder: Folder,
    image: Images = None,
    audio: Audios = None,
    video: Videos = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = "auto",
):
    """Talk to a model. Pictures and sounds of the command line go with your first words; /help tells how to add more."""
    session = start(folder, device, dtype, system, {"image": image, "audio": audio, "video": video})
    if session.processor.chat_template is None:
        fail("This model only continues text and has no form of conversation: use mmgpt generate.")
    settings = settings_of(max_new_tokens, temperature, seed)
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
    """Does what one line asks for; what is wrong with it is said, and the conversation stays as it was."""
    command, _, rest = line.partition(" ")
    try:
        if command in ("/image", "/audio", "/video"):
            session.attach(command[1:], rest.strip().strip("'\""))
            console.print(f"{len(session.waiting)} waiting for your words.", style="dim")
        elif command == "/clear":
            session.clear()
        elif command.startswith("/"):
            console.print(HELP, markup=False)
        else:
            session.say(line, settings)
    except REQUEST_ERRORS as error:
        complaints.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        if len(session.messages) > len(session.system):
            console.print("The conversation goes on without it; /clear begins a new one.", style="dim")
    except KeyboardInterrupt:
        console.print("\nStopped; your last words are forgotten.", style="dim")


@app.command()
def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Argument(help="What to say to the model; - reads it from standard input.")],
    image: Images = None,
    audio: Audios = None,
    video: Videos = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = "auto",
):
    """Ask once. The answer alone goes to standard output."""
    logging.disable_progress_bar()
    session = start(folder, device, dtype, system, {"image": image, "audio": audio, "video": video})
    try:
        text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
        session.say(text, settings_of(max_new_tokens, temperature, seed))
    except REQUEST_ERRORS as error:
        fail(str(error))


@app.command()
def info(folder: Folder):
    """What a model consists of and needs: parts, memory, tokens of pictures and sounds. Loads no weights."""
    try:
        require_folder(folder)
        config = AutoConfig.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
    except LOADING_ERRORS as error:
        fail(str(error))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    console.print(parts_table(model))
    console.print(decoder_line(config.get_text_config()))
    counts = [*image_counts(processor), *audio_counts(processor)]
    if counts:
        table = Table("medium", "tokens", title="Tokens in the decoder")
        for name, count in counts:
            table.add_row(name, f"{count:,}")
        console.print(table)


def parts_table(model) -> Table:
    """Parameters of each part, and the memory of its weights."""
    table = Table("part", "class", title=type(model).__name__)
    for column in ("parameters", "float32", "bfloat16"):
        table.add_column(column, justify="right")
    sizes = part_sizes(model)
    for part, size in sizes.items():
        module = getattr(model.base_model, {"decoder": "language_model"}.get(part, part), None)
        name = type(module if module is not None else getattr(model, part, model.base_model)).__name__
        table.add_row(part, name, f"{size:,}", megabytes(4 * size), megabytes(2 * size))
    total = sum(sizes.values())
    table.add_section()
    table.add_row("all", "", f"{total:,}", megabytes(4 * total), megabytes(2 * total))
    return table


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def decoder_line(text) -> str:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * head_dim * 2  # bytes a token: keys and values, bfloat16
    return (
        f"Decoder: {text.num_hidden_layers} layers, width {text.hidden_size}, vocabulary {text.vocab_size:,}, up to "
        f"{text.max_position_embeddings:,} tokens. Its cache takes {megabytes(1000 * cache)} for 1,000 tokens in bfloat16."
    )


def image_counts(processor) -> list[tuple[str, int]]:
    if not hasattr(processor, "image_processor"):
        return []
    sizes = [(224, 224), (448, 448), (480, 640), (1080, 1920)]
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
    return [(f"picture, {width} x {height}", count) for (height, width), count in zip(sizes, counts, strict=True)]


def audio_counts(processor) -> list[tuple[str, int]]:
    if not hasattr(processor, "feature_extractor"):
        return []
    seconds = [1, 10, 30]
    lengths = [second * processor.feature_extractor.sampling_rate for second in seconds]
    counts = processor._get_num_multimodal_tokens(audio_lengths=lengths)["num_audio_tokens"]
    return [(f"sound, {second} s", count) for second, count in zip(seconds, counts, strict=True)]


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A saved folder.", exists=True, file_okay=False)],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="Title of the commit.")] = "Upload model",
):
    """Publish a saved folder on the Hub, all of it in one commit (log in first: hf auth login)."""
    try:
        commit = push_folder(folder, repo_id, private=private or None, message=message)
    except LOADING_ERRORS as error:
        fail(str(error))
    console.print(commit.commit_url, soft_wrap=True)


def main():
    app()


if __name__ == "__main__":
    main()
