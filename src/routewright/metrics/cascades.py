"""Measures the quality that a cascade of two models buys per dollar: AutoMix (arXiv 2310.12963).

`small` and `large` are (US$ per query, quality) of always asking that model. The cost of the
cascade includes its verifications.
"""

from __future__ import annotations

import numpy as np

from routewright.metrics.curves import quality_at
from routewright.metrics.sampling import mean
from routewright.types import Array

Point = tuple[float, float]  # US$ per query, quality


def ibc_lift(cost: float, quality: float, small: Point, large: Point) -> float:
    """ΔIBC in percent: how much more quality each dollar beyond the small model's cost buys than
    on the straight line from small to large.

    IBC = (P − P_S) / (C − C_S), ΔIBC = 100 (IBC_M − IBC_BASE) / IBC_BASE (AutoMix). NaN where it
    is undefined: the line does not rise, or the cascade costs no more than the small model. Close
    to these cases the figure is unstable: report cost and quality with it.
    """
    base = _ibc(*large, small)
    gain = _ibc(cost, quality, small)
    return 100 * (gain - base) / base if base > 0 else float("nan")


def _ibc(cost: float, quality: float, small: Point) -> float:
    """Incremental benefit per cost, quality per US$."""
    spent = cost - small[0]
    return (quality - small[1]) / spent if spent > 0 else float("nan")


def ibc_undefined(cost: float, small: Point, large: Point) -> str | None:
    """The reason why ΔIBC is undefined; None if it is defined."""
    if not large[0] > small[0]:
        return f"the large model costs no more than the small one ({large[0]:.3g}, {small[0]:.3g})"
    if not large[1] > small[1]:
        return f"the large model is no better than the small one ({large[1]:.3f}, {small[1]:.3f})"
    if not cost > small[0]:
        return "the cascade costs no more than the small model"
    return None


def ibc_lifts(rows: Array, small: Array, large: Array, weights: Array) -> Array:
    """ΔIBC in each bootstrap replicate, (b,); cascade and models are measured again in each.

    `rows`, `small` and `large` are (2, n): cost and quality of every query under the cascade and
    under each model alone. `weights` (b, n) come from `resample`.
    """
    points = [mean(table.T, weights).tolist() for table in (rows, small, large)]  # (b, 2) each
    lifts = [ibc_lift(c, q, low, high) for (c, q), low, high in zip(*points, strict=True)]
    return np.array(lifts, dtype=np.float64)


def mean_ibc_lift(
    costs: Array, qualities: Array, small: Point, large: Point, regions: int = 5
) -> float:
    """Mean ΔIBC in percent over cost regions of equal width between small and large.

    Each region is measured at its middle, on straight lines between the operating points (k,),
    so that no region profits from its luckiest point. Regions whose middle is below the first
    point of the curve are left out.
    """
    middles = small[0] + (np.arange(regions) + 0.5) / regions * (large[0] - small[0])
    reached = middles[middles >= np.min(costs)]
    lifts = [ibc_lift(c, quality_at(costs, qualities, c), small, large) for c in reached.tolist()]
    return float(mean(np.array(lifts, dtype=np.float64))) if lifts else float("nan")
