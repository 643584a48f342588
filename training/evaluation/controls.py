"""What a score is compared with: the majority-class baseline, and the same model with media that say nothing about the question."""

import random
from collections import Counter, defaultdict

import numpy as np
from PIL import Image

from modeling_mmgpt.media_loading_mmgpt import load_image, load_video
from modeling_mmgpt.preprocessing_mmgpt import sampling
from training.data.augmentation import read_audio
from training.data.samples import answer_of


MEDIA = ("images", "audios", "videos")
MID_GREY = 128
# Key in results and model cards: name. A model that uses the media falls to about the majority class under the controls.
BASELINES = {
    "majority": "majority-class baseline",
    "shuffled": "shuffled-media control",
    "blank": "blank-media control",
}


def majority_answer(samples: list[dict]) -> str:
    return Counter(answer_of(sample) for sample in samples).most_common(1)[0][0]


def shuffle_media(samples: list[dict], seed: int = 0) -> list[dict]:
    """The samples, each with the media of another one of the same task and the same number of media."""
    alike = defaultdict(list)
    for index, sample in enumerate(samples):
        alike[sample.get("task"), *(len(sample.get(key) or []) for key in MEDIA)].append(index)
    shuffled = list(samples)
    shuffler = random.Random(seed)
    for indices in alike.values():
        shuffler.shuffle(indices)
        for receiver, giver in zip(indices, indices[1:] + indices[:1], strict=True):
            media = {key: samples[giver][key] for key in MEDIA if key in samples[giver]}
            shuffled[receiver] = {**samples[receiver], **media}
    return shuffled


def blank_media(samples: list[dict], processor) -> list[dict]:
    """The samples with each image replaced by mid-grey of its size, each audio clip by silence of its length, and each video by the
    frames that `processor` samples from it in grey, at their times."""
    blanked = []
    for sample in samples:
        images = [load_image(image) for image in sample.get("images") or []]
        waves = [read_audio(audio) for audio in sample.get("audios") or []]
        videos = [load_video(video, *sampling(processor.video_processor)) for video in sample.get("videos") or []]
        blank = {
            "images": [Image.new("RGB", image.size, (MID_GREY,) * 3) for image in images],
            "audios": [{"array": np.zeros_like(wave), "sampling_rate": rate} for wave, rate in waves],
            "videos": [{**video, "frames": np.full_like(video["frames"], MID_GREY)} for video in videos],
        }
        blanked.append(sample | blank)
    return blanked
