r"""What a run will learn from, before any training: samples as the model gets them, lengths, rejected samples, tokens and memory.

    python -m training.inspect configuration/recipes/fsdd.yaml

prints it, and writes a page with the images and spectrograms: output_dir/inspect.html. The model is not built: its size is
counted. Augmentation is left out.
"""

import argparse
import os
import random
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from modeling_mmgpt import MMGPTCollator, MMGPTConfig, MMGPTForConditionalGeneration, MMGPTProcessor
from training.data.formats import FORMATS
from training.data.loading import PROBLEM, make_samples_and_problems
from training.data.training_set import COUNTED_AT_ONCE, TrainingSet
from training.evaluation.pages import png_uri, write_page
from training.model_building import build_model_and_processor
from training.model_inputs import Piece, images_of, pieces_of, spectrograms_of
from training.recipe import Recipe, load_recipe
from training.stages import prepare_model


TEMPLATE = Path(__file__).with_name("inspect.html.jinja")
BINS = 12
PROBLEMS = 5  # of each kind that are shown
COLOURS = {"learnt": "\033[1;32m", "masked": "\033[2m", "image": "\033[36m", "video": "\033[36m", "audio": "\033[36m"}
RESET = "\033[0m"
# Numbers that a layer stores for the backward pass, for each token: so many times the width of the decoder, of its keys, of its mlp.
# Counted in our decoder with a gated mlp (tests/test_inspect.py counts them again).
SAVED_WIDTHS, SAVED_KEY_WIDTHS, SAVED_MLP_WIDTHS = 10, 4, 4


@dataclass
class Shown:
    """One sample, or one sequence of packed samples, as the model gets it."""

    name: str
    pieces: list[Piece]
    images: list
    spectrograms: list


def inspect_recipe(recipe: Recipe, shown: int = 3, counted: int = 1000) -> dict:
    r"""
    shown (`int`, *optional*, defaults to 3): samples that are rendered.
    counted (`int`, *optional*, defaults to 1000): samples, drawn at random, whose lengths are measured; of fewer, all.

    Returns what `print_inspection` prints and the page shows.
    """
    rejected = count_rejected(recipe)
    data = TrainingSet(recipe)
    model, processor = outline(recipe, data)
    context = model.config.get_text_config().max_position_embeddings
    dataset, collator = data.train_dataset(processor, context), data.collator(processor)
    draw = random.Random(0)
    if data.stream is None:
        items = [dataset[place] for place in sorted(draw.sample(range(len(dataset)), min(shown, len(dataset))))]
        places = sorted(draw.sample(range(len(data.samples)), min(counted, len(data.samples))))
        samples = [data.samples[place] for place in places]
    else:
        items, samples = list(islice(dataset, shown)), list(islice(data.stream.first(counted), counted))
        data.close()
    lengths, learnt, media = measure(samples, processor)
    return {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "rejected": rejected,
        "samples": [show(item, collator, processor, model.config) for item in items],
        "lengths": summarise_lengths(lengths, learnt, media, recipe, context),
        "tokens": estimate_tokens(lengths, recipe, data, dataset, context),
        "memory": estimate_memory(model, recipe, lengths, context),
    }


def outline(recipe: Recipe, data: TrainingSet) -> tuple[MMGPTForConditionalGeneration, MMGPTProcessor]:
    """The model without memory for its weights, its parts frozen as the stage says, and the processor."""
    samples = data.tokenizer_samples()
    if data.stream is not None:  # reading a stream needs the real device
        samples = [{"messages": sample["messages"]} for sample in samples]
    with torch.device("meta"):
        if recipe.model.checkpoint is None:
            model, processor = build_model_and_processor(recipe, samples)
        else:
            processor = MMGPTProcessor.from_pretrained(recipe.model.checkpoint)
            model = MMGPTForConditionalGeneration(MMGPTConfig.from_pretrained(recipe.model.checkpoint))
        return prepare_model(model, recipe.stage, recipe.peft), processor


# ---- samples


def count_rejected(recipe: Recipe) -> list[dict]:
    """Of each source that reads records: how many there are, how many are left out, and why, by kind, with the first of each kind."""
    counted = []
    for source in recipe.data.train:
        if recipe.data.streaming or source.format not in FORMATS:
            continue
        problems = make_samples_and_problems(source, Path(recipe.data.root or "."))[PROBLEM]
        kinds: dict[str, list[str]] = {}
        for problem in filter(None, problems):
            kinds.setdefault(kind_of(problem), []).append(problem)
        counted.append(
            {
                "source": source.task,
                "samples": len(problems),
                "rejected": sum(map(len, kinds.values())),
                "kinds": [
                    {"kind": kind, "count": len(found), "first": found[:PROBLEMS]}
                    for kind, found in sorted(kinds.items(), key=lambda pair: -len(pair[1]))
                ],
            }
        )
    return counted


