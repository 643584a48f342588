"""The mmgpt command. What a verb needs is imported when it runs, so that --help does not wait for PyTorch."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..tower_families_mmgpt import AUDIO_FAMILIES, VISION_FAMILIES, family_names


HELP = """\
Build multimodal GPTs from checkpoints, talk to them, look at them, publish them. Runs the installed package's code, not the folder's.

    mmgpt chat outputs/demo/model --image image.png
    mmgpt generate outputs/demo/model "Describe the picture." --image image.png
    mmgpt info outputs/demo/model
    mmgpt push outputs/demo/model me/my-model
    mmgpt convert openai-community/gpt2 outputs/gpt2
    mmgpt assemble --text gpt2 --vision google/siglip-base-patch16-224 --output outputs/assembled
"""
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)

Folder = Annotated[str, typer.Argument(help="A saved folder, or a model of the Hub.")]
Images = Annotated[list[str] | None, typer.Option("--image", help="Image: a path or URL. May be repeated.")]
Audios = Annotated[list[str] | None, typer.Option("--audio", help="Audio: a path or URL. May be repeated.")]
Videos = Annotated[list[str] | None, typer.Option("--video", help="Video: a path or URL. May be repeated.")]
System = Annotated[str | None, typer.Option(help="System message before everything.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="Sample with it; 0 never samples. Default: as the model's own settings say."),
]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the accelerator if there is one.")]
Dtype = Annotated[str, typer.Option(help="auto (as saved), float32, bfloat16 or float16.")]


@contextmanager
def errors_in_a_line():
    """What is wrong with arguments, folders or the way to the Hub ends the command without a traceback."""
    from .chat import ERRORS

    try:
        yield
    except ERRORS as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def start(*arguments, **media: list[str] | None):
    """A session with the media of the command line."""
    from .chat import Session

    session = Session(*arguments)
    for kind, sources in media.items():
        for source in sources or []:
            session.attach(kind, source)
    return session


@app.command()
@errors_in_a_line()
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
    """Talk to a model. Media of the command line go with your first message; /help tells how to add more."""
    from .chat import converse, generation_settings

    session = start(folder, device, dtype, system, image=image, audio=audio, video=video)
    if session.processor.chat_template is None:
        raise ValueError("This model only continues text and has no form of conversation: use mmgpt generate.")
    converse(session, generation_settings(max_new_tokens, temperature, seed))


@app.command()
@errors_in_a_line()
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
    from transformers.utils import logging

    from .chat import generation_settings

    logging.disable_progress_bar()
    session = start(folder, device, dtype, system, image=image, audio=audio, video=video)
    text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    session.say(text, generation_settings(max_new_tokens, temperature, seed))


@app.command()
@errors_in_a_line()
def info(folder: Folder):
    """What a model consists of and needs: parts, memory, tokens of images and audio. Loads no weights."""
    from .info import print_info

    print_info(folder)


@app.command()
@errors_in_a_line()
def push(
    folder: Annotated[Path, typer.Argument(help="A saved folder.", exists=True, file_okay=False)],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="Title of the commit.")] = "Upload model",
):
    """Publish a saved folder on the Hub, all of it in one commit (log in first: hf auth login)."""
    from .checkpoints import push_folder

    typer.echo(push_folder(folder, repo_id, private=private or None, commit_message=message).commit_url)


@app.command()
@errors_in_a_line()
def convert(
    source: Annotated[str, typer.Argument(help="Folder or Hub id of a checkpoint.")],
    destination: Annotated[Path, typer.Argument(help="The new folder.")],
    to: Annotated[
        str, typer.Option(help="The form to write: mmgpt, or a family (gpt2, llama, qwen3, ...).")
    ] = "mmgpt",
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
    text: Annotated[str, typer.Option(help="Causal decoder with its tokenizer: MMGPT, GPT-2, Llama, Qwen, ...")],
    output: Annotated[Path, typer.Option(help="Folder for the model.")],
    vision: Annotated[
        str | None,
        typer.Option(help=f"Vision encoder, or a model that has one: {family_names(VISION_FAMILIES)}."),
    ] = None,
    audio: Annotated[
        str | None, typer.Option(help=f"Audio encoder, or a model that has one: {family_names(AUDIO_FAMILIES)}.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the whole model, for example bfloat16. Default: the decoder's.")
    ] = "auto",
    vision_connector: Annotated[str | None, typer.Option(help="linear, mlp, pixel_shuffle or resampler.")] = None,
    vision_merge_size: Annotated[
        int | None, typer.Option(help="With pixel_shuffle: side of the square of patches that becomes a token.")
    ] = None,
    vision_num_queries: Annotated[int | None, typer.Option(help="With resampler: tokens of an image.")] = None,
    vision_feature_layer: Annotated[
        int | None, typer.Option(help="Hidden state to read, for example -2 of CLIP. Default: -1, the last.")
    ] = None,
    vision_max_tiles: Annotated[
        int | None, typer.Option(help="Cut large images into up to so many tiles. Default: one chunk for each image.")
    ] = None,
    audio_connector: Annotated[str | None, typer.Option(help="linear, mlp, frame_stack or resampler.")] = None,
    audio_merge_size: Annotated[
        int | None, typer.Option(help="With frame_stack: encoder frames that become a token.")
    ] = None,
    audio_num_queries: Annotated[int | None, typer.Option(help="With resampler: tokens of an audio clip.")] = None,
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
