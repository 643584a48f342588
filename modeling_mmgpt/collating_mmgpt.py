"""The data collator: conversations with media in, one training batch out. Any HF Trainer script can use it."""

from dataclasses import dataclass

from .media_mmgpt import load_audio, load_image
from .packing_mmgpt import open_packs, pack_batch
from .processing_mmgpt import MMGPTProcessor


@dataclass
class MMGPTCollator:
    """Rows of the one sample format to a batch: padded, with labels on the assistant's turns only.

    A row is `{"messages": [{"role", "content"}], "images": [...], "audios": [...]}`; the media stand in the order of the
    `{"type": "image"}` and `{"type": "audio"}` parts of the messages. `"id"`, where there is one, names the row in errors.

    For two rows whose texts are 5 and 3 tokens long, the last 2 of each said by the assistant:

        input_ids       [[5, 6, 7, 8, 9], [5, 8, 9, 0, 0]]
        attention_mask  [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        labels          [[-100, -100, -100, 8, 9], [-100, 8, 9, -100, -100]]

    and, where any row has them, `pixel_values` `(num_images, channels, height, width)`, `input_features`
    `(num_audios, mel_bins, frames)` and `input_features_mask` `(num_audios, frames)`.

    Args:
        processor: the model's processor.
        max_length: longest row in tokens; text beyond it is cut, a row whose media would be cut is an error.
        add_generation_prompt: for evaluation: the last assistant turn is left out, the prompt for it stands in its
            place, padding is on the left, and there are no labels.
        pack_to: several rows, in their order, share one row of the batch of up to so many tokens, each as if it were alone
            (packing_mmgpt.py). Give it rows as they are, or packs of equal size made by [`PackedRows`].
    """

    processor: MMGPTProcessor
    max_length: int | None = None
    add_generation_prompt: bool = False
    pack_to: int | None = None

    def __call__(self, rows: list[dict]) -> dict:
        rows = open_packs(rows)
        names = [str(row.get("id", f"row {index} of the batch")) for index, row in enumerate(rows)]
        conversations = [self.conversation(row, name) for row, name in zip(rows, names, strict=True)]
        padding_side = "left" if self.add_generation_prompt else "right"
        batch = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=self.add_generation_prompt,
            return_assistant_tokens_mask=not self.add_generation_prompt,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": padding_side},
        )
        if not self.add_generation_prompt:
            batch["labels"] = self.labels(batch, names)
        if self.max_length is not None and batch["input_ids"].shape[1] > self.max_length:
            self.cut(batch, names)
        if self.pack_to is not None and not self.add_generation_prompt:
            groups = [row.get("pack") for row in rows]
            return pack_batch(dict(batch), self.pack_to, self.processor.tokenizer.pad_token_id, names, groups)
        return dict(batch)

    def conversation(self, row: dict, name: str) -> list[dict]:
        """The row's messages with each medium, decoded, inside its part."""
        messages = row["messages"]
        if self.add_generation_prompt and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        media = {"image": list(row.get("images") or []), "audio": list(row.get("audios") or [])}
        taken = {"image": 0, "audio": 0}
        filled = []
        for message in messages:
            if isinstance(message["content"], str):
                filled.append(message)
                continue
            parts = []
            for part in message["content"]:
                kind = part["type"]
                if kind in media:
                    if taken[kind] < len(media[kind]):
                        part = {"type": kind, kind: self.decode(kind, media[kind][taken[kind]], taken[kind], name)}
                    taken[kind] += 1
                else:
                    part = {"type": "text", "text": part["text"]}
                parts.append(part)
            filled.append({"role": message["role"], "content": parts})
        for kind, count in taken.items():
            if count != len(media[kind]):
                raise ValueError(
                    f"{name}: its messages have {count} {kind} parts but it comes with {len(media[kind])}."
                )
        return filled

    def decode(self, kind: str, source, index: int, name: str):
        part = {"image": "image_processor", "audio": "feature_extractor"}[kind]
        if not hasattr(self.processor, part):
            raise ValueError(
                f"{name} comes with {kind} inputs, but the model has no tower for them: leave the row out."
            )
        if kind == "image":
            return load_image(source, f"image {index} of {name}")
        return load_audio(source, self.processor.feature_extractor.sampling_rate, f"sound {index} of {name}")

    def labels(self, batch, names: list[str]):
        said = batch.pop("assistant_masks").bool()  # (B, L)
        silent = (~said.any(-1)).nonzero().flatten().tolist()
        if silent:
            raise ValueError(
                f"{names[silent[0]]} has nothing to learn: no assistant turn, or a chat template without the "
                "{% generation %} mark around what the assistant says."
            )
        return batch["input_ids"].masked_fill(~said, -100)

    def cut(self, batch, names: list[str]) -> None:
        """Cuts text to `max_length`; placeholders may not be cut, for their features would be left over."""
        if self.add_generation_prompt:
            raise ValueError(
                f"A prompt has {batch['input_ids'].shape[1]} tokens, more than max_length={self.max_length}: shorten it."
            )
        beyond = batch["input_ids"][:, self.max_length :]
        media_tokens = (self.processor.image_token_id, self.processor.audio_token_id)
        broken = sum(beyond == token for token in media_tokens).any(-1).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"{names[broken[0]]} is longer than max_length={self.max_length} tokens and the cut would go through its "
                "media: raise max_length, use fewer or smaller media, or leave the row out."
            )
        for key in ("input_ids", "attention_mask", "labels"):
            batch[key] = batch[key][:, : self.max_length]


__all__ = ["MMGPTCollator"]
