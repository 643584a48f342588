"""The data collator: conversations with media in, one training batch out. Any HF Trainer script can use it."""

import warnings
from dataclasses import dataclass

import torch
from transformers.processing_utils import ProcessorMixin

from .chat_templates_mmgpt import Chat, read_chat
from .media_features_mmgpt import CHUNK_COUNTS, MEDIA_INPUTS
from .token_counts_mmgpt import tiles_per_image


PARTS = {"image": "image_processor", "audio": "feature_extractor", "video": "video_processor"}


@dataclass
class MMGPTCollator:
    """Samples to a batch: padded, with labels on the assistant's turns only.

    A sample is `{"messages": [{"role", "content"}], "images": [...], "audios": [...], "videos": [...]}`, its media in the order of
    the `{"type": "image"}`, `{"type": "audio"}` and `{"type": "video"}` parts of the messages. `"id"`, where there is one, names
    the sample in errors.

    For two samples whose texts are 5 and 3 tokens long, the last 2 of each by the assistant:

        input_ids       [[5, 6, 7, 8, 9], [5, 8, 9, 0, 0]]
        attention_mask  [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        labels          [[-100, -100, -100, 8, 9], [-100, 8, 9, -100, -100]]

    and, where any sample has them, `pixel_values` `(num_images, channels, height, width)`, `input_features`
    `(num_audios, mel_bins, frames)`, `input_features_mask` `(num_audios, frames)` and `pixel_values_videos`
    `(num_frames, channels, height, width)`, with what the model's forward says of tiles, windows and frames.

    Args:
        processor: the model's MMGPTProcessor.
        max_length: most tokens of a sample; what lies beyond is cut, and a medium that the cut would go through is dropped whole,
            with a warning. A sample without a label left is an error.
        add_generation_prompt: for evaluation: the prompt for the assistant's last turn takes the place of the turn, padding is on
            the left, and there are no labels.
    """

    processor: ProcessorMixin
    max_length: int | None = None
    add_generation_prompt: bool = False

    def __call__(self, samples: list[dict]) -> dict:
        names = names_of(samples)
        chats = [self.read(sample, name) for sample, name in zip(samples, names, strict=True)]
        padding_side = "left" if self.add_generation_prompt else "right"
        batch = self.processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=self.add_generation_prompt,
            return_assistant_tokens_mask=not self.add_generation_prompt,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": padding_side},
        )
        if self.max_length is not None and batch["input_ids"].shape[1] > self.max_length:
            self.cut(batch, names)
        if not self.add_generation_prompt:
            batch["labels"] = self.labels(batch, names)
        return dict(batch)

    def read(self, sample: dict, name: str) -> Chat:
        """The sample's messages, and its media, opened."""
        chat = read_chat(sample.get("messages"), f"the messages of {name}")
        if self.add_generation_prompt and chat.messages[-1]["role"] == "assistant":
            del chat.messages[-1]
        for kind, parts in chat.media.items():
            sources = list(sample.get(f"{kind}s") or [])
            if len(parts) != len(sources):
                raise ValueError(
                    f"{name}: its messages have {len(parts)} {kind} parts but it comes with {len(sources)}."
                )
            if sources and not hasattr(self.processor, PARTS[kind]):
                raise ValueError(
                    f"{name} comes with {kind} inputs, but the model has no encoder for them: leave the sample out."
                )
            opened = (
                self.processor.load_medium(kind, one, f"{kind} {at} of {name}") for at, one in enumerate(sources)
            )
            chat.media[kind][:] = opened
        return chat

    def labels(self, batch, names: list[str]):
        is_learnt = batch.pop("assistant_masks").bool()  # (B, L)
        empty = (~is_learnt.any(-1)).nonzero().flatten().tolist()
        if empty:
            reason = (
                "no assistant turn, or a chat template without the {% generation %} mark around the assistant's turns"
            )
            if self.max_length is not None:
                reason += f", or no answer within the first max_length={self.max_length} tokens"
            raise ValueError(f"{names[empty[0]]} has nothing to learn: {reason}.")
        return batch["input_ids"].masked_fill(~is_learnt, -100)  # (B, L)

    def cut(self, batch, names: list[str]) -> None:
        """Cuts each sample to `max_length`, before the first medium that would not fit; drops what stands behind the cut."""
        if self.add_generation_prompt:
            raise ValueError(
                f"A prompt has {batch['input_ids'].shape[1]} tokens, more than max_length={self.max_length}: shorten it."
            )
        kept = {kind: [] for kind in PARTS}
        ends = []
        for name, spans in zip(names, batch.media_spans, strict=True):
            end = min([self.max_length, *(first for _, first, behind in spans if behind > self.max_length)])
            ends.append(end)
            fits = [behind <= end for _, _, behind in spans]
            for (kind, _, _), fit in zip(spans, fits, strict=True):
                kept[kind].append(fit)
            if not all(fits):
                dropped = [kind for (kind, _, _), fit in zip(spans, fits, strict=True) if not fit]
                counts = ", ".join(f"{dropped.count(kind)} {kind}" for kind in PARTS if kind in dropped)
                warnings.warn(
                    f"{name} is longer than max_length={self.max_length} tokens: cut to {end} of them, without {counts} behind the cut.",
                    stacklevel=2,
                )
        is_kept = torch.arange(batch["input_ids"].shape[1]) < torch.tensor(ends)[:, None]  # (B, L)
        batch["input_ids"].masked_fill_(~is_kept, self.processor.tokenizer.pad_token_id)
        length = int((batch["attention_mask"].bool() & is_kept).sum(-1).max())
        for key in ("attention_mask", "assistant_masks"):
            batch[key].masked_fill_(~is_kept, 0)
        for key in ("input_ids", "attention_mask", "assistant_masks"):
            batch[key] = batch[key][:, :length]
        for kind, fits in kept.items():
            drop_media(batch, kind, torch.tensor(fits, dtype=torch.bool))


def names_of(samples: list[dict]) -> list[str]:
    """What the samples of a batch are called in errors: their `"id"`, else their place."""
    return [str(sample.get("id", f"sample {index} of the batch")) for index, sample in enumerate(samples)]


def drop_media(batch, kind: str, is_kept: torch.Tensor) -> None:
    """Takes the chunks of media that are not kept out of a batch; `is_kept`: one entry for each medium of `kind`."""
    if is_kept.all():
        return
    chunks = torch.ones(len(is_kept), dtype=torch.long)  # of each medium
    if kind in CHUNK_COUNTS and CHUNK_COUNTS[kind] in batch:
        chunks = batch[CHUNK_COUNTS[kind]]
        batch[CHUNK_COUNTS[kind]] = chunks[is_kept]
    elif kind == "image" and "tile_positions" in batch:
        chunks = tiles_per_image(batch["tile_positions"])
    is_kept_chunk = is_kept.repeat_interleave(chunks)
    for key in MEDIA_INPUTS[kind]:
        if key in batch:
            batch[key] = batch[key][is_kept_chunk]
    if not is_kept.any():
        for key in (*MEDIA_INPUTS[kind], CHUNK_COUNTS.get(kind)):
            batch.pop(key, None)
