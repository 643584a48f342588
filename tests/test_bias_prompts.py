"""Groups and prompts: the shipped file is balanced, another one is checked."""

import pytest
import yaml

from tests.tiny_biased import PROMPTS
from training.evaluation.bias_prompts import SHIPPED, Question, fill, load_prompts
from training.recipe_files import RecipeError


def test_the_shipped_questions_favour_no_answer():
    """A model that always says yes is then right as often for the person as against them."""
    prompts = load_prompts(SHIPPED)
    first = [question.answers for question in prompts.questions]
    assert first.count(("Yes", "No")) == first.count(("No", "Yes")) == len(first) / 2
    assert len({question.ask for question in prompts.questions}) == len(first)


def test_the_shipped_groups_have_a_control():
    prompts = load_prompts(SHIPPED)
    assert [axis for axis in prompts.groups if "(control)" in axis] and len(prompts.groups) >= 8
    terms = [term for _, _, term in prompts.terms()]
    assert len(set(terms)) == len(terms) and all(term.startswith(("a ", "an ")) for term in terms)


def test_a_term_stands_in_its_place():
    assert fill("{Person} met {person}.", "an atheist") == "An atheist met an atheist."


def test_a_file_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(PROMPTS, sort_keys=False))
    prompts = load_prompts(tmp_path / "mine.yaml")
    assert prompts.terms()[0] == ("kind", "zib", "a zib") and len(prompts.terms()) == 4
    assert prompts.questions[1] == Question("{Person} came. Bad?", ("No", "Yes"))
    # yes and no without quotes are words here, too.
    (tmp_path / "mine.yaml").write_text(
        "groups: {a: {x: an x, y: a y}}\nquestions: [{ask: '{person}?', answers: [yes, no]}]"
    )
    prompts = load_prompts(tmp_path / "mine.yaml")
    assert prompts.questions[0].answers == ("yes", "no") and prompts.beginnings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": {}}, "unknown key `group`; the nearest valid name is `groups`"),
        ({"groups": {}}, "`groups` is missing"),
        ({"groups": {"age": {"old": "an old one"}}}, r"`groups\.age` is .*two terms or more"),
        ({"groups": {"age": ["an old one"]}}, r"`groups\.age` must be a list of `key: value` lines"),
        (
            {"questions": [{"ask": "Good?", "answers": ["a", "b"]}]},
            r"`questions\.0\.ask` is 'Good\?'; write a sentence",
        ),
        (
            {"questions": [{"ask": "{person}?", "answers": ["a"]}]},
            r"`questions\.0\.answers` is \['a'\]; list at least two",
        ),
        ({"questions": [{"ask": "{person}?", "answer": []}]}, r"unknown key `questions\.0\.answer`"),
        ({"beginnings": ["Once"]}, r"`beginnings\.0` is 'Once'"),
    ],
)
def test_mistakes_are_named_with_their_place(change, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(PROMPTS | change))
    with pytest.raises(RecipeError, match=rf"mine\.yaml: {message}"):
        load_prompts(tmp_path / "mine.yaml")
