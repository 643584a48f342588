"""What a saved model consists of and needs, without reading its weights: `mmgpt info`."""

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from .. import register
from .chat import require_folder
from .model_card import part_sizes


IMAGE_SIZES = [(224, 224), (448, 448), (480, 640), (1080, 1920)]  # height, width
AUDIO_SECONDS = [1, 10, 30]


def print_info(folder: str) -> None:
    require_folder(folder)
    register()
    config = AutoConfig.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    console = Console(highlight=False)
    console.print(parts_table(model))
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * head_dim * 2  # bytes a token: keys and values, bfloat16
    console.print(
        f"Decoder: {text.num_hidden_layers} layers, width {text.hidden_size}, vocabulary {text.vocab_size:,}, up to "
        f"{text.max_position_embeddings:,} tokens. Its cache takes {megabytes(1000 * cache)} for 1,000 tokens in bfloat16."
    )
    table = Table("medium", "tokens", title="Tokens in the decoder")
    if hasattr(processor, "image_processor"):
        tokens = processor._get_num_multimodal_tokens(image_sizes=IMAGE_SIZES)["num_image_tokens"]
        for (height, width), count in zip(IMAGE_SIZES, tokens, strict=True):
            table.add_row(f"image, {width} x {height}", f"{count:,}")
    if hasattr(processor, "feature_extractor"):
        lengths = [seconds * processor.feature_extractor.sampling_rate for seconds in AUDIO_SECONDS]
        tokens = processor._get_num_multimodal_tokens(audio_lengths=lengths)["num_audio_tokens"]
        for seconds, count in zip(AUDIO_SECONDS, tokens, strict=True):
            table.add_row(f"audio, {seconds} s", f"{count:,}")
    if table.row_count:
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
