"""Scores of RouterArena (arXiv 2510.00202), as its code computes them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from routewright.metrics.choices import oracle
from routewright.policies import take
from routewright.types import Array, Indices

CHEAPEST, MOST_EXPENSIVE = 0.0044, 200.0  # US$ per 1,000 queries: the ends of the arena's scale


def arena_score(accuracy: float, cost: float, beta: float = 0.1) -> float:
    """S_β = (1 + β) A C / (β A + C): accuracy and cheapness in one number, 0..1.

    `cost` is in US$ per query. C falls from 1 to 0 with the logarithm of the cost of 1,000
    queries, between $0.0044 and $200. A small β favours accuracy: at β = 0, S = A. A cost of
    zero counts as the cheapest (the arena's code refuses it); an unknown cost gives NaN.
    """
    if not (math.isfinite(accuracy) and cost >= 0):
        return float("nan")
    per_thousand = min(max(1000 * cost, CHEAPEST), MOST_EXPENSIVE)
    cheapness = math.log2(MOST_EXPENSIVE / per_thousand) / math.log2(MOST_EXPENSIVE / CHEAPEST)
    total = beta * accuracy + cheapness
    return (1 + beta) * accuracy * cheapness / total if total > 0 else 0.0


class Optimality(NamedTuple):
    """How close a router came to always asking the cheapest expert that is right; 1 is ideal."""

    selection: float  # share of queries on which it asked that expert
    accuracy: float  # the router's score, divided by the ideal score
    cost: float  # the ideal cost, divided by the router's cost, where the router was right


def optimality(score: Array, cost: Array, choice: Indices) -> Optimality:
    """Opt.Sel, Opt.Acc and Opt.Cost over the queries that some expert gets right (score 1).

    `score` and `cost` (US$) are (n, e), `choice` is (n,). If several right experts are equally
    cheap, each counts as ideal. Only Opt.Cost is restricted to queries on which the router was
    right: that restriction would make Opt.Acc always 1. A figure without a query to compare is
    NaN.
    """
    ideal = oracle(score, cost)
    scores, costs, ideal_costs = take(score, choice), take(cost, choice), take(cost, ideal)
    solvable = (take(score, ideal) >= 1) & np.isfinite(scores)
    right = solvable & (scores >= 1)
    comparable = right & np.isfinite(costs) & np.isfinite(ideal_costs)
    optimal = right & ((choice == ideal) | (costs <= ideal_costs))
    return Optimality(
        selection=_ratio(optimal.sum(), solvable.sum()),
        accuracy=_ratio(scores[solvable].sum(), take(score, ideal)[solvable].sum()),
        cost=_ratio(ideal_costs[comparable].sum(), costs[comparable].sum()),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
