"""Does a model look and listen? The same rows with media that say nothing about their questions."""

import random
from collections import defaultdict

import numpy as np
from PIL import Image

from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from modeling_mmgpt.preprocessing_mmgpt import sampling
from training.data.augmentation import read_audio


MID_GREY = (128, 128, 128)
MEDIA = ("images", "audios", "videos")


def exchange_media(rows: list[dict], seed: int = 0) -> list[dict]:
    """The rows with their media passed on at random to another row of the same task and the same number of media."""
    alike = defaultdict(list)
    for index, row in enumerate(rows):
        alike[row.get("task"), *(len(row.get(key) or []) for key in MEDIA)].append(index)
    exchanged = list(rows)
    shuffler = random.Random(seed)
    for indices in alike.values():
        shuffler.shuffle(indices)
        for receiver, giver in zip(indices, indices[1:] + indices[:1], strict=True):
            media = {key: rows[giver][key] for key in MEDIA if key in rows[giver]}
            exchanged[receiver] = {**rows[receiver], **media}
    return exchanged


def blank_media(rows: list[dict], processor) -> list[dict]:
    """The rows with each image replaced by mid-grey of its size, each sound by silence of its length, and each video by the frames
    that `processor` takes of it in grey, at their times."""
    blanked = []
    for row in rows:
        images = [Image.new("RGB", load_image(image).size, MID_GREY) for image in row.get("images") or []]
        audios = [silence(audio) for audio in row.get("audios") or []]
        videos = [grey_frames(video, processor.video_processor) for video in row.get("videos") or []]
        blanked.append({**row, "images": images, "audios": audios, "videos": videos})
    return blanked


def grey_frames(video, video_processor) -> dict:
    taken = load_video(video, *sampling(video_processor))
    return {**taken, "frames": np.full_like(taken["frames"], MID_GREY[0])}


def silence(audio: dict) -> dict:
    wave, rate = read_audio(audio)
    return {"array": np.zeros_like(wave), "sampling_rate": rate}
