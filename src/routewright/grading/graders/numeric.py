"""The answer's number is the reference's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar

from pydantic import Field

from routewright.answers.equivalence import key, same
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class Numeric:
    """Reads the number that an answer marks or ends with: 1,250.00, 1/2, 50 %, 3e5.

    `numeric=0.01` lets it be off by one per cent. Formulas need math-verify
    (`pip install routewright[maths]`); without it they stay ungraded.
    """

    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # relative to the reference

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("A pen costs $2.50. What do 500 pens cost?"), reference="1250"),
        "500 × 2.50 = 1,250, so they cost **$1,250.00**.",
        "$1,205",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        right = [text for text in item.references if key("number", text) is not None]
        if not right:
            return ungraded("the reference is no number" if item.references else "no reference")
        said = key("number", answer)
        if said is None:
            if re.search(r"\d|\\[a-z]", answer):
                return ungraded("its number cannot be read")
            return Grade(0.0, "names no number")
        hit = any(same("number", answer, one) or self._near(said, one) for one in right)
        return Grade(float(hit), answer=str(said))

    def _near(self, said: object, reference: str) -> bool:
        right = key("number", reference)
        if not isinstance(said, Fraction) or not isinstance(right, Fraction):
            return False
        return abs(said - right) <= Fraction(self.tolerance) * abs(right)
