"""What a score is compared with: the majority class, shuffled media, blank media."""

import io

import numpy as np
import PIL.Image
import soundfile

from tests.conftest import make_sample, make_video
from training.data.samples import assistant_turn, medium, user_turn
from training.evaluation.controls import blank_media, majority_answer, shuffle_media


def image_samples(count: int) -> list[dict]:
    return [
        {
            "task": ("even", "odd")[index % 2],
            "messages": [user_turn("?", media=("image",)), assistant_turn(str(index))],
            "images": [medium(bytes([index]))],
            "audios": [],
        }
        for index in range(count)
    ]


def test_the_majority_class_is_the_most_common_answer():
    answers = ["no", "yes", "yes ", "maybe"]
    assert majority_answer([{"messages": [user_turn("?"), assistant_turn(one)]} for one in answers]) == "yes"


class TestShuffledMedia:
    def test_every_sample_gets_another_samples_image_of_its_task(self):
        samples = image_samples(10)
        shuffled = shuffle_media(samples)
        given = [sample["images"][0]["bytes"][0] for sample in shuffled]
        assert sorted(given) == list(range(10))
        assert all(index != image and index % 2 == image % 2 for index, image in enumerate(given))
        assert [sample["messages"] for sample in shuffled] == [sample["messages"] for sample in samples]
        assert shuffle_media(samples) == shuffled

    def test_samples_of_text_stay(self):
        samples = [{"task": "say", "messages": [user_turn(str(index)), assistant_turn("yes")]} for index in range(5)]
        assert shuffle_media(samples) == samples


class TestBlankMedia:
    def test_images_are_grey_and_audio_silent_at_their_size(self):
        image, audio = io.BytesIO(), io.BytesIO()
        PIL.Image.new("RGB", (7, 5), "red").save(image, format="JPEG")
        soundfile.write(audio, np.full(800, 0.5), 8000, format="WAV")
        sample = {
            "messages": [user_turn("?", media=("image", "audio")), assistant_turn("x")],
            "images": [medium(image.getvalue())],
            "audios": [medium(audio.getvalue())],
        }
        (blank,) = blank_media([sample], processor=None)
        assert blank["images"][0].size == (7, 5)
        assert (np.asarray(blank["images"][0]) == 128).all()
        assert blank["audios"][0]["sampling_rate"] == 8000
        assert blank["audios"][0]["array"].tolist() == [0.0] * 800
        assert blank["messages"] == sample["messages"] and sample["images"][0]["bytes"] == image.getvalue()

    def test_videos_are_grey_frames_at_their_times(self, processor):
        (blank,) = blank_media([make_sample("?", "x", videos=[{"frames": make_video(0), "fps": 2}])], processor)
        (video,) = blank["videos"]
        assert (video["frames"] == 128).all() and video["frames"].shape[3] == 3
        given = ({"frames": make_video(0), "fps": 2}, video)
        texts = [processor(text=["<|video|>"], videos=[one], fps=1)["input_ids"] for one in given]
        assert texts[0] == texts[1]


def test_videos_are_shuffled():
    samples = [make_sample("?", "x", videos=[make_video(index)]) for index in range(3)]
    shuffled = shuffle_media(samples)
    assert all(one["videos"] is not other["videos"] for one, other in zip(samples, shuffled, strict=True))
    assert sorted(id(one["videos"]) for one in shuffled) == sorted(id(one["videos"]) for one in samples)
