"""An answer is right if it equals the reference, character by character."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class Exact:
    """Compares character by character.

    White space at either end is ignored; case is not.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("Reverse the word stressed."), reference="desserts"),
        " desserts\n",
        "Desserts",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        if not item.references:
            return ungraded("no reference")
        text = answer.strip()
        return Grade(float(text in {right.strip() for right in item.references}), answer=text)
