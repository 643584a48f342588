"""Evaluation samples are found in training data, by text or media."""

import pytest

from tests.test_filters import CHINESE, HINDI, JAPANESE, THAI
from tests.test_prepare_data import SENTENCE, image_sample, jpeg, smooth_image, text_sample
from training.data.cleaning.contamination import EvaluationIndex
from training.data.cleaning.duplicates import take_fingerprint
from training.data.samples import whole_text
from training.data.synthetic.conversation import png_bytes
from training.data.words import words_of


def find(evaluation: dict, sample: dict, copies: int = 1) -> str | None:
    index = EvaluationIndex(words=13, distance=4)
    for copy in range(copies):
        index.add(f"test-{copy}", whole_text(evaluation), take_fingerprint(evaluation))
    return index.find(whole_text(sample), take_fingerprint(sample))


def test_texts_that_share_a_long_run_of_words_are_found():
    quoted = f"He said: {SENTENCE.upper()}, and went home."
    assert "'the quick brown fox" in find(text_sample(SENTENCE), text_sample(quoted))
    words = SENTENCE.split()
    assert find(text_sample(SENTENCE), text_sample(" ".join(words[:12]))) is None
    assert find(text_sample(" ".join(words[:9])), text_sample(SENTENCE)) is not None, "a whole evaluation text"
    assert find(text_sample("Yes, it is."), text_sample("Yes, it is.")) is None, "too short to tell"
    assert find(text_sample(SENTENCE), text_sample(SENTENCE), copies=11) is None, "the words of a prompt"


def test_images_that_look_alike_are_found_whatever_the_question():
    found = find(
        image_sample(png_bytes(smooth_image(1))), image_sample(jpeg(smooth_image(1)), answer="another question")
    )
    assert found == "an image like that of test-0"
    assert find(image_sample(png_bytes(smooth_image(1))), image_sample(png_bytes(smooth_image(2)))) is None


@pytest.mark.parametrize(
    ("text", "run", "fewest"), [(CHINESE, 26, 16), (JAPANESE, 26, 16), (THAI, 52, 32), (HINDI, 13, 8)]
)
def test_texts_of_every_script_are_found(text, run, fewest):
    words = words_of(text)
    joined = (" " if text is HINDI else "").join
    assert find(text_sample(text), text_sample(f"abc {joined(words[:run])} xyz")) is not None
    assert find(text_sample(text), text_sample(f"abc {joined(words[: run - 1])} xyz")) is None
    assert find(text_sample(joined(words[:fewest])), text_sample(text)) is not None, "a whole evaluation text"
    assert find(text_sample(joined(words[: fewest - 1])), text_sample(text)) is None, "too short to tell"
