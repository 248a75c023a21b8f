"""An answer is right if it claims the reference, in whatever style it is written."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import ClassVar, Literal

from routewright.answers.claims import Claim, claims, normal, states
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.grading.graders.numeric import Numeric, is_number
from routewright.types import Query

POLAR = {"yes": "yes", "no": "no", "true": "yes", "false": "no", "correct": "yes"}
_POLAR = re.compile(r"\b(not (?:true|correct)|yes|no|true|false|correct|incorrect)\b")
_STRIPPED = string.whitespace + string.punctuation


@dataclass(frozen=True)
class Match:
    """Looks for the reference as a whole phrase where an answer states its result.

    That is the last `\\boxed{}`, "####" or "the answer is", and without one a part in bold, the
    first sentence or the last one. A phrase that is negated ("not Berlin"), one of several
    ("Bonn or Berlin") or only considered ("might be Berlin") is no right answer. Case, accents,
    articles and punctuation do not count; numbers are compared as numbers, dates in any order, and
    yes and no as what the answer says first or concludes.

    `match=begin`, `match=end`, `match=any` and `match=exact` have the meaning of inspect-ai's
    `match`: the answer begins or ends with the reference, has it anywhere, or is it, without
    regard to case and to punctuation around it.
    """

    location: Literal["claim", "begin", "end", "any", "exact"] = "claim"

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("What is the capital of Germany?"), reference="Berlin"),
        "Bonn was the capital until 1990. Today the capital of Germany is **Berlin**.",
        "It is not Berlin, but Bonn.",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        references = [text for text in item.references if text.strip()]
        if not references:
            return ungraded("no reference")
        if self.location != "claim":
            return Grade(float(any(self._stands(text, answer) for text in references)))
        numeric = Numeric().grade(item, answer) if any(map(is_number, references)) else None
        if numeric is not None and numeric.score == 1:
            return numeric
        parts = claims(answer)
        for claim in parts:
            if any(_claimed(claim, text) for text in references if not is_number(text)):
                return Grade(1.0, answer=claim.text[:200])
        return Grade(0.0, answer=parts[-1].text[:200] if parts else None)

    def _stands(self, reference: str, answer: str) -> bool:
        reference, answer = (text.strip(_STRIPPED).casefold() for text in (reference, answer))
        tests = {
            "begin": answer.startswith,
            "end": answer.endswith,
            "any": answer.__contains__,
            "exact": answer.__eq__,
        }
        return bool(tests[self.location](reference))


def _claimed(claim: Claim, reference: str) -> bool:
    if (polarity := POLAR.get(normal(reference))) is not None:
        return _polarity(claim.text) == polarity
    return states(claim.text, reference)


def _polarity(text: str) -> str | None:
    """What a claim says to a question for yes or no: its first such word."""
    match = _POLAR.search(normal(text))
    if match is None:
        return None
    return POLAR.get(match[1], "no")
