"""How good were the choices, query by query? Against the oracle and against fixed experts.

Shapes: n queries, e experts; `score` and `cost` (US$) are (n, e), `choice` (n,) is the index of
the expert asked. Rows whose chosen cell is unknown are left out.
"""

from __future__ import annotations

import numpy as np

from routewright.metrics.sampling import mean
from routewright.policies import take
from routewright.types import Array, Indices


def oracle(score: Array, cost: Array) -> Indices:
    """The best expert per query, the cheapest of them at ties; (n, e) gives (n,)."""
    filled = np.where(np.isfinite(score), score, -1.0)
    best = filled >= filled.max(axis=1, keepdims=True)
    price = np.where(np.isfinite(cost), cost, np.inf)
    price = np.where(best, np.where(np.isfinite(price), price, 1e300), np.inf)
    return np.asarray(price.argmin(axis=1))


def regret(score: Array, cost: Array, choice: Indices, price: float = 0.0) -> float:
    """Mean utility lost against the best choice in hindsight, with u = score − λ · cost.

    Regret = (1/N) Σ_i (max_m u_im − u_iπ(i)); `price` is λ in quality per US$.
    """
    utility = score - price * cost if price else score
    best = np.where(np.isfinite(utility), utility, -np.inf).max(axis=1)
    return float(mean(best - take(utility, choice)))


def reference_value(score: Array, choice: Indices, reference: float) -> float:
    """V_R, quality relative to a strong reference model's: RouterEval (arXiv 2503.10657)."""
    return float(mean(take(score, choice))) / reference if reference > 0 else float("nan")


def best_single_value(score: Array, choice: Indices) -> float:
    """V_B, quality relative to the best single expert's: RouterEval (arXiv 2503.10657).

    Above 1 the router beats every expert of its pool.
    """
    return reference_value(score, choice, float(np.nanmax(mean(score))))
