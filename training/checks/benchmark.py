r"""What media cost: the tokens they become in the decoder, and the milliseconds from a file to the model's first token.

    python -m training.checks.benchmark                           # the inputs below on the presets nano and small
    python -m training.checks.benchmark --presets mini base --repeats 5 --device cuda

Weights are random, as speed does not depend on them, and the media are made here; decoders get positions for all of them. `prepare`:
from the file's bytes to tensors, decoding included; `prompt`: encoders, connectors and decoder over the whole prompt, up to the
logits of the first token of the answer. The second table has the decoder alone, beside the class of transformers that computes the
same function. Each is the median of several runs after a warm-up.
"""

import argparse
import functools
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import PIL.ImageDraw
import soundfile
import torch
import transformers
from transformers import AutoModelForCausalLM

from modeling_mmgpt.preprocessing_mmgpt import cuts_tiles
from modeling_mmgpt.tools.convert import config_to_gpt
from modeling_mmgpt.tools.families import FAMILIES
from training.model_building import build_model
from training.recipe import ModelArguments
from training.run_results import describe_hardware
from training.train_tokenizer import train_tokenizer


QUESTION = "What is this about?"
POSITIONS = 16384  # enough for every input, whatever the preset has
TEXT_PROMPT, TEXT_ANSWER = 256, 64  # tokens of the second table


def photograph() -> bytes:
    """A 4000 x 3000 JPEG: blurred colours with sensor noise."""
    random = np.random.default_rng(0)
    colours = blurred(random.integers(0, 256, (12, 16, 3), dtype=np.uint8), (4000, 3000))
    noise = random.integers(-8, 9, (3000, 4000, 1), dtype=np.int16)
    pixels = np.clip(np.asarray(colours, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
    return encode(PIL.Image.fromarray(pixels), "JPEG")


def page() -> bytes:
    """An A4 page of text scanned at 200 dots an inch, grey, as PNG: 1654 x 2339."""
    image = PIL.Image.new("L", (1654, 2339), 250)
    draw = PIL.ImageDraw.Draw(image)
    for line in range(60):
        words = " ".join(f"word{line * 12 + index}" for index in range(12))
        draw.text((150, 150 + 34 * line), words, fill=20, font_size=24)
    return encode(image, "PNG")


def blurred(pixels: np.ndarray, size: tuple[int, int]) -> PIL.Image.Image:
    return PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC)


def encode(image: PIL.Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def recording(seconds: int) -> bytes:
    """A FLAC of noise at 16 kHz."""
    wave = np.random.default_rng(0).normal(scale=0.1, size=16000 * seconds)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16000, format="FLAC")
    return buffer.getvalue()


def ask(*media: dict) -> list[dict]:
    return [{"role": "user", "content": [*media, {"type": "text", "text": QUESTION}]}]


def chat() -> list[dict]:
    """Twenty images in a conversation of ten turns."""
    pixels = [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8) for seed in range(20)]
    images = [{"type": "image", "image": encode(blurred(one, (640, 480)), "JPEG")} for one in pixels]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Two pictures."}]}
    messages = [message for turn in range(10) for message in (*ask(*images[2 * turn : 2 * turn + 2]), answer)]
    return messages[:-1]


# Name: the conversation, and the limits that the caller gives to the processor.
INPUTS: dict[str, tuple[Callable[[], list[dict]], dict]] = {
    "no media": (ask, {}),
    "photograph, 4000 x 3000": (lambda: ask({"type": "image", "image": photograph()}), {}),
    "A4 page, 200 dpi": (lambda: ask({"type": "image", "image": page()}), {}),
    "recording, 3 minutes": (lambda: ask({"type": "audio", "audio": recording(180)}), {}),
    "chat with 20 images, 640 x 480": (chat, {}),
    "the same, max_patches=1": (chat, {"max_patches": 1}),
}


