"""A batch as a person sees it: text, what is learnt, and media, put together again from the model's tensors."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mmgpt import MMGPTCollator
from tests.conftest import NAFLEX, make_audio, make_config, make_processor, make_sample, make_video
from training.model_inputs import Piece, images_of, pieces_of, spectrograms_of


def gradient(height: int, width: int) -> Image.Image:
    """Red grows to the right, green downwards, blue is even: whatever is mirrored or mixed up is seen."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 99)], axis=-1).astype(np.uint8))


def difference(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(other.resize(image.size), float)).mean())


class TestPieces:
    def test_media_are_one_piece_and_text_is_learnt_or_masked(self, collator, tokenizer):
        batch = collator([make_sample("Is it?", "Yes", images=[gradient(16, 16)])])
        pieces = pieces_of(batch["input_ids"][0].tolist(), batch["labels"][0].tolist(), tokenizer, {4: "image"})
        (image,) = (piece for piece in pieces if piece.kind == "image")
        assert image.text == f"[image: {image.tokens} tokens]" and image.tokens == (batch["input_ids"][0] == 4).sum()
        texts = {kind: "".join(piece.text for piece in pieces if piece.kind == kind) for kind in ("learnt", "masked")}
        assert texts["learnt"] == "Yes<|im_end|>" and "Is it?" in texts["masked"]
        assert sum(piece.tokens for piece in pieces) == batch["attention_mask"].sum()

    def test_tokens_that_share_a_character_are_one_piece(self, tokenizer):
        ids = tokenizer("a猫é").input_ids
        pieces = pieces_of(ids, [-100] * len(ids), tokenizer, {})
        assert pieces == [Piece("masked", "a", 1), Piece("masked", "猫", 3), Piece("masked", "é", 2)]

    def test_a_character_that_is_cut_off_ends_with_its_kind(self, tokenizer):
        ids = tokenizer("猫").input_ids
        pieces = pieces_of([*ids[:2], 4, 4, ids[0]], [-100, -100, -100, -100, 9], tokenizer, {4: "image"})
        assert [(piece.kind, piece.tokens) for piece in pieces] == [("masked", 2), ("image", 2), ("learnt", 1)]


class TestImages:
    @pytest.mark.parametrize(
        "options", [{}, {"vision_max_tiles": 4}, {"vision": NAFLEX}], ids=["size", "tiles", "any size"]
    )
    def test_are_those_that_went_in(self, options, tokenizer):
        processor = make_processor(make_config(**options), tokenizer)
        batch = MMGPTCollator(processor)([make_sample("", "x", images=[gradient(20, 40)])])
        images = images_of(batch, processor)
        assert difference(images[-1], gradient(20, 40)) < 12
        assert len(images) == (3 if "vision_max_tiles" in options else 1)
        if "vision_max_tiles" in options:  # left, right, overview
            left, right, _ = (np.asarray(image, float)[..., 0].mean() for image in images)
            assert left < 80 < 175 < right

    def test_of_any_size_keep_their_shape(self, tokenizer):
        processor = make_processor(make_config(vision=NAFLEX), tokenizer)
        batch = MMGPTCollator(processor)([make_sample("", "x", images=[gradient(10, 40), gradient(40, 10)])])
        wide, high = images_of(batch, processor)
        assert wide.width > 2 * wide.height and high.height > 2 * high.width

    def test_frames_of_videos_come_one_by_one(self, collator, processor):
        video = make_video(1, 3)
        images = images_of(collator([make_sample("", "x", videos=[video])]), processor)
        assert len(images) == 3 and difference(images[1], video[1]) < difference(images[1], video[0])


class TestSpectrograms:
    def test_have_a_column_for_each_frame_that_is_audio(self, collator, processor):
        batch = collator([make_sample("", "x", audios=[make_audio(1, 16000), make_audio(2, 3200)])])
        long, short = spectrograms_of(batch, processor)
        assert (long.width, long.height) == (100, 20) and (short.width, short.height) == (20, 20)

    def test_show_high_tones_above(self, collator, processor):
        heights = []
        for hertz in (300, 5000):
            wave = np.sin(np.arange(8000) * 2 * np.pi * hertz / 16000).astype(np.float32)
            batch = collator([make_sample("", "x", audios=[{"array": wave, "sampling_rate": 16000}])])
            (image,) = spectrograms_of(batch, processor)
            heights.append(int(np.asarray(image, float).sum(axis=(1, 2)).argmax()))
        assert heights[1] < heights[0]

    def test_of_a_waveform_are_made_of_it(self, processor):
        batch = {"input_features": torch.randn(1, 4000), "input_features_mask": torch.ones(1, 4000)}
        (image,) = spectrograms_of(batch, processor)
        assert image.width > 10 and image.height > 10


def test_a_text_has_none(collator, processor):
    batch = collator([make_sample("a", "b")])
    assert images_of(batch, processor) == spectrograms_of(batch, processor) == []