def kind_of(problem: str) -> str:
    """What a problem has in common with others: names and numbers are left out."""
    reason = problem.partition(": ")[2] or problem
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d.,]*|\S*/\S*", "…", reason)


def show(item: dict, collator, processor: MMGPTProcessor, config: MMGPTConfig) -> Shown:
    batch = collator([item])
    placeholders = {"image": config.image_token_id, "video": config.video_token_id, "audio": config.audio_token_id}
    media = {token: kind for kind, token in placeholders.items() if token is not None}
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    names = (
        [str(sample.get("id")) for sample in item["packed"]] if "packed" in item else [str(item.get("id", "a block"))]
    )
    return Shown(
        name=", ".join(names),
        pieces=pieces_of(ids, labels, processor.tokenizer, media),
        images=images_of(batch, processor),
        spectrograms=spectrograms_of(batch, processor),
    )


def measure(samples: list[dict], processor: MMGPTProcessor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of each sample, those that are learnt, and those that stand for media, before anything is cut."""
    collator, tokenizer = MMGPTCollator(processor), processor.tokenizer
    placeholders = [
        tokenizer.convert_tokens_to_ids(token)
        for token in processor.placeholders.values()
        if token in tokenizer.get_vocab()
    ]
    measured = []
    for start in range(0, len(samples), COUNTED_AT_ONCE):
        batch = collator(samples[start : start + COUNTED_AT_ONCE])
        is_media = torch.isin(batch["input_ids"], torch.tensor(placeholders))  # (B, L)
        each = (batch["attention_mask"].sum(-1), (batch["labels"] != -100).sum(-1), is_media.sum(-1))
        measured.append(torch.stack(each).numpy())
    return tuple(np.concatenate(measured, axis=1))


# ---- numbers


def summarise_lengths(
    lengths: np.ndarray, learnt: np.ndarray, media: np.ndarray, recipe: Recipe, context: int
) -> dict:
    counts, edges = np.histogram(lengths, bins=min(BINS, int(np.ptp(lengths)) + 1))
    longest = recipe.sequence.max_length
    return {
        "measured": len(lengths),
        "shortest": int(lengths.min()),
        "median": int(np.median(lengths)),
        "mean": float(lengths.mean()),
        "longest": int(lengths.max()),
        "learnt_share": float(learnt.sum() / lengths.sum()),
        "media_share": float(media.sum() / lengths.sum()),
        "max_length": longest,
        "cut": int((lengths > longest).sum()) if longest else 0,
        "context": context,
        "too_long": 0
        if recipe.stage == "pretrain"
        else int((np.minimum(lengths, longest or lengths) > context).sum()),
        "bins": [
            {
                "low": int(np.ceil(low)),
                "high": int(np.floor(high)),
                "count": int(count),
                "share": float(count / counts.max()),
            }
            for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        ],
    }


def estimate_tokens(lengths: np.ndarray, recipe: Recipe, data: TrainingSet, dataset, context: int) -> dict:
    """Of an epoch and of the run, from the mean length; padding and what packing leaves empty not counted."""
    training = recipe.training
    mean = float(np.minimum(lengths, recipe.sequence.max_length or lengths).mean())
    sequences_a_step = (
        training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    )
    if data.stream is not None:
        tokens_a_step = sequences_a_step * (
            recipe.sequence.pack_to or (context if recipe.stage == "pretrain" else mean)
        )
        return {"epoch": None, "steps": training.max_steps, "run": training.max_steps * tokens_a_step}
    steps_an_epoch = max(1, len(dataset) // sequences_a_step)
    steps = training.max_steps if training.max_steps > 0 else int(training.num_train_epochs * steps_an_epoch)
    epoch = mean * len(data.samples)
    return {"epoch": epoch, "steps": steps, "run": epoch * steps / steps_an_epoch}


def estimate_memory(model, recipe: Recipe, lengths: np.ndarray, context: int) -> dict[str, int]:
    """Bytes on one device that holds the whole model: weights, gradients and Adam's two averages in fp32, and what the decoder stores for
    the backward pass of a batch of its longest sequences. Encoders, the library's own buffers and fragmentation come on top."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    training, text = recipe.training, model.config.get_text_config()
    length = recipe.sequence.pack_to or (context if recipe.stage == "pretrain" else int(lengths.max()))
    tokens = training.per_device_train_batch_size * min(length, recipe.sequence.max_length or length)
    layers = 1 if training.gradient_checkpointing else text.num_hidden_layers
    numbers = tokens * (layers * saved_of_a_layer(text) + text.num_hidden_layers * text.hidden_size)
    return {
        "parameters": model.num_parameters(),
        "trained": trained,
        "weights": 4 * model.num_parameters(),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": numbers * (2 if training.bf16 or training.fp16 else 4) + 2 * 4 * tokens * text.vocab_size,
    }


def saved_of_a_layer(text) -> int:
    """Numbers for each token."""
    heads = text.num_attention_heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * (
        getattr(text, "head_dim", None) or text.hidden_size // heads
    )
    mlp = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return SAVED_WIDTHS * text.hidden_size + SAVED_KEY_WIDTHS * keys + SAVED_MLP_WIDTHS * mlp


# ---- terminal and page


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def print_inspection(found: dict, in_colour: bool) -> None:
    for source in found["rejected"]:
        print(f"{source['source']}: {source['samples']:,} samples, {source['rejected']:,} of them rejected")
        for kind in source["kinds"]:
            print(f"  {kind['count']:>7,}  {printable(kind['kind'])}")
            for problem in kind["first"]:
                print(f"           {printable(problem)}")
    for number, sample in enumerate(found["samples"], start=1):
        sizes = Counter(f"{image.width}x{image.height}" for image in sample.images)
        parts = [f"{count} image chunk(s) of {size} pixels" for size, count in sizes.items()]
        parts += [f"audio of {image.width} frames, {image.height} mel bins" for image in sample.spectrograms]
        print(f"\nsample {number} ({printable(sample.name)}){': ' if parts else ''}{', '.join(parts)}")
        for piece in sample.pieces:
            text = printable(piece.text)
            print(
                f"{COLOURS[piece.kind]}{text}{RESET}"
                if in_colour
                else f"«{text}»"
                if piece.kind == "learnt"
                else text,
                end="",
            )
        print()
    lengths = found["lengths"]
    print(
        f"\ntokens of {lengths['measured']:,} samples: {lengths['shortest']} to {lengths['longest']}, median {lengths['median']}, mean "
        f"{lengths['mean']:.1f}; {lengths['learnt_share']:.0%} of them learnt, {lengths['media_share']:.0%} media"
    )
    for one in lengths["bins"]:
        print(f"  {one['low']:>6} - {one['high']:<6} {one['count']:>6}  {'█' * round(40 * one['share'])}")
    for line in [*warnings_of(lengths), *numbers_of(found)]:
        print(line)


def warnings_of(lengths: dict) -> list[str]:
    lines = []
    if lengths["cut"]:
        lines.append(
            f"sequence.max_length={lengths['max_length']} cuts {lengths['cut']:,} of {lengths['measured']:,} samples"
        )
    if lengths["too_long"]:
        lines.append(
            f"{lengths['too_long']:,} of {lengths['measured']:,} samples are longer than the decoder's {lengths['context']:,} positions: "
            "set sequence.max_length"
        )
    return lines


def numbers_of(found: dict) -> list[str]:
    tokens, memory = found["tokens"], found["memory"]
    epoch = "" if tokens["epoch"] is None else f"{count_of(tokens['epoch'])} tokens an epoch, "
    needed = sum(memory[name] for name in ("weights", "gradients", "optimizer", "activations"))
    parts = ", ".join(
        f"{name} {size_of(memory[name])}" for name in ("weights", "gradients", "optimizer", "activations")
    )
    return [
        f"about {epoch}{count_of(tokens['run'])} in {tokens['steps']:,} steps",
        f"{memory['parameters']:,} parameters, {memory['trained']:,} of them trained; memory of one device about {size_of(needed)} ({parts})",
    ]


def count_of(number: float) -> str:
    for power, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= power:
            return f"{number / power:.3g} {name}"
    return f"{number:.0f}"


def size_of(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def write_inspection(path: Path, found: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = [
        {
            "name": sample.name,
            "pieces": sample.pieces,
            "images": [(png_uri(image), f"{image.width} x {image.height}") for image in sample.images],
            "spectrograms": [png_uri(image) for image in sample.spectrograms],
        }
        for sample in found["samples"]
    ]
    lines = [*warnings_of(found["lengths"]), *numbers_of(found)]
    write_page(path, TEMPLATE, **{**found, "samples": samples}, lines=lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example sequence.max_length=512")
    parser.add_argument("--samples", type=int, default=3, help="how many are rendered (default: 3)")
    parser.add_argument("--counted", type=int, default=1000, help="how many are measured (default: 1000)")
    parser.add_argument(
        "--html", type=Path, help="the page to write (default: inspect.html in the recipe's output_dir)"
    )
    arguments = parser.parse_intermixed_args()
    warnings.simplefilter("ignore")
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        found = inspect_recipe(recipe, arguments.samples, arguments.counted)
    except (ValueError, ImportError, FileNotFoundError) as error:
        parser.error(str(error))
    print_inspection(found, in_colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    path = arguments.html or Path(recipe.training.output_dir) / "inspect.html"
    write_inspection(path, found)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
