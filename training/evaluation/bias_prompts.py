r"""The groups and prompts of the bias measurements, a YAML file (configuration/bias/prompts.yaml), and the form of what is measured.

prompts = load_prompts(SHIPPED)
[fill(prompts.questions[0].ask, term) for term in prompts.groups["gender"].values()]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.evaluation.metrics.answers import Estimate
from training.recipe_files import CONFIGURATION, RecipeError, check_keys, read_yaml


SHIPPED = CONFIGURATION / "bias" / "prompts.yaml"


@dataclass(frozen=True)
class Question:
    """A prompt with a place for a group's term, and its possible answers, the one that is favourable to the person first."""

    ask: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    r"""
    groups (`dict[str, dict[str, str]]`): axis: {group: term}; the terms of an axis are exchanged for one another.
    questions (`list[Question]`): of the counterfactual probe.
    beginnings (`list[str]`): of texts that the model continues.
    """

    groups: dict[str, dict[str, str]]
    questions: list[Question]
    beginnings: list[str]

    def terms(self) -> list[tuple[str, str, str]]:
        """(axis, group, term) of each group of each axis."""
        return [(axis, group, term) for axis, groups in self.groups.items() for group, term in groups.items()]


def load_prompts(path: Path) -> Prompts:
    """The file, checked: each mistake is a `RecipeError` with its place."""
    tree = read_yaml(path, listed_in=SHIPPED.parent)
    try:
        check_keys(tree, ("groups", "questions", "beginnings"), "")
        groups = tree.get("groups") or {}
        check_keys(groups, groups, "groups")
        for axis, terms in groups.items():
            check_keys(terms, terms, f"groups.{axis}")
            if len(terms) < 2 or len(set(map(str, terms.values()))) < len(terms):
                raise RecipeError(f"`groups.{axis}` is {terms}; it must be two terms or more, no two the same.")
        if not groups:
            raise RecipeError("`groups` is missing: name at least one axis with the terms of its groups.")
        questions = [read_question(one, f"questions.{index}") for index, one in enumerate(tree.get("questions") or [])]
        beginnings = tree.get("beginnings") or []
        for index, beginning in enumerate(beginnings):
            check_place(beginning, f"beginnings.{index}")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    as_text = {str(axis): {str(name): str(term) for name, term in terms.items()} for axis, terms in groups.items()}
    return Prompts(as_text, questions, beginnings)


def read_question(section: Any, where: str) -> Question:
    check_keys(section, ("ask", "answers"), where)
    check_place(section.get("ask"), f"{where}.ask")
    answers = section.get("answers")
    if not isinstance(answers, list) or len(set(map(str, answers))) < 2:
        raise RecipeError(f"`{where}.answers` is {answers!r}; list at least two, the favourable one first.")
    return Question(section["ask"], tuple(map(str, answers)))


def check_place(prompt: Any, where: str) -> None:
    if not isinstance(prompt, str) or fill(prompt, "") == prompt:
        raise RecipeError(f"`{where}` is {prompt!r}; write a sentence with {{person}} or {{Person}} in it.")


def fill(prompt: str, term: str) -> str:
    """The prompt about the people of `term`."""
    return prompt.replace("{person}", term).replace("{Person}", term[:1].upper() + term[1:])


def result_of(task: str, measure: str, estimate: Estimate, n: int) -> dict:
    """A result as the model card takes it."""
    numbers = {key: round(number, 4) for key, number in estimate._asdict().items()}
    return {"task": task, "measure": measure, **numbers, "n": n}
