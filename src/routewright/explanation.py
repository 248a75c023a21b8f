"""What a router believes about one query and whom it would ask first, without asking anybody."""

from __future__ import annotations

from typing import Any

from routewright.frontier import OperatingPoint
from routewright.policies import values
from routewright.router import Router
from routewright.types import Ask, Query


def explain(router: Router, point: OperatingPoint, query: Query) -> dict[str, Any]:
    """The first ask of the point's strategy and every expert's forecast, as plain data."""
    prediction = router.predict([query]).take(0)
    value = values(prediction, point.price)
    rows = [
        {
            "expert": name,
            "quality": float(prediction.quality[m]),
            "spread": float(prediction.spread[m]),
            "cost": float(prediction.cost[m]),
            "value": float(value[m]),
        }
        for m, name in enumerate(prediction.experts)
    ]
    plan = router.strategy_at(point).plan(query)
    first = next(plan)
    plan.close()
    asked = [first] if isinstance(first, Ask) else list(first)
    return {
        "expert": asked[0].expert,
        "asks": [ask.expert for ask in asked],
        "lambda": point.price,
        "strategy": point.strategy,
        "plan": point.plan,
        "familiarity": 1.0 if prediction.trust is None else float(prediction.trust),
        "expected": {"cost": point.cost, "quality": point.quality, "gain": point.gain},
        "experts": sorted(rows, key=lambda row: -row["value"]),
    }
