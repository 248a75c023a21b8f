"""Measures the quality of operating points over cost: hulls, areas, gaps recovered."""

from __future__ import annotations

import numpy as np

from routewright.types import Array


def hull(costs: Array, qualities: Array) -> tuple[Array, Array]:
    """The non-decreasing upper convex hull of points, which mixes of two settings can reach.

    RouterBench (arXiv 2403.12031), section 3. Returns the costs and qualities of its corners.
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
    costs: Array,
    qualities: Array,
    cheapest: float,
    most_expensive: float,
    *,
    with_hull: bool = True,
) -> float:
    """Average improvement in quality: the area under the curve over [cheapest, most_expensive]
    US$, divided by that range (RouterBench, arXiv 2403.12031, equation 2; the paper's variant,
    whose range is that of the single experts).

    Without the hull, straight lines join the points in order of cost, so that one lucky point
    cannot raise the area. The curve is flat beyond its most expensive point and zero below its
    cheapest one: a router that cannot be cheap loses that area.
    """
    if not most_expensive > cheapest:
        return float(qualities.max())
    if with_hull:
        costs, qualities = hull(costs, qualities)
    else:
        order = np.lexsort((qualities, costs))
        costs, qualities = costs[order], qualities[order]
    return _area(costs, qualities, cheapest, most_expensive) / (most_expensive - cheapest)


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
    """Quality at a cost (US$), on straight lines between operating points: a mix of two neighbours.

    Beyond the most expensive point, the quality is that point's.
    """
    order = np.lexsort((qualities, costs))
    return float(np.interp(cost, costs[order], qualities[order]))


def apgr(
    costs: Array, qualities: Array, weak: tuple[float, float], strong: tuple[float, float]
) -> float:
    """Average performance gap recovered: 0 is always the weak expert, 1 always the strong one.

    RouteLLM (arXiv 2406.18665), equation 4, with cost in place of the share of strong calls, so
    that it holds for any number of experts. `weak` and `strong` are (US$, quality) of the
    cheapest and of the most expensive expert. Below the curve's cheapest point the weak expert
    answers: nothing of the gap is recovered there. Above 1 only a curve that is better than the
    strong expert gets. NaN if the strong expert is not better, or does not cost more.
    """
    (low, floor), (high, ceiling) = weak, strong
    if not (high > low and ceiling > floor):
        return float("nan")
    recovered = (qualities - floor) / (ceiling - floor)
    return aiq(costs, recovered, low, high, with_hull=False)


def pgr(quality: float, weak: float, strong: float) -> float:
    """Performance gap recovered: 0 at the weak expert's quality, 1 at the strong expert's.

    RouteLLM (arXiv 2406.18665). NaN if the two do not differ.
    """
    return float("nan") if strong == weak else (quality - weak) / (strong - weak)


def cpt(
    costs: Array,
    qualities: Array,
    share: float,
    weak: tuple[float, float],
    strong: tuple[float, float],
) -> float:
    """Call-performance threshold: the lowest cost at which `share` of the gap is recovered.

    RouteLLM (arXiv 2406.18665), with cost in place of the share of strong calls: 0 is the cost of
    the weak expert, 1 that of the strong one. `weak` and `strong` are (US$, quality). For the
    published figure, pass shares of strong calls as costs, with (0, quality) and (1, quality).
    The curve need not rise everywhere: its first crossing counts, which is also the first one of
    its running maximum. NaN if the curve never crosses or there is no gap.
    """
    (low, floor), (high, ceiling) = weak, strong
    if high <= low or ceiling <= floor:
        return float("nan")
    return (_first_crossing(costs, qualities, floor + share * (ceiling - floor)) - low) / (
        high - low
    )


def _first_crossing(costs: Array, qualities: Array, goal: float) -> float:
    """The lowest cost at which straight lines between the points reach `goal`; NaN if none does."""
    finite = np.isfinite(costs) & np.isfinite(qualities)
    x, y = costs[finite], qualities[finite]
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    above = np.flatnonzero(y >= goal - 1e-12)
    if not len(above):
        return float("nan")
    k = int(above[0])
    if k == 0:
        return float(x[0])
    fraction = (goal - y[k - 1]) / (y[k] - y[k - 1])
    return float(x[k - 1] + min(fraction, 1.0) * (x[k] - x[k - 1]))
