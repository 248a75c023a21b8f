"""The goal of a policy in routewright.yaml that chooses an operating point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from routewright.errors import BadInput
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router

STEPS = 25  # of equal cost between the cheapest and the best point
GOALS = ("max_cost", "max_cost_fraction", "min_quality")  # keys of a policy


def chosen(router: Router, key: str, value: float) -> OperatingPoint | None:
    """The point that the gateway serves for a policy with this goal; None if the config cannot
    state the goal, or no point reaches it."""
    if not 0 < value <= (math.inf if key == "max_cost" else 1):
        return None
    try:
        return router.within(**{key: value})
    except BadInput:
        return None


def reachable(router: Router) -> Sequence[OperatingPoint]:
    """Points that policies can serve, the cheapest first: those of the frontier, and mixes between
    them. Each is better than all cheaper ones. Empty if the router knows no costs."""
    costs = {p.cost for p in router.frontier if math.isfinite(p.cost)}
    if not costs:
        return ()
    dearest = router.within(max_cost=max(costs)).cost
    steps = np.linspace(min(costs), dearest, STEPS).tolist()
    points: list[OperatingPoint] = []
    for cost in sorted({*costs, *steps}):
        point = router.within(max_cost=cost)
        if not points or point.quality > points[-1].quality:
            points.append(point)
    return points


def alike(a: OperatingPoint, b: OperatingPoint) -> bool:
    """Whether two points differ by no more than rounding would hide: half a per cent of the cost,
    and a twentieth of a percentage point."""
    return math.isclose(a.cost, b.cost, rel_tol=5e-3) and abs(a.quality - b.quality) <= 5e-4


def goal_of(router: Router, point: OperatingPoint, first: str) -> tuple[str, float] | None:
    """The key and the value of a goal that chooses a point, or one that is alike; `first` if that
    key can, and a short number before an exact one. None if no goal chooses it."""
    facts = {
        "max_cost": point.cost,
        "max_cost_fraction": point.cost_fraction,
        "min_quality": point.quality,
    }
    keys = sorted(GOALS, key=lambda key: key != first)
    for key in keys:
        for digits in (3, 4, 6, 17):
            value = float(f"{facts[key]:.{digits}g}")
            found = chosen(router, key, value) if math.isfinite(value) else None
            if found is not None and alike(found, point):
                return key, value
    return None
