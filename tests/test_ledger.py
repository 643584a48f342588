"""What a run learns from is written down when it begins: it goes on with the same samples in the same order, or says which are gone."""

import pytest

from training.data.ledger import FILE, Ledger
from training.data.loading import DIGEST, digest_of
from training.data.records import StreamedFile
from training.data.samples import DataError, LeftOut, assistant_turn, make_dataset, user_turn
from training.data.training_set import sample_columns, with_digests


def samples(*texts: str):
    made = [
        {"id": str(index), "task": "t", "messages": [user_turn(text), assistant_turn("yes")]}
        for index, text in enumerate(texts)
    ]
    return with_digests(make_dataset(made), 0)


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """Of a run that learns twice from c, then from b and a."""
    Ledger(sample_columns(samples("a", "b", "c").select([2, 1, 2, 0])), 6).write(tmp_path)
    return Ledger.read(tmp_path)


def questions(dataset) -> list[str]:
    return [turns[0]["content"][0]["text"] if turns else None for turns in dataset["messages"]]


def test_the_order_is_kept_wherever_the_samples_stand_now(ledger):
    left_out = LeftOut()
    assert questions(ledger.bring_back([samples("new", "c", "a", "b")], [False], left_out)) == ["c", "b", "c", "a"]
    assert not left_out.names and ledger.samples_per_step == 6


def test_what_is_gone_keeps_its_place_and_is_named_once(ledger, caplog):
    left_out = LeftOut()
    again = ledger.bring_back([samples("a", "b", "another")], [False], left_out)
    assert questions(again) == [None, "b", None, "a"]
    assert caplog.text.count("left out: sample 2 (t): it is gone, or is not what it was") == 1 == len(left_out.names)


def test_with_strict_it_is_an_error_with_names_and_the_way_out(ledger):
    with pytest.raises(
        DataError, match=r"changed since the run began: 2 \(t\) are gone .* Bring them back, set strict: false"
    ):
        ledger.bring_back([samples("a", "b")], [True], LeftOut())


def test_a_digest_is_of_what_is_learnt_and_not_of_a_name():
    one, other = samples("a", "a")
    assert one["id"] != other["id"] and one[DIGEST] == other[DIGEST] == digest_of(one)
    assert digest_of({**one, "images": [{"bytes": b"x", "path": None}]}) != one[DIGEST]


def test_a_picture_is_known_by_its_content_and_not_by_its_path(tmp_path):
    (one,) = samples("a")
    digests = []
    for name, content in (("a.png", b"x"), ("b.png", b"x"), ("a.png", b"y")):
        (tmp_path / name).write_bytes(content)
        digests.append(digest_of({**one, "images": [{"bytes": None, "path": str(tmp_path / name)}]}))
    assert digests[0] == digests[1] != digests[2]


def test_files_of_a_stream_are_read_back(tmp_path):
    files = [[StreamedFile("a", 3, "x", 1)], [], [StreamedFile("b", 4, "y", 2), StreamedFile("c", 5, "z", 1)]]
    rows = [(source, *file) for source, listed in enumerate(files) for file in listed]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("source", *StreamedFile._fields))}
    Ledger(columns, 4).write(tmp_path)
    assert Ledger.read(tmp_path).files(3) == files


def test_a_damaged_one_is_said_and_a_missing_one_is_a_run_of_before(tmp_path):
    assert Ledger.read(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged, so that nothing tells which samples"):
        Ledger.read(tmp_path)
