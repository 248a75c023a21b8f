"""The answer is the reference but for case, punctuation, articles and spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from routewright.answers.equivalence import key
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class Normalised:
    """Compares short texts as `equivalence` reads them.

    Case, punctuation, articles and spaces do not count; the sign and point of a number do.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("Who sang Help?"), reference=["The Beatles", "Beatles"]),
        "the beatles!",
        "The Who",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        right = [text for text in item.references if key("text", text) is not None]
        if not right:
            return ungraded("no reference")
        said = key("text", answer)
        hit = any(key("text", one) == said and _same_number(one, answer) for one in right)
        return Grade(float(hit), answer=None if said is None else str(said))


def _same_number(one: str, other: str) -> bool:
    """Without their punctuation, -5 would be 5 and 3.5 would be 35."""
    numbers = {key("number", one), key("number", other)}
    return None in numbers or len(numbers) == 1
