"""Media exchanged between rows, and blank ones."""

import io

import numpy as np
import PIL.Image
import soundfile

from tests.conftest import make_sample, make_video
from training.data.samples import assistant_turn, medium, user_turn
from training.evaluation.controls import blank_media, exchange_media


def image_rows(count: int) -> list[dict]:
    return [
        {
            "task": ("even", "odd")[index % 2],
            "messages": [user_turn("?", media=("image",)), assistant_turn(str(index))],
            "images": [medium(bytes([index]))],
            "audios": [],
        }
        for index in range(count)
    ]


class TestExchangedMedia:
    def test_every_row_gets_another_rows_image_of_its_task(self):
        rows = image_rows(10)
        exchanged = exchange_media(rows)
        given = [row["images"][0]["bytes"][0] for row in exchanged]
        assert sorted(given) == list(range(10))
        assert all(index != image and index % 2 == image % 2 for index, image in enumerate(given))
        assert [row["messages"] for row in exchanged] == [row["messages"] for row in rows]
        assert exchange_media(rows) == exchanged

    def test_text_rows_stay(self):
        rows = [{"task": "say", "messages": [user_turn(str(index)), assistant_turn("yes")]} for index in range(5)]
        assert exchange_media(rows) == rows


class TestBlankMedia:
    def test_images_are_grey_and_sounds_silent_at_their_size(self):
        picture, sound = io.BytesIO(), io.BytesIO()
        PIL.Image.new("RGB", (7, 5), "red").save(picture, format="JPEG")
        soundfile.write(sound, np.full(800, 0.5), 8000, format="WAV")
        row = {
            "messages": [user_turn("?", media=("image", "audio")), assistant_turn("x")],
            "images": [medium(picture.getvalue())],
            "audios": [medium(sound.getvalue())],
        }
        (blank,) = blank_media([row], processor=None)
        assert blank["images"][0].size == (7, 5)
        assert (np.asarray(blank["images"][0]) == 128).all()
        assert blank["audios"][0]["sampling_rate"] == 8000
        assert blank["audios"][0]["array"].tolist() == [0.0] * 800
        assert blank["messages"] == row["messages"] and row["images"][0]["bytes"] == picture.getvalue()

    def test_videos_are_grey_frames_at_their_times(self, processor):
        (blank,) = blank_media([make_sample("?", "x", videos=[{"frames": make_video(0), "fps": 2}])], processor)
        (video,) = blank["videos"]
        assert (video["frames"] == 128).all() and video["frames"].shape[3] == 3
        given = ({"frames": make_video(0), "fps": 2}, video)
        texts = [processor(text=["<|video|>"], videos=[one], fps=1)["input_ids"] for one in given]
        assert texts[0] == texts[1]


def test_videos_are_exchanged():
    rows = [make_sample("?", "x", videos=[make_video(index)]) for index in range(3)]
    exchanged = exchange_media(rows)
    assert all(one["videos"] is not other["videos"] for one, other in zip(rows, exchanged, strict=True))
    assert sorted(id(one["videos"]) for one in exchanged) == sorted(id(one["videos"]) for one in rows)
