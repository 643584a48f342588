r"""A byte-level BPE tokenizer, trained on the texts of a recipe's training data.

    python -m training.train_tokenizer configuration/recipes/fsdd.yaml outputs/tokenizer

Any text can be written with it, since its alphabet is the 256 bytes (GPT-2, Radford et al. 2019). The special tokens are
those that MMGPTProcessor and its chat template use; the vocabulary is padded to a multiple of 64 with unused tokens.
"""

import argparse
import os
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.data.samples import text_of
from training.data.training_set import TrainingSet
from training.data.words import UNSPACED
from training.recipe import RecipeError, load_recipe


END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
MEDIA_TOKENS = {"image_token": "<|image|>", "audio_token": "<|audio|>", "video_token": "<|video|>"}
SPECIAL_TOKENS = [END_OF_TEXT, PAD, TURN_START, TURN_END, *MEDIA_TOKENS.values()]
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + len(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY_MULTIPLE = 64
# Where texts are cut before merging: GPT-2's pattern, in which a letter keeps its marks (the vowel signs of Hindi and Thai) and its
# joiners (in Persian and Sinhala words), and scripts without blanks between words are apart from others.
MARKED = r"[\p{L}\p{M}\x{200C}\x{200D}]"
PATTERN = (
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?[[{UNSPACED}]&&[\p{{L}}\p{{M}}]]+| ?[\p{{L}}&&[^{UNSPACED}]][{MARKED}&&[^{UNSPACED}]]*"
    r"| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
# In bytes: ten Chinese characters, so that no sentence of a script without blanks, such as the question of all samples, is one token.
LONGEST_TOKEN = 32


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Merge the most frequent pairs until `vocab_size` tokens, or fewer where the texts hold no more pairs."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"tokenizer.vocab_size is {vocab_size}; 256 bytes and the special tokens need {SMALLEST_VOCABULARY}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    unused = -tokenizer.get_vocab_size() % VOCABULARY_MULTIPLE
    tokenizer.add_special_tokens([f"<|unused_{index}|>" for index in range(unused)])
    return with_names(tokenizer)


def reopen_tokenizer(folder: str | os.PathLike) -> PreTrainedTokenizerFast:
    """A tokenizer of [`train_tokenizer`] from a folder that it was saved to, with no trace of that."""
    return with_names(Tokenizer.from_file(os.path.join(folder, "tokenizer.json")))


def with_names(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The special tokens under the names that transformers and the processor have for them."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        extra_special_tokens={"im_start_token": TURN_START, "im_end_token": TURN_END, **MEDIA_TOKENS},
        clean_up_tokenization_spaces=False,
    )


def texts_of(samples: Iterable[dict]) -> Iterator[str]:
    """Roles and texts as the chat template writes them, so that the words around a turn become tokens too."""
    for sample in samples:
        for message in sample["messages"]:
            yield f"{message['role']}\n"
            yield text_of(message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("folder", help="where the tokenizer is saved")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example tokenizer.vocab_size=1024")
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        samples = TrainingSet(recipe).tokenizer_samples()
    except (RecipeError, FileNotFoundError) as error:
        parser.error(str(error))
    tokenizer = train_tokenizer(texts_of(samples), recipe.tokenizer.vocab_size)
    tokenizer.save_pretrained(arguments.folder)
    print(f"{len(tokenizer)} tokens saved in {arguments.folder}")


if __name__ == "__main__":
    main()
