"""Measures how good the forecasts of a score are, for one expert at a time."""

from __future__ import annotations

import numpy as np

from routewright.metrics.sampling import mean
from routewright.types import Array


def auc(forecast: Array, score: Array) -> float:
    """The chance that a query answered well (score ≥ 0.5) was forecast above one answered badly.

    Ties count half (Mann–Whitney U). NaN if all known scores are on one side of 0.5.
    """
    finite = np.isfinite(score) & np.isfinite(forecast)
    good = score[finite] >= 0.5
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = average_ranks(forecast[finite])
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_ranks(numbers: Array) -> Array:
    """Ranks, starting at 1; equal numbers share their mean rank."""
    _, member, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[member], dtype=np.float64)


def brier(forecast: Array, score: Array) -> float:
    """The mean squared difference between forecast and score."""
    return float(mean((forecast - score) ** 2))


def ece(forecast: Array, score: Array, bins: int = 10) -> float:
    """Expected calibration error: the mean absolute difference between score and
    forecast over equally filled bins; equal forecasts share a bin, so that the order of the
    queries does not matter.

    Σ_b |B_b|/N · |mean score − mean forecast| (Guo et al. 2017, with quantile bins).
    """
    finite = np.isfinite(score) & np.isfinite(forecast)
    f, s = forecast[finite], score[finite]
    order = np.lexsort((s, f))
    f, s = f[order], s[order]
    parts = np.array_split(np.arange(len(f)), min(bins, max(len(f), 1)))
    bin_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    _, first, member, counts = np.unique(
        f, return_index=True, return_inverse=True, return_counts=True
    )
    bin_of = bin_of[first + (counts - 1) // 2][member]  # the middle one of equal forecasts decides
    gaps = [
        abs(float(s[inside].mean() - f[inside].mean())) * int(inside.sum())
        for inside in (bin_of == b for b in np.unique(bin_of))
    ]
    return sum(gaps) / max(len(f), 1)


def routing_entropy(probability: Array) -> float:
    """How evenly a router spreads its choices, in bits: E_p = −(1/N) Σ_i Σ_m p_im log₂ p_im.

    RouterEval (arXiv 2503.10657), classification bias. 0 means that the router is always certain,
    log₂ e that it cannot tell e experts apart. `probability` is (n, e); its rows sum to 1.
    """
    bits = np.log2(np.where(probability > 0, probability, 1.0))
    return float(-(probability * bits).sum(axis=1).mean())
