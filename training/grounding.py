"""Does a model look and listen? The same rows with media that say nothing about their questions."""

import random
from collections import defaultdict

import numpy as np
from PIL import Image

from modeling_mmgpt.media_mmgpt import load_image
from training.data.augmentation import read_sound


MID_GREY = (128, 128, 128)


def exchange_media(rows: list[dict], seed: int = 0) -> list[dict]:
    """The rows with their media passed on at random to another row of the same task and the same number of media."""
    alike = defaultdict(list)
    for index, row in enumerate(rows):
        alike[row.get("task"), len(row.get("images") or []), len(row.get("audios") or [])].append(index)
    exchanged = list(rows)
    shuffler = random.Random(seed)
    for indices in alike.values():
        shuffler.shuffle(indices)
        for receiver, giver in zip(indices, indices[1:] + indices[:1], strict=True):
            media = {key: rows[giver][key] for key in ("images", "audios") if key in rows[giver]}
            exchanged[receiver] = {**rows[receiver], **media}
    return exchanged


def blank_media(rows: list[dict]) -> list[dict]:
    """The rows with each image replaced by mid-grey of its size, each sound by silence of its length."""
    blanked = []
    for row in rows:
        images = [Image.new("RGB", load_image(image).size, MID_GREY) for image in row.get("images") or []]
        audios = [silence(audio) for audio in row.get("audios") or []]
        blanked.append({**row, "images": images, "audios": audios})
    return blanked


def silence(audio: dict) -> dict:
    wave, rate = read_sound(audio)
    return {"array": np.zeros_like(wave), "sampling_rate": rate}
