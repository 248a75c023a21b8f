"""The answer picks the right option, by its letter or in its words."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from routewright.answers.equivalence import key
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class MultipleChoice:
    """Reads the letter of an option, or its words where the item has `choices`.

    The reference is a letter, an option's words, or its place counted from 0.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(
            Query.of("What is 2 + 2?\nA. 3\nB. 4\nC. 5"),
            reference="B",
            facts={"choices": ["3", "4", "5"]},
        ),
        "The answer is (B), because 2 + 2 = 4.",
        "C",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        choices = [str(choice) for choice in item.facts.get("choices") or ()]
        right = {_reference(one, choices) for one in _all(item.reference)} - {None}
        if not right:
            return ungraded("the reference is no option" if item.references else "no reference")
        letter = _letter(answer, choices)
        if letter is not None:
            return Grade(float(letter in right), answer=letter)
        named = _named(answer, choices)
        if len(named) > 1:
            return ungraded(f"names several options: {', '.join(named)}")
        said = named[0] if named else None
        return Grade(float(said in right), "" if said else "names no option", said)


def _all(reference: object) -> list[object]:
    return list(reference) if isinstance(reference, list | tuple) else [reference]


def _reference(right: object, choices: Sequence[str]) -> str | None:
    if isinstance(right, int) and not isinstance(right, bool):
        return string.ascii_uppercase[right] if 0 <= right < min(len(choices), 26) else None
    if not isinstance(right, str):
        return None
    if right in choices:
        return _nth(choices.index(right))
    return _letter(right, choices)


def _letter(text: str, choices: Sequence[str]) -> str | None:
    letter = key("letter", text)
    if letter is None or (choices and str(letter) not in string.ascii_uppercase[: len(choices)]):
        return None
    return str(letter)


def _named(text: str, choices: Sequence[str]) -> list[str]:
    """The options whose words the answer holds; one that is part of another does not count."""
    said = f" {key('text', text) or ''} "
    words = [f" {key('text', choice) or ''} " for choice in choices]
    there = [i for i, one in enumerate(words) if one.strip() and one in said]
    return [_nth(i) for i in there if not any(words[i] in words[j] and i != j for j in there)]


def _nth(place: int) -> str:
    return string.ascii_uppercase[place] if place < 26 else str(place)
