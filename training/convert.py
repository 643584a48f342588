r"""A checkpoint of the GPT line into our form, with its tokenizer, or one of ours back into a family's.

python -m training.convert openai-community/gpt2 outputs/gpt2
python -m training.convert outputs/gpt2 outputs/gpt2-again --to gpt2
"""

import argparse

import torch

from modeling_mmgpt import convert_checkpoint
from modeling_mmgpt.tools.families import FAMILIES


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert a checkpoint of the GPT line into MMGPT's form, or back.")
    parser.add_argument("source", help="folder or Hub id of a checkpoint")
    parser.add_argument("destination", help="the new folder")
    parser.add_argument(
        "--to", default="mmgpt", choices=["mmgpt", *FAMILIES], help="the form to write (default: mmgpt)"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: that of the source")
    options = parser.parse_args(arguments)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    print(convert_checkpoint(options.source, options.destination, options.to, dtype))


if __name__ == "__main__":
    main()
