"""The mmgpt command. What a verb needs is imported when it runs, so that --help does not wait for PyTorch."""

import sys
from contextlib import contextmanager
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ..tower_families_mmgpt import AUDIO_FAMILIES, VISION_FAMILIES, family_names


HELP = """\
Build multimodal GPTs from checkpoints, talk to them, look at them, publish them. Runs the installed package's code, not the folder's.

    mmgpt chat outputs/demo/model --image image.png
    mmgpt generate outputs/demo/model "Describe the picture." --image image.png
    mmgpt info outputs/demo/model
    mmgpt serve outputs/demo/model
    mmgpt push outputs/demo/model me/my-model
    mmgpt convert openai-community/gpt2 outputs/gpt2
    mmgpt assemble --text gpt2 --vision google/siglip-base-patch16-224 --output outputs/assembled
"""
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)

Folder = Annotated[str, Argument(help="A saved folder, or a model of the Hub.")]
Device = Annotated[str | None, Option(help="cpu, cuda, cuda:1, ... Default: the accelerator if there is one.")]
Guard = Annotated[
    str | None, Option(help="Classifier of texts or images that judges questions and answers: a folder or Hub id.")
]
GuardLabels = Annotated[list[str] | None, Option(help="Label of it that is withheld. May be repeated.")]
GuardThreshold = Annotated[float, Option(min=0.0, max=1.0, help="Lowest probability that is withheld.")]
Dtype = Annotated[str, Option(help="auto (as saved), float32, bfloat16 or float16.")]


