"""An answer is right if its number equals that of the reference."""

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

    `numeric=0.01` accepts a deviation of 1 %. Formulas need math-verify
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
        references = [text for text in item.references if key("number", text) is not None]
        if not references:
            return ungraded("the reference is not a number" if item.references else "no reference")
        number = key("number", answer)
        if number is None:
            if re.search(r"\d|\\[a-z]", answer):
                return ungraded("its number cannot be read")
            return Grade(0.0, "names no number")
        matches = any(
            same("number", answer, reference) or self._near(number, reference)
            for reference in references
        )
        return Grade(float(matches), answer=str(number))

    def _near(self, number: object, reference: str) -> bool:
        expected = key("number", reference)
        if not isinstance(number, Fraction) or not isinstance(expected, Fraction):
            return False
        return abs(number - expected) <= Fraction(self.tolerance) * abs(expected)
