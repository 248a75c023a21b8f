"""From predictions to a choice under a price of quality; pure functions over arrays.

Shapes: n queries, e experts. λ (`price`) is in quality (0..1) per US$, μ (`latency_price`) in
quality per second. The Lagrangian rule is argmax_e q − λ c − μ t over the admissible experts,
which is optimal for the linear relaxation of the budgeted assignment problem
(arXiv 2401.13979, section 3, with the order-dependent greedy rule replaced).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright.types import Array, Indices, Prediction

TIE = 1e-12  # values closer than this are a tie, which the cheaper expert wins
STEEPEST = 1e12  # the largest price of quality that bisection considers


def values(prediction: Prediction, price: float, latency_price: float = 0.0) -> Array:
    """Expected quality minus λ times cost minus μ times latency, shaped like `quality`."""
    value: Array = prediction.quality - price * prediction.cost
    if latency_price:
        value = value - latency_price * seconds(prediction)
    return value


def seconds(prediction: Prediction) -> Array:
    """Latencies (s) for decisions, shaped like `quality`: an unknown one counts as the highest
    known one, or as 0 if none is known."""
    latencies = prediction.latency[np.isfinite(prediction.latency)]
    worst = float(latencies.max()) if latencies.size else 0.0
    return np.nan_to_num(prediction.latency, nan=worst)


def choose(
    prediction: Prediction,
    price: float,
    *,
    latency_price: float = 0.0,
    admissible: NDArray[np.bool_] | None = None,
) -> Indices:
    """The index of the best expert per query; ties go to the cheaper one.

    `admissible` (broadcast to the predictions' shape) is a hard constraint.

    >>> p = Prediction(("s", "l"), np.array([[.6, .9], [.8, .81]]), np.zeros((2, 2)),
    ...                np.array([[.1, 1.], [.1, 1.]]), np.full((2, 2), np.nan))
    >>> choose(p, price=0.2).tolist()
    [1, 0]
    """
    value = values(prediction, price, latency_price)
    if admissible is not None:
        value = np.where(admissible, value, -np.inf)
    best = value.max(axis=-1, keepdims=True)
    cost_of_best = np.where(value >= best - TIE, prediction.cost, np.inf)
    return np.asarray(cost_of_best.argmin(axis=-1))


def take(table: Array, choice: Indices) -> Array:
    """The chosen expert's cell of every row: (n, e) and (n,) give (n,)."""
    return np.asarray(np.take_along_axis(table, choice[..., None], axis=-1)[..., 0])


class Mixture(NamedTuple):
    """Two prices of quality and the share of queries that is decided at the lower one."""

    price: float  # the higher λ: cheaper choices
    lower_price: float  # the lower λ: more expensive choices
    share: float  # in [0, 1), of queries decided at `lower_price`


def meet_budget(prediction: Prediction, budget: float, latency_price: float = 0.0) -> Mixture:
    """The λ at which the mean predicted cost meets `budget` (US$ per query), by bisection.

    Cost falls in steps as λ grows; the two sides of the step at the critical λ are mixed so
    that the budget is met in expectation. A budget above the cost at λ = 0 gives λ = 0; one below
    the cheapest choice gives the highest λ (check the resulting cost).
    """

    def cost_at(price: float) -> float:
        choice = choose(prediction, price, latency_price=latency_price)
        return float(take(prediction.cost, choice).mean())

    if cost_at(0.0) <= budget:
        return Mixture(0.0, 0.0, 0.0)
    low, high = 0.0, STEEPEST
    if cost_at(high) >= budget:
        return Mixture(high, high, 0.0)
    for _ in range(100):
        middle = high / 1e6 if low == 0.0 else float(np.sqrt(low * high))
        if cost_at(middle) > budget:
            low = middle
        else:
            high = middle
        if high - low <= 1e-12 * high or high < 1e-12:
            break
    over, under = cost_at(low), cost_at(high)
    share = (budget - under) / (over - under) if over > under else 0.0
    return Mixture(high, low, share)


def best_ratio(
    prediction: Prediction,
    average: Array,
    budget: float = np.inf,
    admissible: NDArray[np.bool_] | None = None,
) -> Indices:
    """The expert with the best ratio of expected score to average cost, among those with an
    expected cost of at most `budget` US$; the cheapest if none fits (arXiv 2401.13979, section 3).

    `average` (e,) is in US$; an expert without costs is free. `admissible` is broadcast to the
    predictions' shape. An expert without any score is chosen only if no other is admissible.
    """
    permitted = np.broadcast_to(
        True if admissible is None else admissible, prediction.quality.shape
    )
    scored = permitted & (prediction.quality >= 0)
    permitted = np.where(scored.any(axis=-1, keepdims=True), scored, permitted)
    fits = permitted & (prediction.cost <= budget)
    ratio = prediction.quality / np.maximum(np.nan_to_num(average), 1e-300)
    best = np.where(fits, ratio, -np.inf).argmax(axis=-1)
    cheapest = np.where(permitted, prediction.cost, np.inf).argmin(axis=-1)
    return np.asarray(np.where(fits.any(axis=-1), best, cheapest))


def ratio_greedy(prediction: Prediction, budget: float) -> Indices:
    """The published rule for a batch: each query in order takes the best ratio that fits the rest
    of `budget`, US$ for all queries (arXiv 2401.13979, section 3).

    It is here for comparison: it depends on the order of the queries and is not optimal.
    """
    average, left = prediction.cost.mean(axis=0), budget
    choice = np.empty(len(prediction.quality), dtype=np.intp)
    for i in range(len(choice)):
        choice[i] = best_ratio(prediction.take(i), average, left)
        left -= prediction.cost[i, choice[i]]
    return choice


class Vertex(NamedTuple):
    """A corner of the zero router: always asking one expert."""

    expert: int
    cost: float  # US$ per query
    quality: float


def zero_router(quality: Array, cost: Array) -> list[Vertex]:
    """The non-decreasing upper convex hull of single experts in the cost–quality plane.

    Mixing two neighbours reaches every point on it without looking at a query: the reference
    that a router has to beat (RouterBench, arXiv 2403.12031, section 3). `quality` and `cost`
    are means per expert, shape (e,).

    >>> [v.expert for v in zero_router(np.array([.5, .4, .9]), np.array([1., 2., 3.]))]
    [0, 2]
    """
    experts = [m for m in range(len(quality)) if np.isfinite(quality[m]) and np.isfinite(cost[m])]
    hull: list[Vertex] = []
    for m in sorted(experts, key=lambda m: (cost[m], -quality[m])):
        vertex = Vertex(m, float(cost[m]), float(quality[m]))
        if hull and vertex.quality <= hull[-1].quality:
            continue
        while len(hull) >= 2 and slope(hull[-2], vertex) >= slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(vertex)
    return hull


def slope(a: Vertex, b: Vertex) -> float:
    """The quality per US$ that is gained from one vertex of the zero router to another."""
    return (b.quality - a.quality) / max(b.cost - a.cost, 1e-300)


class FixedMix(NamedTuple):
    """Two experts and the share of queries that goes to the more expensive one."""

    cheap: int
    expensive: int
    share: float


def mix_at_cost(hull: list[Vertex], cost: float) -> FixedMix:
    """The point of the zero router that spends `cost` US$ per query on average."""
    if cost <= hull[0].cost:
        return FixedMix(hull[0].expert, hull[0].expert, 0.0)
    for left, right in pairwise(hull):
        if cost < right.cost:
            return FixedMix(
                left.expert, right.expert, (cost - left.cost) / (right.cost - left.cost)
            )
    return FixedMix(hull[-1].expert, hull[-1].expert, 0.0)


def hull_quality(hull: list[Vertex], cost: Array | float) -> Array:
    """Quality of the zero router at the given costs (US$); flat beyond its ends."""
    return np.asarray(np.interp(cost, [v.cost for v in hull], [v.quality for v in hull]))
