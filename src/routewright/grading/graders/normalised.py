"""An answer is right if it equals the reference without case, punctuation, articles and spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from routewright.answers.equivalence import key
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class Normalised:
    """Compares short texts by the rules of `equivalence`.

    The sign and the decimal point of a number are compared, although they are punctuation.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("Who sang Help?"), reference=["The Beatles", "Beatles"]),
        "the beatles!",
        "The Who",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        references = [text for text in item.references if key("text", text) is not None]
        if not references:
            return ungraded("no reference")
        reduced = key("text", answer)
        matches = any(
            key("text", reference) == reduced and _same_number(reference, answer)
            for reference in references
        )
        return Grade(float(matches), answer=None if reduced is None else str(reduced))


def _same_number(one: str, other: str) -> bool:
    """Whether two texts name the same number, or one of them none: without punctuation, -5 would
    equal 5 and 3.5 would equal 35."""
    numbers = {key("number", one), key("number", other)}
    return None in numbers or len(numbers) == 1
