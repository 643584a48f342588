"""The report: one file that needs nothing else, with everything from the data escaped."""

import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from training.data.synthetic.conversation import png_bytes, wav_bytes
from training.demo.report import card, duration, loss_curve, percent, write_report


HOSTILE = '<script>alert("x")</script>\' & <img src=x onerror=y>'
SCORE = {"exact_match": 0.975, "majority": 0.2, "shuffled": 0.11, "n": 200, "low": 0.9, "high": 0.99}
RESULTS = {
    "tasks": {
        "digit_caption": SCORE,
        "scene_colour": SCORE,
        "audio_count": SCORE,
        "text_sort": {**SCORE, "shuffled": None},
    },
    "train_seconds": 245.3,
    "total_seconds": 301.0,
    "parameters": 1234567,
    "steps": 100,
    "samples": 800,
    "loss": 0.123,
    "model_dir": "outputs/demo/model",
    "hardware": "2 CPU cores",
    "versions": {"torch": "2.14.1", "transformers": "5.23.0"},
    "fresh_process": {
        "class": "MMGPTForConditionalGeneration",
        "module": "transformers_modules.model.modeling_mmgpt",
        "answers": 4,
        "generate_agrees": 4,
        "pipeline_answers": 2,
        "pipeline_agrees": 2,
    },
}
LOG = [{"step": step, "loss": 4.0 * 0.97**step} for step in range(5, 101, 5)] + [{"step": 100, "train_runtime": 9.0}]


def example(task: str, answer: str = "red", **media) -> dict:
    sample = {"images": [], "audios": [], **media}
    return {"task": task, "question": HOSTILE, "reference": "red", "generate": answer, "sample": sample}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    image = [{"bytes": png_bytes(Image.new("RGB", (8, 8), "red")), "path": None}]
    audio = [{"bytes": wav_bytes(np.sin(np.arange(4000) / 3), 8000), "path": None}]
    examples = [
        example("digit_caption", images=image),
        example("scene_colour", answer=HOSTILE, images=image),
        example("audio_count", audios=audio),
        example("text_sort"),
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, RESULTS, examples, LOG)
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects tags with their attributes, and checks that they are nested."""

    void = {"meta", "img", "br", "line", "path", "polygon"}

    def __init__(self, page: str):
        super().__init__()
        self.open, self.found = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestPage:
    def test_needs_nothing_else(self, page):
        tags = Tags(page)
        assert not tags.open
        assert {tag for tag, _ in tags.found}.isdisjoint({"script", "link", "iframe", "object", "base"})
        for _, attributes in tags.found:
            for key in ("src", "href", "srcset", "poster", "data"):
                assert attributes.get(key, "data:").startswith("data:")
        assert not re.search(r"url\(|@import|https?://", page)

    def test_text_is_escaped(self, page):
        assert "<script" not in page
        assert "onerror=y>" not in page
        assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;") == 5  # four questions, one answer

    def test_numbers_are_there(self, page):
        assert "1,234,567 parameters" in page
        assert "4 min 5 s" in page
        assert page.count("97.5\u202f%") == 8  # four tasks and their four sections
        assert "4 of 4" in " ".join(page.split())

    def test_media_are_embedded(self, page):
        kinds = [
            attributes["src"].partition(";")[0] for tag, attributes in Tags(page).found if tag in ("img", "audio")
        ]
        assert sorted(kinds) == ["data:audio/wav", "data:image/png", "data:image/png", "data:image/png"]

    def test_wrong_answers_are_shown_as_wrong(self, page):
        assert page.count("✓ right") == 3
        assert page.count("✗ expected: red") == 1

    def test_phone_and_dark(self, page):
        assert "width=device-width" in page
        assert "prefers-color-scheme: dark" in page
        assert "@media (max-width:" in page

    def test_sections_without_data_are_left_out(self, tmp_path):
        write_report(tmp_path / "report.html", {**RESULTS, "tasks": {"text_sort": SCORE}}, [example("text_sort")], [])
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "Drawn scenes" not in page
        assert "How it learnt" not in page


def test_card_judges_the_answer_of_the_fresh_process():
    assert card(example("text_sort"))["right"]
    assert not card(example("text_sort", answer="blue"))["right"]


class TestLossCurve:
    def test_falls_from_left_to_right(self):
        curve = loss_curve(LOG)
        points = [tuple(map(float, point.split())) for point in curve["path"].removeprefix("M").split(" L")]
        assert len(points) == 20
        assert points == sorted(points)
        assert [y for _, y in points] == sorted(y for _, y in points)  # down on the screen
        assert all(curve["left"] <= x <= curve["right"] and 0 <= y <= curve["bottom"] for x, y in points)
        assert curve["final"] == pytest.approx(4.0 * 0.97**100)

    def test_log_scale(self):
        ticks = loss_curve(LOG)["losses"]
        gaps = {round(first["y"] - second["y"], 0) for first, second in itertools.pairwise(ticks)}
        assert len(gaps) <= 2
        assert [tick["text"] for tick in ticks] == ["0.125", "0.25", "0.5", "1", "2", "4"]

    def test_nothing_to_draw(self):
        assert loss_curve([]) is None
        assert loss_curve([{"step": 1, "loss": 2.0}]) is None


def test_numbers_as_text():
    assert [percent(share) for share in (0, 0.1234, 0.9996, 1)] == [
        "0\u202f%",
        "12.3\u202f%",
        "100\u202f%",
        "100\u202f%",
    ]
    assert [duration(seconds) for seconds in (7.4, 60, 245.3)] == ["7 s", "1 min 0 s", "4 min 5 s"]
