"""Chooses a grader for every row by what its reference is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, build, ungraded
from routewright.grading.graders.code import is_confined
from routewright.grading.graders.json import as_json
from routewright.grading.graders.multiple_choice import options_of, right_options
from routewright.grading.graders.numeric import is_number
from routewright.types import Query

LONGEST = 12  # words of a reference that an answer can be expected to repeat


@dataclass(frozen=True)
class Auto:
    """Chooses by the row: `tests` are run (`code`), a `schema` is checked (`json_schema`), a listed
    option is compared as one (`multiple_choice`), JSON as JSON (`json`), a number as a number
    (`numeric`), and a text of at most twelve words must be claimed (`match`).

    A longer reference, or none, needs a judge: name one beside it (`--grader auto --grader
    judge=EXPERT`). Code runs only where the system can confine it (Linux with Landlock and user
    namespaces), or if `--grader code` is named too.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("What is the capital of Germany?"), reference="Berlin"),
        "The answer is Berlin.",
        "The answer is Bonn.",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        name = choose(item)
        if name is None:
            return ungraded(
                f"its reference has more than {LONGEST} words: it needs a judge"
                if item.references
                else "no reference: it needs a judge"
            )
        grade: Grade = build(name).grade(item, answer)
        return grade


def choose(item: Item, *, code: bool = False) -> str | None:
    """The name of the grader for an item; None if only a judge can grade it. `code` tells whether
    answers may be run where the system cannot confine them.

    >>> choose(Item(Query.of("2 + 2?"), reference="4")), choose(Item(Query.of("Tell a joke.")))
    ('numeric', None)
    """
    if item.facts.get("tests"):
        return "code" if code or is_confined() else None
    if item.facts.get("schema"):
        return "json_schema"
    references = [reference for reference in item.references if reference.strip()]
    if not references:
        return None
    if options_of(item) and right_options(item):
        return "multiple_choice"
    if all(as_json(reference) is not None for reference in references):
        return "json"
    if all(is_number(reference) for reference in references):
        return "numeric"
    return "match" if all(len(text.split()) <= LONGEST for text in references) else None
