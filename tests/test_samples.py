"""The one sample format: every column is there, and the answer is the last turn."""

import pytest

from training.data.samples import FEATURES, answer_of, assistant_turn, make_dataset, text_of, user_turn


def test_all_columns_are_there():
    turns = [user_turn("which?"), assistant_turn("this")]
    samples = make_dataset([{"id": "0", "task": "text", "messages": turns}])
    assert samples.features == FEATURES
    assert samples[0]["images"] == [] and samples[0]["audios"] == []


def test_text_and_answer():
    sample = {"messages": [user_turn("which?", media=("image",)), assistant_turn(" this ")]}
    assert text_of(sample["messages"][0]) == "which?"
    assert text_of({"role": "user", "content": "plain"}) == "plain"
    assert answer_of(sample) == "this"


def test_a_sample_without_an_answer_is_named():
    with pytest.raises(ValueError, match="sample '7' ends with a user turn"):
        answer_of({"id": "7", "messages": [user_turn("which?")]})
