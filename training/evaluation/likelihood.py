r"""The likelihood of raw texts under a model, without a chat template.

(losses,) = text_losses(model, tokenizer, ["To be, or not to be"])
print(sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses))
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch.nn import functional
from tqdm import tqdm


LONGEST_WINDOW = 1024  # tokens: the logits of a batch of windows have to fit into memory


class WindowLoss(NamedTuple):
    """The negative log-likelihood of a window in nats, the tokens predicted in it, and the UTF-8 bytes of these tokens."""

    nats: float
    tokens: int
    bytes: int


def cut_windows(text: str, tokenizer, length: int) -> Iterator[tuple[list[int], int]]:
    """The text's tokens, after a start token, in windows that share one token: each is predicted once, from at most `length`
    tokens before it in its window. With each window the UTF-8 bytes of what is predicted, all but its first token."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start_token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [start_token, *encoded["input_ids"]]
    starts = [start for start, _ in encoded["offset_mapping"]] + [len(text)]
    starts[0] = 0  # white space that a tokenizer drops is bytes all the same
    for first in range(0, len(ids) - 1, length):
        last = min(first + length, len(ids) - 1)
        yield ids[first : last + 1], len(text[starts[first] : starts[last]].encode())


def batches(model, lengths: list[int], batch_size: int, label: str) -> Iterator[list[int]]:
    """The places of inputs of these lengths in batches of similar length, for less padding. Until the last one is done the model
    does not train, and a progress bar says `label`."""
    places = sorted(range(len(lengths)), key=lengths.__getitem__)
    was_training = model.training
    model.eval()
    try:
        for start in tqdm(range(0, len(places), batch_size), desc=label, disable=not places):
            yield places[start : start + batch_size]
    finally:
        model.train(was_training)


@torch.inference_mode()
def text_losses(
    model, tokenizer, texts: Iterable[str], batch_size: int = 64, length: int | None = None
) -> list[list[WindowLoss]]:
    r"""For each text the losses of its windows. An empty text has none.

    length (`int`, *optional*): tokens of a window; defaults to the decoder's positions, at most `LONGEST_WINDOW`.
    """
    length = length or min(model.config.get_text_config().max_position_embeddings, LONGEST_WINDOW)
    windows = [list(cut_windows(text, tokenizer, length)) for text in texts]
    flat = [window for own in windows for window in own]
    losses: list[WindowLoss | None] = [None] * len(flat)
    for batch in batches(model, [len(ids) for ids, _ in flat], batch_size, "texts"):
        for place, nats in zip(batch, window_nats(model, [flat[place][0] for place in batch]), strict=True):
            ids, size = flat[place]
            losses[place] = WindowLoss(nats, len(ids) - 1, size)
    in_order = iter(losses)
    return [list(islice(in_order, len(own))) for own in windows]


def window_nats(model, windows: list[list[int]]) -> list[float]:
    """Summed loss of each window, of a batch padded on the right."""
    ids = [torch.tensor(window) for window in windows]
    inputs = torch.nn.utils.rnn.pad_sequence([one[:-1] for one in ids], batch_first=True)  # (B, L)
    labels = torch.nn.utils.rnn.pad_sequence([one[1:] for one in ids], batch_first=True, padding_value=-100)
    mask = (labels != -100).long()
    inputs, labels, mask = inputs.to(model.device), labels.to(model.device), mask.to(model.device)
    logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits.float()  # (B, L, V)
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")  # (B, L)
    return losses.double().sum(-1).tolist()
