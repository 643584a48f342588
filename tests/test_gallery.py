"""The gallery shows the worst wrong answers, with their media, in one file."""

import io
import re

import PIL.Image
import pytest

from tests.conftest import make_audio, make_image, make_video
from training.data.samples import assistant_turn, medium, user_turn
from training.evaluation import gallery
from training.evaluation.evaluate import make_records, score_tasks
from training.evaluation.gallery import write_gallery


def make_page(path, samples, predictions) -> str:
    predictions = dict(enumerate(predictions))
    evaluation = {
        "tasks": score_tasks(samples, predictions, {}, {}),
        "records": make_records(samples, predictions, {}),
    }
    write_gallery(path, "toy <1>", samples, evaluation)
    return path.read_text(encoding="utf-8")


def question(text: str, answer: str, metric: str | None = None, **media) -> dict:
    return {"task": "t", "metric": metric, "messages": [user_turn(text), assistant_turn(answer)], **media}


def test_wrong_answers_alone_and_escaped(tmp_path):
    samples = [question("<b>first</b>", "yes"), question("second", "yes")]
    page = make_page(tmp_path / "errors.html", samples, ["<i>no</i>", "yes"])
    assert "&lt;b&gt;first" in page and "&lt;i&gt;no" in page and "second" not in page
    assert "toy &lt;1&gt;" in page and "exact_match 0.5000 over 2" in re.sub(r"\s+", " ", page)


@pytest.mark.parametrize(
    ("metric", "answer", "predictions", "shown"),
    [
        ("wer", "a b c", ["a b c", "a b", "x"], ["x", "a b"]),
        ("rouge", "a b c", ["a b c", "a b", "x"], ["x", "a b"]),
        ("number_match", "#### 3", ["so 3", "#### 4", "#### 3"], ["#### 4"]),
    ],
)
def test_the_worst_come_first_in_either_direction(tmp_path, monkeypatch, metric, answer, predictions, shown):
    samples = [question("?", answer, metric) for _ in predictions]
    page = make_page(tmp_path / "errors.html", samples, predictions)
    assert re.findall(r'<p class="answer">(.*?)</p>', page) == shown
    monkeypatch.setattr(gallery, "WORST", 1)
    page = make_page(tmp_path / "errors.html", samples, predictions)
    assert re.findall(r'<p class="answer">(.*?)</p>', page) == shown[:1]


def test_media_are_inside_the_page(tmp_path):
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(file, format="JPEG")
    samples = [question("?", "a", images=[medium(file.getvalue()), make_image(0)], audios=[make_audio(0)])]
    page = make_page(tmp_path / "errors.html", samples, ["b"])
    assert page.count("data:image/png;base64,") == 3, "two images and a spectrogram"
    assert page.count("data:audio/wav;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_video_is_shown_by_a_few_of_its_frames(tmp_path):
    samples = [
        question("?", "a", videos=[{"frames": [make_image(index) for index in range(9)], "fps": 1}, make_video(0)])
    ]
    page = make_page(tmp_path / "errors.html", samples, ["b"])
    assert page.count("data:image/png;base64,") == 4 + 3
