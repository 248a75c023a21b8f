"""An answer is right if it has the reference anywhere, as in inspect-ai."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class Includes:
    """Looks for the reference anywhere in the answer, without regard to case.

    `includes=case` compares the case too. It has the meaning of inspect-ai's `includes`: an answer
    that names every option passes, and so does "not Berlin".
    """

    comparison: Literal["any", "case"] = "any"

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("What is the capital of Germany?"), reference="Berlin"),
        "It was Bonn, and is berlin now.",
        "Bonn",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        if not item.references:
            return ungraded("no reference")
        fold = str if self.comparison == "case" else str.casefold
        return Grade(float(any(fold(right) in fold(answer) for right in item.references)))
