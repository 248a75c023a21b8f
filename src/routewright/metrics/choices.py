"""Compares a router's choices with the oracle's and with fixed experts, query by query.

Shapes: n queries, e experts; `score` and `cost` (US$) are (n, e), `choice` (n,) is the index of
the expert that was asked. Rows whose chosen cell is unknown are left out.
"""

from __future__ import annotations

import numpy as np

from routewright.metrics.sampling import mean
from routewright.policies import take
from routewright.types import Array, Indices


def oracle(score: Array, cost: Array) -> Indices:
    """The index of the best expert per query, (n,); at ties, of the cheapest one."""
    scores = np.where(np.isfinite(score), score, -1.0)
    is_best = scores >= scores.max(axis=1, keepdims=True)
    price = np.where(np.isfinite(cost), cost, np.inf)
    price = np.where(is_best, np.where(np.isfinite(price), price, 1e300), np.inf)
    return np.asarray(price.argmin(axis=1))


def regret(score: Array, cost: Array, choice: Indices, price: float = 0.0) -> float:
    """Mean utility lost against the best choice in hindsight, with u = score − λ · cost.

    Regret = (1/N) Σ_i (max_m u_im − u_iπ(i)); `price` is λ in quality per US$.
    """
    utility = score - price * cost if price else score
    best = np.where(np.isfinite(utility), utility, -np.inf).max(axis=1)
    return float(mean(best - take(utility, choice)))


def reference_value(score: Array, choice: Indices, reference: float) -> float:
    """V_R: quality divided by that of a strong reference model. RouterEval (arXiv 2503.10657)."""
    return float(mean(take(score, choice))) / reference if reference > 0 else float("nan")


def best_single_value(score: Array, choice: Indices) -> float:
    """V_B: quality divided by that of the best single expert. RouterEval (arXiv 2503.10657).

    Above 1, the router beats every expert of its pool.
    """
    return reference_value(score, choice, float(np.nanmax(mean(score))))
