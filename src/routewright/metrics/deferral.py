"""Relates the quality of a model that defers to the share of queries that it defers."""

from __future__ import annotations

import numpy as np

from routewright.types import Array


def deferred(doubts: Array, own: Array, fallback: Array) -> Array:
    """Mean score if the k queries with the largest doubts go to the fallback, (n + 1,).

    Element k belongs to the deferred share ρ = k / n: (1 − ρ) × the model's mean score on the
    queries that it keeps + ρ × the fallback's on the others. `doubts`, `own` and `fallback` are
    (n,). With `fallback − own` as doubts, this is the oracle.
    """
    order = np.argsort(-doubts, kind="stable")
    gain = np.concatenate([[0.0], np.cumsum((fallback - own)[order])])
    return np.asarray((own.sum() + gain) / len(own))


def ownership(doubts: Array, own: Array, fallback: Array, quality: float) -> float:
    """The largest share (0..1) of queries that a model can answer itself while the mean score is
    at least `quality`; NaN if no share reaches it.

    The fallback gets the queries with the largest doubts. `doubts`, `own` and `fallback` are (n,).
    """
    reached = np.flatnonzero(deferred(doubts, own, fallback) >= quality - 1e-12)
    return float(1 - reached[0] / len(own)) if len(reached) else float("nan")
