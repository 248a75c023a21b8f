"""What decides about a query that is unlike the training rows: the fixed mix of the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routewright.answers.evidence import NOBODY
from routewright.policies import mix_at_cost, zero_router
from routewright.types import Array, Decision, Indices, Unlike

Mask = NDArray[np.bool_]
FAMILIAR = 0.5  # least familiarity of a query that is decided by predictions
REASONS = {
    "query": "the query is unlike the training rows",
    "answers": "no answer of the first experts can be read",
}


class KnowsMeans(Protocol):
    """A router that knows the mean score and cost (US$) of each expert, (e,)."""

    @property
    def mean(self) -> Array: ...

    @property
    def average_cost(self) -> Array: ...


def unfamiliar(trust: Array | None) -> Mask:
    """Whether queries of that familiarity (n,) are unlike the training rows."""
    return np.zeros(1, bool) if trust is None else np.asarray(trust < FAMILIAR)


def by_fixed_mix(decision: Decision, unlike: Unlike) -> Decision:
    """The decision with the reason why a fixed mix made it."""
    because = f"{REASONS[unlike]}, so the fixed mix decides: {decision.answer.expert} answers"
    return replace(decision, because=because, unlike=unlike)


def fixed_asks(
    router: KnowsMeans,
    budget: float,
    lot: Array,
    admissible: Mask,
    members: Sequence[int] = (),
) -> Indices:
    """The expert (n,) that the fixed mix of `budget` US$ per query asks.

    The mix is a point of the zero router over the `admissible` experts (n, e) that are steady over
    topics, or over all admissible ones if each of those costs more than the budget. `members` have
    been asked already and gave no readable answer: their average cost is spent, no further answer
    of theirs is any better, and if nothing is left, none is asked (NOBODY).
    """
    count = len(router.mean)
    mean = router.mean if members else getattr(router, "steady_mean", router.mean)
    cost = np.append(router.average_cost, 0.0)
    spent = float(np.nansum(cost[list(members)]))
    asks = np.full(len(lot), NOBODY)
    patterns, pattern = np.unique(admissible, axis=0, return_inverse=True)
    for k, allowed in enumerate(patterns):
        rows = np.flatnonzero(pattern.ravel() == k)
        for known in (mean, router.mean):
            quality = np.append(np.where(allowed, known, np.nan), np.nan)
            quality[list(members)] = np.nan
            if members:
                quality[count] = 0.0  # the answers in hand, which nothing can read
            hull = zero_router(quality, cost)
            if hull and hull[0].cost <= budget - spent:
                break  # else no steady expert is cheap enough
        if hull:
            mix = mix_at_cost(hull, budget - spent)
            asks[rows] = np.where(lot[rows] < mix.share, mix.expensive, mix.cheap)
    return np.where(asks == count, NOBODY, asks)
