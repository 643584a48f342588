"""The shipped recipes on their data: what is learnt, what is judged and how. Skipped where the data are not there."""

from pathlib import Path

import pytest

from training.data.samples import answer_of, references_of, text_of
from training.data.training_set import load_mixture
from training.recipe import CONFIGURATION, load_recipe


ROOT = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def load_samples(name: str, split: str) -> list[dict]:
    if not (ROOT / name).is_dir():
        pytest.skip(f"the data set {name} is not in {ROOT}")
    recipe = load_recipe(CONFIGURATION / "recipes" / f"{name}.yaml", [f"data.root={ROOT}"])
    return list(load_mixture(getattr(recipe.data, split), recipe.data.root))


@pytest.mark.parametrize(
    ("name", "metric", "train", "test"),
    [
        ("opennmt_ende", "bleu", 10000, 1500),
        ("dialogsum", "rouge", 12460, 500),
        ("squad2_devhalf", "squad", 4425, 903),
        ("gsm8k", "number_match", 7000, 1319),
        ("tinyshakespeare", "perplexity", 1, 1),
        ("sign_digits", None, 1662, 200),
        ("esc10", None, 238, 80),
        ("fashion_mnist_small", None, 1600, 1770),
    ],
)
def test_every_sample_is_there_with_its_metric(name, metric, train, test):
    for split, count in (("train", train), ("test", test)):
        samples = load_samples(name, split)
        assert len(samples) == count
        assert {sample["metric"] for sample in samples} == {metric} and {sample["task"] for sample in samples} == {
            name
        }


def test_translation_is_of_text_as_people_write_it():
    sample = load_samples("opennmt_ende", "test")[0]
    assert text_of(sample["messages"][0]).startswith(
        "Translate en to de: The result: between those two wars, 150 female"
    )
    assert answer_of(sample).endswith("150 Soldatinnen, zwei Drittel von ihnen in Kampfhandlungen.")


def test_summaries_are_judged_by_three():
    samples = load_samples("dialogsum", "test")
    assert all(1 < len(references_of(sample)) <= 3 for sample in samples)
    assert all(len(references_of(sample)) == 1 for sample in load_samples("dialogsum", "validation"))


def test_questions_without_an_answer_are_said_to_have_none():
    samples = load_samples("squad2_devhalf", "train")
    unanswerable = sum(answer_of(sample) == "unanswerable" for sample in samples) / len(samples)
    assert unanswerable == pytest.approx(0.5116, abs=1e-4)


def test_the_text_is_whole():
    assert len(answer_of(load_samples("tinyshakespeare", "test")[0])) == 111_540 - 1  # without the line end


def test_recordings_are_asked_for_by_what_makes_them():
    sample = load_samples("esc10", "test")[0]
    assert text_of(sample["messages"][0]) == "What makes this sound?" and len(sample["audios"]) == 1
    assert {answer_of(sample) for sample in load_samples("esc10", "test")} >= {
        "dog bark",
        "rain",
        "sea waves",
        "rooster",
    }
