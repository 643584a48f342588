r"""One multimodal model from parts: a causal decoder, a vision model, an audio model, each a folder or a Hub id.

    python -m training.assemble --text gpt2 --vision google/siglip-base-patch16-224 --audio openai/whisper-tiny --output assembled

The folder that it leaves loads with AutoModelForImageTextToText anywhere. Text goes on as the decoder wrote it; the connectors are
new and to be trained.
"""

import argparse
import sys
from pathlib import Path

from modeling_mmgpt import assemble, save_checkpoint
from modeling_mmgpt.tools.assemble import CONNECTOR_FIELDS, TOWER_NAMES


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", required=True, help="causal decoder with its tokenizer: MMGPT, GPT-2, Llama, Qwen, ..."
    )
    parser.add_argument("--vision", help=TOWER_NAMES["vision"])
    parser.add_argument("--audio", help=TOWER_NAMES["audio"])
    parser.add_argument("--output", required=True, help="folder for the model")
    parser.add_argument(
        "--dtype", default="auto", help="of the whole model, for example bfloat16 (default: the decoder's)"
    )
    parser.add_argument("--vision-connector", choices=("linear", "mlp", "pixel_shuffle", "resampler"))
    parser.add_argument(
        "--vision-merge-size", type=int, help="with pixel_shuffle: side of the square that becomes a token"
    )
    parser.add_argument("--vision-num-queries", type=int, help="with resampler: tokens of an image (default: 64)")
    parser.add_argument(
        "--vision-feature-layer", type=int, help="hidden state to read, for example -2 of CLIP (default: -1)"
    )
    parser.add_argument(
        "--vision-max-tiles", type=int, help="cut large images into up to so many tiles (default: see them whole)"
    )
    parser.add_argument("--audio-connector", choices=("linear", "mlp", "frame_stack", "resampler"))
    parser.add_argument("--audio-merge-size", type=int, help="with frame_stack: tower frames that become a token")
    parser.add_argument("--audio-num-queries", type=int, help="with resampler: tokens of a sound (default: 64)")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    parts = {name: getattr(arguments, name) for name in ("text", "vision", "audio") if getattr(arguments, name)}
    connectors = {name: getattr(arguments, name) for name in CONNECTOR_FIELDS if getattr(arguments, name) is not None}
    try:
        model, processor = assemble(**parts, connectors=connectors, dtype=arguments.dtype)
    except ValueError as error:
        sys.exit(f"error: {error}")
    names = {part: Path(source).name if Path(source).is_dir() else source for part, source in parts.items()}
    made_of = ", ".join(f"{part}: {name}" for part, name in names.items())
    card = {"training": f"Assembled from {made_of}, with their weights unchanged; new connectors, not trained yet."}
    save_checkpoint(arguments.output, model, processor, card=card)
    print(
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters in {arguments.output} ({made_of})"
    )


if __name__ == "__main__":
    main()
