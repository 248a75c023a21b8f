"""An answer scores by the words that it shares with the reference."""

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

    If there are several references, the best match counts. An empty reference means that the
    question has no answer; then only an empty answer is right (SQuAD 2.0, arXiv 1806.03822).
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
        return Grade(max(overlap(answer, reference) for reference in item.references))


def overlap(answer: str, reference: str) -> float:
    """The F1 of an answer's words against those of a reference, 0..1.

    >>> overlap("the curie family", "Marie Curie")
    0.5
    """
    words, expected = _words(answer), _words(reference)
    if not words or not expected:
        return float(words == expected)
    shared = sum((Counter(words) & Counter(expected)).values())
    return 2 * shared / (len(words) + len(expected))


def _words(text: str) -> list[str]:
    return str(key("text", text) or "").split()
