"""Looks for grades that a person would doubt, so that a wrong grader is seen before a router learns
from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from routewright.answers.wording import normal

SHOWN = 3  # answers of each kind per expert
LONG = 40  # words from which a right answer is worth a look
NEVER = 0.05  # mean score up to which an expert is (almost) never right
OFTEN = 0.2  # share of answers that have their reference, from which that is suspicious
FEWEST = 5  # graded answers from which a warning means something
EXCERPT = 160  # characters of an answer that are shown


class Graded(NamedTuple):
    """One graded answer of an expert."""

    id: str
    text: str
    references: Sequence[str]
    score: float  # 0..1, NaN where it is unknown


@dataclass
class Audit:
    """What to check by eye about the grades of one expert."""

    graded: int = 0
    missed: list[dict[str, Any]] = field(default_factory=list)  # scored 0, with the reference in it
    long: list[dict[str, Any]] = field(default_factory=list)  # scored 1, and long
    warning: str = ""


def audit(expert: str, answers: Iterable[Graded]) -> Audit:
    """The answers of an expert that a person should check: those scored 0 that have the reference,
    and the longest that are scored 1; and a warning if the expert is almost never right though
    its answers have the references.

    >>> rows = [Graded(str(i), "It is Berlin, I think.", ["Berlin"], 0.0) for i in range(6)]
    >>> audit("small", rows).warning
    'small: 6 of 6 answers have their reference, but its mean score is 0.00: check the grader'
    """
    known = [answer for answer in answers if not math.isnan(answer.score)]
    having = [answer for answer in known if _has_reference(answer)]
    missed = [answer for answer in having if answer.score == 0]
    right = [answer for answer in known if answer.score == 1]
    long = sorted(right, key=lambda answer: -len(answer.text))
    long = [answer for answer in long if len(answer.text.split()) >= LONG]
    mean = math.fsum(answer.score for answer in known) / len(known) if known else math.nan
    warning = ""
    if len(known) >= FEWEST and mean <= NEVER and len(having) >= OFTEN * len(known):
        warning = (
            f"{expert}: {len(having)} of {len(known)} answers have their reference, but its mean"
            f" score is {mean:.2f}: check the grader"
        )
    return Audit(
        len(known),
        missed=[_shown(answer) for answer in missed[:SHOWN]],
        long=[_shown(answer) for answer in long[:SHOWN]],
        warning=warning,
    )


def _has_reference(answer: Graded) -> bool:
    text = f" {normal(answer.text)} "
    return any(f" {words} " in text for words in map(normal, answer.references) if words)


def _shown(answer: Graded) -> dict[str, Any]:
    text = " ".join(answer.text.split())
    text = text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"
    return {"id": answer.id, "answer": text, "reference": list(answer.references)}
