"""How many words the answer shares with the reference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from routewright.answers.equivalence import key
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query


@dataclass(frozen=True)
class F1:
    """Harmonic mean of precision and recall over words, as in SQuAD (arXiv 1606.05250, 6.1).

    Of several references the best counts. An empty one says that the question has no answer:
    only an empty answer is right then (SQuAD 2.0, arXiv 1806.03822).
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("Who discovered radium?"), reference="Marie and Pierre Curie"),
        "Marie and Pierre Curie",
        "Ernest Rutherford",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        if not item.references:
            return ungraded("no reference")
        return Grade(max(overlap(answer, right) for right in item.references))


def overlap(said: str, right: str) -> float:
    """
    >>> overlap("the curie family", "Marie Curie")
    0.5
    """
    mine, theirs = _words(said), _words(right)
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))


def _words(text: str) -> list[str]:
    return str(key("text", text) or "").split()