class Timer:
    """Medians of the milliseconds that work on `device` takes, to its end."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self.repeats = device, repeats

    def medians(self, *functions: Callable) -> list[float]:
        """Of each function; they run alternately, so that other load on the machine affects all of them."""
        times = [[] for _ in functions]
        for repeat in range(self.repeats + 1):
            for function, own in zip(functions, times, strict=True):
                start = time.perf_counter()
                function()
                if self.device.type != "cpu":
                    torch.accelerator.synchronize(self.device)
                if repeat:  # the first run warms up
                    own.append(1000 * (time.perf_counter() - start))
        return [statistics.median(own) for own in times]


def build(preset: str, device: torch.device, dtype: torch.dtype):
    config = {"text_config": {"max_position_embeddings": POSITIONS}}
    tokenizer = train_tokenizer([QUESTION], 512)
    model, processor = build_model(ModelArguments(preset=preset, config=config), tokenizer)
    return model.eval().to(device, dtype), processor


@torch.inference_mode()
def measure(model, processor, conversation: list[dict], timer: Timer, **limits) -> dict:
    """Tokens of the prompt, and milliseconds to prepare it and to run it; `limits` are arguments of the processor."""
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    prepare = functools.partial(processor.apply_chat_template, conversation, **options, processor_kwargs=limits)
    inputs = prepare().to(model.device, model.dtype)
    (prepared,) = timer.medians(prepare)
    (run,) = timer.medians(lambda: model(**inputs, logits_to_keep=1))
    return {"tokens": inputs["input_ids"].shape[1], "prepare": prepared, "prompt": run}


def transformers_twin(text_config):
    """A model of transformers that computes the same function as a decoder of this configuration, with weights of its own."""
    refusals = []
    for family in FAMILIES:
        try:
            return AutoModelForCausalLM.from_config(config_to_gpt(text_config, family))
        except ValueError as refusal:
            refusals.append(str(refusal))
    raise ValueError("No class of transformers computes the same function:\n" + "\n".join(refusals))


@torch.inference_mode()
def measure_text(model, timer: Timer) -> dict:
    """Milliseconds of a prompt, and of each new token after it, of the model and of its twin in transformers."""
    twin = transformers_twin(model.config.text_config).eval().to(model.device, model.dtype)
    prompt = torch.randint(0, 256, (1, TEXT_PROMPT), generator=torch.Generator().manual_seed(0)).to(model.device)
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    reads, answers = [], []
    for one in (model, twin):
        one.generation_config.eos_token_id = None  # all answers get the same length
        reads.append(functools.partial(one, **inputs, logits_to_keep=1))
        for length in (1, 1 + TEXT_ANSWER):
            answers.append(functools.partial(one.generate, **inputs, max_new_tokens=length, do_sample=False))
    prompts, times = timer.medians(*reads), timer.medians(*answers)
    tokens = [(times[1] - times[0]) / TEXT_ANSWER, (times[3] - times[2]) / TEXT_ANSWER]
    return {"twin": type(twin).__name__, "prompt": prompts, "token": tokens}


def media_table(models: dict, timer: Timer) -> Iterator[str]:
    """A line for each input, three columns for each preset. Yields as it goes: the last lines take minutes on a CPU."""
    columns = [f"{preset}: {name}" for preset in models for name in ("tokens", "prepare, ms", "prompt, ms")]
    yield f"| input | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, (make, limits) in INPUTS.items():
        cells = []
        for model, processor in models.values():
            if limits and not cuts_tiles(processor.image_processor):
                cells += ["", "", ""]
                continue
            found = measure(model, processor, make(), timer, **limits)
            cells += [f"{found['tokens']:,}", f"{found['prepare']:,.0f}", f"{found['prompt']:,.0f}"]
        yield f"| {name} | {' | '.join(cells)} |"


def text_table(models: dict, timer: Timer) -> Iterator[str]:
    """A line for each preset: the decoder's prompt and new tokens, and the twin's."""
    yield f"| text alone | {TEXT_PROMPT} tokens read, ms | in transformers, ms | a token written, ms | in transformers, ms | its class |"
    yield "|---|---|---|---|---|---|"
    for preset, (model, _) in models.items():
        found = measure_text(model, timer)
        numbers = [f"{value:,.1f}" for pair in (found["prompt"], found["token"]) for value in pair]
        yield f"| {preset} | {' | '.join(numbers)} | {found['twin']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["nano", "small"], help="named sizes of configuration/models")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each measurement")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or another device of torch")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of weights and activations"
    )
    arguments = parser.parse_args()
    timer = Timer(torch.device(arguments.device), arguments.repeats)
    models = {preset: build(preset, timer.device, getattr(torch, arguments.dtype)) for preset in arguments.presets}
    for line in itertools.chain(media_table(models, timer), [""], text_table(models, timer)):
        print(line, flush=True)
    hardware = describe_hardware() if timer.device.type in ("cpu", "cuda") else timer.device.type
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"\n({hardware}; {versions}; {arguments.dtype}; median of {arguments.repeats})")


if __name__ == "__main__":
    main()
