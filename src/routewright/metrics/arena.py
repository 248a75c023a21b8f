"""The scores of RouterArena (arXiv 2510.00202), as its code computes them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from routewright.metrics.choices import oracle
from routewright.policies import take
from routewright.types import Array, Indices

CHEAPEST, DEAREST = 0.0044, 200.0  # US$ per 1,000 queries: the ends of the arena's scale


def arena_score(accuracy: float, cost: float, beta: float = 0.1) -> float:
    """S_β = (1 + β) A C / (β A + C): accuracy and cheapness in one number, 0..1.

    `cost` is US$ per query, as everywhere here; C falls from 1 to 0 with the logarithm of what
    1,000 queries cost, between $0.0044 and $200. A small β favours accuracy: at β = 0, S = A.
    Free counts as the cheapest (the arena's code refuses it); an unknown cost gives NaN.
    """
    if not (math.isfinite(accuracy) and cost >= 0):
        return float("nan")
    thousand = min(max(1000 * cost, CHEAPEST), DEAREST)
    cheapness = math.log2(DEAREST / thousand) / math.log2(DEAREST / CHEAPEST)
    weight = beta * accuracy + cheapness
    return (1 + beta) * accuracy * cheapness / weight if weight > 0 else 0.0


class Optimality(NamedTuple):
    """How close a router came to always asking the cheapest expert that is right; 1 is ideal."""

    selection: float  # share of queries on which it did
    accuracy: float  # its score over the ideal one's
    cost: float  # what the ideal spends over what it spent, where it was right


def optimality(score: Array, cost: Array, choice: Indices) -> Optimality:
    """Opt.Sel, Opt.Acc and Opt.Cost over the queries that some expert gets right (score 1).

    Costs are US$, (n, e). Any of several equally cheap right experts is the ideal one. Opt.Cost
    alone is conditioned on the router being right: conditioning Opt.Acc makes it 1 always. NaN
    where nothing can be compared.
    """
    ideal = oracle(score, cost)
    got, spent, least = take(score, choice), take(cost, choice), take(cost, ideal)
    decided = (take(score, ideal) >= 1) & np.isfinite(got)
    hit = decided & (got >= 1)
    paid = hit & np.isfinite(spent) & np.isfinite(least)
    found = hit & ((choice == ideal) | (spent <= least))
    return Optimality(
        selection=_ratio(found.sum(), decided.sum()),
        accuracy=_ratio(got[decided].sum(), take(score, ideal)[decided].sum()),
        cost=_ratio(least[paid].sum(), spent[paid].sum()),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
