"""An answer is right if it names the right option, by its letter or by its words."""

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
    """Reads the letter of an option, or its words if the item has `choices`.

    The reference is a letter, the words of an option, or its position, counted from 0.
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
            return ungraded(
                "the reference is none of the options" if item.references else "no reference"
            )
        letter = _letter(answer, choices)
        if letter is not None:
            return Grade(float(letter in right), answer=letter)
        options = _named(answer, choices)
        if len(options) > 1:
            return ungraded(f"names several options: {', '.join(options)}")
        letter = options[0] if options else None
        return Grade(float(letter in right), "" if letter else "names no option", letter)


def _all(reference: object) -> list[object]:
    return list(reference) if isinstance(reference, list | tuple) else [reference]


def _reference(right: object, choices: Sequence[str]) -> str | None:
    """The letter of the option that a reference names; None if it names none."""
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
    """The letters of the options whose words are in the text, without those that are part of
    another one."""
    answer = f" {key('text', text) or ''} "
    words = [f" {key('text', choice) or ''} " for choice in choices]
    matches = [i for i, option in enumerate(words) if option.strip() and option in answer]
    return [_nth(i) for i in matches if not any(words[i] in words[j] and i != j for j in matches)]


def _nth(place: int) -> str:
    return string.ascii_uppercase[place] if place < 26 else str(place)
