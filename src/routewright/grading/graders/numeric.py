"""An answer is right if its number equals that of the reference."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar

from pydantic import Field

from routewright.answers.claims import Claim, claims, numbers_in, sentences_of
from routewright.answers.equivalence import key
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

_NUMBER = re.compile(
    r"[~\u2248$€£¥+\-\u2212\s]{0,4}(?:\d[\d,._'\u00a0]*|\.\d+)(?:/\d+|[eE][+-]?\d{1,3})?"
    r"\s{0,2}(?:(?P<percent>%|percent)|(?P<unit>[^\W\d_]{1,15}[²³]?(?:/[^\W\d_]{1,10}[²³]?)?))?\.?"
)


@dataclass(frozen=True)
class Numeric:
    """Reads the number that an answer states as its result: 1,250.00, 1/2, 50 %, 3e5, seven.

    It is the one after the last `\\boxed{}`, "####" or "the answer is". Without such a mark it may
    be any that is asserted in bold, in the last sentence or, where nothing is reckoned ("="), in
    the first one: of "signed in 1776, by 56 delegates" both count, of "24 + 48 = 72" only 72 does.
    A number of the question counts only where the answer has no others, and a negated one or one
    of several ("5 or 6") does not.

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
        values = results(answer, item.query.text)
        if not values:
            if key("number", answer) is None and re.search(r"\d|\\[a-z]", answer):
                return ungraded("its number cannot be read")
            return Grade(0.0, "states no number as its result")
        matches = any(self._equal(*value, text) for value in values for text in references)
        return Grade(float(matches), answer=str(values[-1][0]))

    def _equal(self, number: object, word: str, reference: str) -> bool:
        """Whether a number, followed by a word or "%", is that of a reference; 25 % is 25 too."""
        expected, form = key("number", reference), is_number(reference)
        unit = form["unit"] if form else None
        if unit and word[:1].isalpha() and word[0] != unit[0].casefold():
            return False  # metres are not feet
        if not isinstance(number, Fraction) or not isinstance(expected, Fraction):
            return number == expected
        percent = word == "%" or (form is not None and form["percent"] is not None)
        scales = (1, 100, Fraction(1, 100)) if percent else (1,)
        tolerance = Fraction(self.tolerance) * abs(expected)
        return any(abs(number * scale - expected) <= tolerance for scale in scales)


def results(answer: str, question: str) -> list[tuple[Hashable, str]]:
    """The numbers that an answer states as its result, each with the word or "%" after it; those
    of formulas are keys of `equivalence`."""
    parts = claims(answer)
    marked = bool(parts) and parts[0].marked
    if "\\boxed{" in answer or (marked and "\\" in parts[0].text):
        number = key("number", answer)
        return [] if number is None else [(number, "")]
    if not marked and re.search(r"[=\u2248]", answer):  # reckoned: the end counts
        sentences = [Claim(part, marked=False) for part in sentences_of(answer)]
        states = (numbers_in(part, question) for part in reversed(sentences))
        return [*next(filter(None, states), [])]
    return [number for part in parts for number in numbers_in(part, question)]


def is_number(reference: str) -> re.Match[str] | None:
    """The match of a reference that is a number, perhaps with a currency, percent sign or unit."""
    return _NUMBER.fullmatch(reference.strip())
