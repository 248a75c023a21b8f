"""What strategies find in a table of recorded outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright.answers.evidence import NOBODY, UNSURE, Evidence, Replies, Rung, RungState
from routewright.types import Array, Indices, Prediction

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes


class Run(NamedTuple):
    """What a strategy did with n recorded queries, and what that gave."""

    score: Array  # (n,)
    cost: Array  # (n,) US$, everything spent on the way
    asked: NDArray[np.bool_]  # (n, e)
    rung: Indices  # (n,) how far it climbed
    kept: NDArray[np.bool_]  # (n,) the answer came from the committee


def rung_states(evidence: Evidence, outcomes: Outcomes, prediction: Prediction) -> list[RungState]:
    """How recorded queries stand on every rung of the ladder."""
    found: list[RungState] = []
    option_chances = evidence.option_chances(outcomes.queries)
    for r, rung in enumerate(evidence.rungs):
        replies = recorded(evidence, rung, outcomes, option_chances)
        if rung.checked:
            replies = verified(replies, outcomes, found[-1].best)
        found.append(evidence.assess(r, replies, prediction))
    return found


def recorded(
    evidence: Evidence, rung: Rung, outcomes: Outcomes, option_chances: Array | None = None
) -> Replies:
    """What the members of a rung are recorded to have said; a call without a score has failed.
    `option_chances` is what the evidence makes of the queries' options."""
    columns = list(rung.members)
    known = answered(outcomes)[:, columns]
    texts = np.full(known.shape, None, dtype=object)
    if outcomes.answers is not None:
        texts[known] = outcomes.answers[:, columns][known]
    logprob = outcomes.measures.get("logprob")
    seen = None if logprob is None else np.where(known, logprob[:, columns], np.nan)
    return evidence.read(texts, option_chances, seen)


class Checked(NamedTuple):
    """What verifying recorded answers gave."""

    sure: Array  # (n,) 0..1; UNSURE where no verification is recorded
    cost: Array  # (n,) US$; counted as `Outcomes.record` does


def checked(outcomes: Outcomes, whose: Indices) -> Checked:
    """Of n answers, whoever gave them; NOBODY is not verified."""
    unknown = np.full(len(outcomes), np.nan)
    place = np.arange(len(outcomes)), whose

    def told(measure: str) -> Array:
        table = outcomes.measures.get(measure)
        return unknown if table is None else table[place]

    sure, cost = told("verify"), told("verify_cost")
    cost = np.where(np.isfinite(cost), cost, outcomes.charges[place])
    known = (whose != NOBODY) & np.isfinite(told("score")) & np.isfinite(sure)
    return Checked(np.where(known, sure, UNSURE), np.where(known, cost, 0.0))


def verified(replies: Replies, outcomes: Outcomes, whose: Indices) -> Replies:
    """The same, and what was recorded of verifying those answers."""
    return replies._replace(checked=whose, sure=checked(outcomes, whose).sure)


def answered(outcomes: Outcomes) -> NDArray[np.bool_]:
    """(n, e): whose answer is recorded; the others could not have been asked."""
    return np.isfinite(outcomes.score)


def readable(evidence: Evidence, outcomes: Outcomes, place: Any = ...) -> NDArray[np.bool_]:
    """(n, e), or at some places of that: is there a recorded answer that can be read?"""
    known: NDArray[np.bool_] = answered(outcomes)[place]
    if outcomes.answers is None:
        return known
    texts = outcomes.answers[place]
    reads = {text: text is not None and evidence.readable(str(text)) for text in set(texts.flat)}
    return known & np.array([reads[text] for text in texts.flat], bool).reshape(texts.shape)
