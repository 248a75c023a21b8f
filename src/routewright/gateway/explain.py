"""Explains where a query goes and why: predictions, limits and the first step of the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from routewright.experts.limits import admit, guard, objection
from routewright.gateway.policies import Policy
from routewright.router.explanation import first_asks, forecast
from routewright.router.frontier import OperatingPoint
from routewright.types import Expert, Prediction, Query


def explain(policy: Policy, query: Query, experts: Mapping[str, Expert]) -> dict[str, Any]:
    """Describes the decision that would be made now, without asking any expert.

    Raises NotAdmissible if the query's limits allow no decision.
    """
    strategy = policy.strategy_for(query)
    allowed, _ = admit(query, experts.values())
    asks = first_asks(strategy, allowed)
    for ask in asks:
        guard(ask, allowed, experts)
    prediction = policy.router.predict([query]).take(0) if policy.router else None
    return {
        "object": "routewright.route",
        "policy": policy.name,
        "strategy": type(policy.strategy).__name__.lower(),
        "first_asks": [{"expert": a.expert, "kind": a.kind, "final": a.final} for a in asks],
        "operating_point": _point(policy.point) if policy.point else None,
        "fallback": list(policy.fallback),
        "experts": table(query, experts.values(), prediction),
    }


def table(
    query: Query,
    experts: Iterable[Expert],
    prediction: Prediction | None = None,
    rejected: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row per expert: whether the limits allow it, why not, and its predictions."""
    return [_row(expert, query, prediction, rejected or {}) for expert in experts]


def _row(
    expert: Expert, query: Query, prediction: Prediction | None, rejected: Mapping[str, str]
) -> dict[str, Any]:
    reason = objection(expert, query) or rejected.get(expert.name)
    row: dict[str, Any] = {"name": expert.name, "admissible": reason is None, "reason": reason}
    if prediction is not None and expert.name in prediction.experts:
        row |= forecast(prediction, expert.name)
    return row


def _point(point: OperatingPoint) -> dict[str, Any]:
    values = dataclasses.asdict(point)
    fields = ("price", "cost", "cost_fraction", "quality", "quality_ci", "plan")
    return {"strategy": point.strategy, **{field: values[field] for field in fields}}
