"""How good a model that defers is, against how much it defers."""

from __future__ import annotations

import numpy as np

from routewright.types import Array


def deferred(doubts: Array, own: Array, fallback: Array) -> Array:
    """Mean score where the k queries with the largest doubts go to the fallback, (n + 1,).

    ρ = k / n is the share deferred, and quality is (1 − ρ) that of the kept plus ρ that of the
    fallback on the others. With `fallback − own` for doubts this is the oracle.
    """
    order = np.argsort(-doubts, kind="stable")
    gain = np.concatenate([[0.0], np.cumsum((fallback - own)[order])])
    return np.asarray((own.sum() + gain) / len(own))


def ownership(doubts: Array, own: Array, fallback: Array, quality: float) -> float:
    """The largest share (0..1) of queries that a model may answer itself, at this mean score or a
    better one; NaN if no share reaches it.

    The fallback gets those with the largest doubts.
    """
    reached = np.flatnonzero(deferred(doubts, own, fallback) >= quality - 1e-12)
    return float(1 - reached[0] / len(own)) if len(reached) else float("nan")
