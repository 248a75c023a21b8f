"""The goal of a policy in routewright.yaml that chooses an operating point."""

from __future__ import annotations

import math

from routewright.errors import BadInput
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router

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


def goal_of(router: Router, point: OperatingPoint, first: str) -> tuple[str, float] | None:
    """The key and the value of a goal that chooses a point, `first` if that key can; None if no
    goal chooses it. Short numbers come before exact ones."""
    facts = {
        "max_cost": point.cost,
        "max_cost_fraction": point.cost_fraction,
        "min_quality": point.quality,
    }
    keys = sorted(GOALS, key=lambda key: key != first)
    for digits in (3, 4, 6, 17):
        for key in keys:
            value = float(f"{facts[key]:.{digits}g}")
            if math.isfinite(value) and chosen(router, key, value) == point:
                return key, value
    return None
