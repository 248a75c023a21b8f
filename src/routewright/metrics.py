"""How good is a router? Pure functions on arrays, with their definitions.

Shapes: n queries, k operating points, b bootstrap replicates. Costs are US$ per query,
qualities 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routewright.types import Array


def mean(table: Array, weights: Array | None = None) -> Array:
    """Mean over rows, leaving out NaN; weights (b, n) give one mean per replicate.

    (n, ...) gives (...); with weights (b, n) and (n, k) it gives (b, k).
    """
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    if weights is None:
        total, count = filled.sum(axis=0), known.sum(axis=0)
    else:
        total, count = weights @ filled, weights @ known.astype(np.float64)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1e-300), np.nan))


def resample(
    n: int, replicates: int = 1000, seed: int = 0, groups: Sequence[str | None] = ()
) -> Array:
    """Bootstrap weights (b, n): how often each row is drawn in each replicate.

    With `groups`, whole groups are drawn (rows of one source are not independent).
    """
    rng = np.random.default_rng(seed)
    if not len(groups):
        return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float64)
    _, member = np.unique([str(group) for group in groups], return_inverse=True)
    count = int(member.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return np.asarray(drawn[:, member], dtype=np.float64)


def interval(replicates: Array, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap replicates, (b,)."""
    tail = (1 - level) / 2 * 100
    low, high = np.nanpercentile(replicates, [tail, 100 - tail])
    return float(low), float(high)


# --- curves --------------------------------------------------------------------------------


def hull(costs: Array, qualities: Array) -> tuple[Array, Array]:
    """The non-decreasing upper convex hull of points: what mixing settings can reach.

    RouterBench (arXiv 2403.12031), section 3.
    """
    points: list[tuple[float, float]] = []
    for cost, quality in sorted(zip(costs.tolist(), qualities.tolist(), strict=True)):
        if points and quality <= points[-1][1]:
            continue
        if points and cost <= points[-1][0]:
            points.pop()
        while len(points) >= 2 and _slope(points[-2], (cost, quality)) >= _slope(*points[-2:]):
            points.pop()
        points.append((cost, quality))
    x, y = np.array(points).T
    return x, y


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-300)


def aiq(
    costs: Array, qualities: Array, cheapest: float, dearest: float, *, with_hull: bool = True
) -> float:
    """Average improvement in quality: the area under the curve over [cheapest, dearest] US$,
    divided by that range (RouterBench, arXiv 2403.12031, equation 2; the paper's variant, whose
    range is that of the single experts).

    Without the hull the points are joined by straight lines in order of cost, which luck
    cannot lift. Costs above the dearest point count its quality, costs below the cheapest
    point count zero: a router that cannot be cheap loses that area.
    """
    if not dearest > cheapest:
        return float(qualities.max())
    if with_hull:
        costs, qualities = hull(costs, qualities)
    else:
        order = np.lexsort((qualities, costs))
        costs, qualities = costs[order], qualities[order]
    return _area(costs, qualities, cheapest, dearest) / (dearest - cheapest)


def _area(x: Array, y: Array, low: float, high: float) -> float:
    """The integral of the piecewise linear curve over [low, high]; zero left of it, flat right."""
    low = max(low, float(x[0]))
    if high <= low:
        return 0.0
    inside = (x > low) & (x < high)
    ends = np.interp([low, high], x, y)
    grid = np.concatenate([[low], x[inside], [high]])
    heights = np.concatenate([ends[:1], y[inside], ends[1:]])
    return float(np.sum(np.diff(grid) * (heights[1:] + heights[:-1]) / 2))


def quality_at(costs: Array, qualities: Array, cost: float) -> float:
    """Quality at a cost (US$), straight lines between operating points: mixing two neighbours.

    The dearest point that costs no more than `cost` counts if the curve ends before it.
    """
    order = np.lexsort((qualities, costs))
    return float(np.interp(cost, costs[order], qualities[order]))


def apgr(
    costs: Array, qualities: Array, weak: tuple[float, float], strong: tuple[float, float]
) -> float:
    """Average performance gap recovered: 0 is always the weak expert, 1 always the strong one.

    RouteLLM (arXiv 2406.18665), equation 4, with cost in place of the share of strong calls, so
    that it holds for any number of experts. `weak` and `strong` are (US$, quality) of the
    cheapest and of the dearest expert. NaN if they do not differ.
    """
    (low, floor), (high, ceiling) = weak, strong
    if high <= low or ceiling == floor:
        return float("nan")
    return (aiq(costs, qualities, low, high, with_hull=False) - floor) / (ceiling - floor)


# --- forecasts -----------------------------------------------------------------------------


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


def oracle(score: Array, cost: Array) -> NDArray[np.intp]:
    """The best expert per query, the cheapest of them at ties; (n, e) gives (n,)."""
    filled = np.where(np.isfinite(score), score, -1.0)
    best = filled >= filled.max(axis=1, keepdims=True)
    price = np.where(np.isfinite(cost), cost, np.inf)
    price = np.where(best, np.where(np.isfinite(price), price, 1e300), np.inf)
    return np.asarray(price.argmin(axis=1))