@contextmanager
def errors_in_a_line():
    """What is wrong with arguments, folders or the way to the Hub ends the command without a traceback."""
    from .chat import ERRORS

    try:
        yield
    except ERRORS as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def open_session(
    folder: Folder,
    image: Annotated[list[str] | None, Option(help="Image: a path or URL. May be repeated.")] = None,
    audio: Annotated[list[str] | None, Option(help="Audio: a path or URL. May be repeated.")] = None,
    video: Annotated[list[str] | None, Option(help="Video: a path or URL. May be repeated.")] = None,
    system: Annotated[str | None, Option(help="System message before everything.")] = None,
    max_new_tokens: Annotated[int, Option(min=1, help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[
        float | None,
        Option(min=0.0, help="Sample with it; 0 never samples. Default: as the model's own settings say."),
    ] = None,
    seed: Annotated[int | None, Option(help="Makes sampling repeatable.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    guard: Guard = None,
    guard_label: GuardLabels = None,
    guard_threshold: GuardThreshold = 0.5,
):
    """The session and the settings of generate() that the options of `chat` and `generate` ask for."""
    from transformers.utils import logging

    from .chat import Session, generation_settings, load_guard

    if not sys.stdout.isatty():
        logging.disable_progress_bar()
    judge = load_guard(guard, guard_label, guard_threshold)
    session = Session(folder, device, dtype, system, judge)
    for kind, sources in (("image", image), ("audio", audio), ("video", video)):
        for source in sources or []:
            session.attach(kind, source)
    return session, generation_settings(max_new_tokens, temperature, seed)


def with_session(verb):
    """The command of `verb(session, settings, its own options)`: it has the options of `open_session` too."""
    shared, (_, _, *own) = (list(signature(function).parameters.values()) for function in (open_session, verb))

    @errors_in_a_line()
    def command(**given):
        verb(*open_session(**{option.name: given.pop(option.name) for option in shared}), **given)

    command.__signature__ = Signature([shared[0], *own, *shared[1:]])
    return app.command(verb.__name__, help=verb.__doc__)(command)


@with_session
def chat(session, settings):
    """Talk to a model. Media of the command line go with your first message; /help tells how to add more."""
    from .chat import converse

    if session.processor.chat_template is None:
        raise ValueError("This model only continues text and has no form of conversation: use mmgpt generate.")
    converse(session, settings)


@with_session
def generate(
    session,
    settings,
    prompt: Annotated[str, Argument(help="What to say to the model; - reads it from standard input.")],
):
    """Ask once. The answer alone goes to standard output."""
    session.say(sys.stdin.read().rstrip("\n") if prompt == "-" else prompt, settings)


@app.command()
@errors_in_a_line()
def info(folder: Folder):
    """What a model consists of and needs: parts, memory, tokens of images and audio. Loads no weights."""
    from .info import print_info

    print_info(folder)


@app.command()
@errors_in_a_line()
def serve(
    folder: Folder,
    host: Annotated[str, Option(help="Address to listen at; 0.0.0.0: all of this machine.")] = "localhost",
    port: Annotated[int, Option(help="Port to listen at.")] = 8000,
    device: Device = None,
    dtype: Dtype = "auto",
    allow_folder: Annotated[
        list[Path] | None, Option(help="Clients may name media by path, of files in this folder. May be repeated.")
    ] = None,
    allow_domain: Annotated[
        list[str] | None,
        Option(help="Media are downloaded from here alone: example.org or 10.0.0.5:9000. May be repeated."),
    ] = None,
    downloads: Annotated[bool, Option(help="Whether media are downloaded at all.")] = True,
    limit: Annotated[
        list[str] | None, Option(help="A limit of media, such as image_pixels=89000000. May be repeated.")
    ] = None,
    guard: Guard = None,
    guard_label: GuardLabels = None,
    guard_threshold: GuardThreshold = 0.5,
):
    """Answer OpenAI's client over HTTP, also strangers: no local files, no private addresses, limits, clear refusals."""
    from transformers.utils.import_utils import is_multipart_available, is_serve_available

    if not (is_serve_available() and is_multipart_available()):
        raise ImportError("Serving needs more packages: `pip install 'transformers[serving]' python-multipart`.")
    from .chat import load_guard
    from .request_inputs import Rules
    from .serve import serve as start

    rules = Rules.of(allow_folder, allow_domain, downloads, limit)
    start(folder, rules, host, port, device, dtype, load_guard(guard, guard_label, guard_threshold))


@app.command()
@errors_in_a_line()
def push(
    folder: Annotated[Path, Argument(help="A saved folder.", exists=True, file_okay=False)],
    repo_id: Annotated[str, Argument(help="owner/name on the Hub.")],
    private: Annotated[bool, Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, Option("--message", "-m", help="Title of the commit.")] = "Upload model",
):
    """Publish a saved folder on the Hub, all of it in one commit (log in first: hf auth login)."""
    from .checkpoints import push_folder

    typer.echo(push_folder(folder, repo_id, private=private or None, commit_message=message).commit_url)


@app.command()
@errors_in_a_line()
def convert(
    source: Annotated[str, Argument(help="Folder or Hub id of a checkpoint.")],
    destination: Annotated[Path, Argument(help="The new folder.")],
    to: Annotated[str, Option(help="The form to write: mmgpt, or a family (gpt2, llama, qwen3, ...).")] = "mmgpt",
    dtype: Dtype = "auto",
):
    """Bring a checkpoint of the GPT line into MMGPT's form, with its tokenizer, or one of ours back into a family's."""
    from .. import convert_checkpoint
    from .chat import as_dtype

    typer.echo(convert_checkpoint(source, destination, to, as_dtype(dtype)))


@app.command()
@errors_in_a_line()
def assemble(
    context: typer.Context,
    text: Annotated[str, Option(help="Causal decoder with its tokenizer: MMGPT, GPT-2, Llama, Qwen, ...")],
    output: Annotated[Path, Option(help="Folder for the model.")],
    vision: Annotated[
        str | None,
        Option(help=f"Vision encoder, or a model that has one: {family_names(VISION_FAMILIES)}."),
    ] = None,
    audio: Annotated[
        str | None, Option(help=f"Audio encoder, or a model that has one: {family_names(AUDIO_FAMILIES)}.")
    ] = None,
    dtype: Annotated[str, Option(help="Of the whole model, for example bfloat16. Default: the decoder's.")] = "auto",
    vision_connector: Annotated[str | None, Option(help="linear, mlp, pixel_shuffle or resampler.")] = None,
    vision_merge_size: Annotated[
        int | None, Option(help="With pixel_shuffle: side of the square of patches that becomes a token.")
    ] = None,
    vision_num_queries: Annotated[int | None, Option(help="With resampler: tokens of an image.")] = None,
    vision_feature_layer: Annotated[
        int | None, Option(help="Hidden state to read, for example -2 of CLIP. Default: -1, the last.")
    ] = None,
    vision_max_tiles: Annotated[
        int | None, Option(help="Cut large images into up to so many tiles. Default: one chunk for each image.")
    ] = None,
    audio_connector: Annotated[str | None, Option(help="linear, mlp, frame_stack or resampler.")] = None,
    audio_merge_size: Annotated[
        int | None, Option(help="With frame_stack: encoder frames that become a token.")
    ] = None,
    audio_num_queries: Annotated[int | None, Option(help="With resampler: tokens of an audio clip.")] = None,
):
    """Make one multimodal model of a decoder, a vision encoder and an audio encoder, each a folder or a Hub id.

    The folder that it leaves loads with AutoModelForMultimodalLM anywhere. Text is continued as the decoder continued it; the
    connectors are new and to be trained.
    """
    from .. import assemble as assemble_parts
    from .. import save_checkpoint
    from .assemble import CONNECTOR_FIELDS
    from .chat import as_dtype

    parts = {part: source for part, source in (("text", text), ("vision", vision), ("audio", audio)) if source}
    connectors = {name: context.params[name] for name in CONNECTOR_FIELDS if context.params[name] is not None}
    names = {part: Path(source).name if Path(source).is_dir() else source for part, source in parts.items()}
    made_of = ", ".join(f"{part}: {name}" for part, name in names.items())
    card = {"training": f"Assembled from {made_of}, with their weights unchanged; new connectors, not trained yet."}
    model, processor = assemble_parts(**parts, connectors=connectors, dtype=as_dtype(dtype) or "auto")
    save_checkpoint(output, model, processor, card=card)
    typer.echo(f"{model.num_parameters():,} parameters in {output} ({made_of})")


def main():
    app()


if __name__ == "__main__":
    main()
