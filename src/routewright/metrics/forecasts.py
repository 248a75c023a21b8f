"""How good are the forecasts of a score, expert by expert?"""

from __future__ import annotations

import numpy as np

from routewright.metrics.sampling import mean
from routewright.types import Array


def auc(forecast: Array, score: Array) -> float:
    """Chance that a query answered well (score ≥ 0.5) was forecast above one answered badly.

    Ties count half; NaN when all known scores fall on one side. Mann–Whitney U.
    """
    known = np.isfinite(score) & np.isfinite(forecast)
    good = score[known] >= 0.5
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = average_ranks(forecast[known])
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_ranks(numbers: Array) -> Array:
    """Ranks from 1, ties sharing their mean rank."""
    _, member, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[member], dtype=np.float64)


def brier(forecast: Array, score: Array) -> float:
    """Mean squared difference between forecast and score."""
    return float(mean((forecast - score) ** 2))


def ece(forecast: Array, score: Array, bins: int = 10) -> float:
    """Expected calibration error: mean |score − forecast| over equally filled bins.

    Σ_b |B_b|/N · |mean score − mean forecast| (Guo et al. 2017, with quantile bins).
    """
    known = np.isfinite(score) & np.isfinite(forecast)
    order = np.argsort(forecast[known], kind="stable")
    parts = np.array_split(order, min(bins, max(len(order), 1)))
    f, s = forecast[known], score[known]
    gaps = [abs(float(s[part].mean() - f[part].mean())) * len(part) for part in parts if len(part)]
    return sum(gaps) / max(len(order), 1)


def routing_entropy(probability: Array) -> float:
    """How evenly a router spreads its choice, in bits: E_p = −(1/N) Σ_i Σ_m p_im log₂ p_im.

    RouterEval (arXiv 2503.10657), classification bias. 0 is a router that is always certain,
    log₂ e one that cannot tell e experts apart. `probability` is (n, e), rows sum to 1.
    """
    bits = np.log2(np.where(probability > 0, probability, 1.0))
    return float(-(probability * bits).sum(axis=1).mean())
