"""What a router believes about one query and whom it would ask first, without asking anybody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from routewright import parallel
from routewright.errors import BadInput
from routewright.policies import values
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies.single import Single
from routewright.types import Ask, Prediction, Query, Strategy


def first_asks(strategy: Strategy, query: Query) -> tuple[Ask, ...]:
    """Whom the strategy asks first; nobody is asked."""
    plan = strategy.plan(query)
    try:
        asks = next(plan)
    finally:
        plan.close()
    return (asks,) if isinstance(asks, Ask) else asks


def forecast(belief: Prediction, expert: str) -> dict[str, float | None]:
    """What is believed of one expert about one query; None where nothing is known."""
    place = belief.experts.index(expert)
    names = ("spread", "cost", "latency")
    columns = {"quality": belief.chance, **{name: getattr(belief, name) for name in names}}
    numbers = {name: float(column[place]) for name, column in columns.items()}
    return {name: n if math.isfinite(n) else None for name, n in numbers.items()}


def explain(
    router: Router, point: OperatingPoint, query: Query, latency_price: float = 0.0
) -> dict[str, Any]:
    """The first ask of the point's strategy and every expert's forecast, as plain data.

    With a `latency_price` (quality per second) the best of quality − λ cost − μ seconds is asked,
    wherever the frontier lies: it did not weigh seconds. Raises BadInput where none are known.
    """
    if latency_price and not router.knows_latency:
        raise BadInput(
            "a latency price weighs seconds, and the router knows none: fit on a table with"
            " latency::EXPERT"
        )
    prediction = router.predict([query]).take(0)
    value = values(prediction, point.price, latency_price)
    rows = [
        {"expert": name, **forecast(prediction, name), "value": float(value[m])}
        for m, name in enumerate(prediction.experts)
    ]
    hurried = Single(router, point.price, latency_price)
    asks = first_asks(hurried if latency_price else router.strategy_at(point), query)
    return {
        "expert": asks[0].expert,
        "asks": [ask.expert for ask in asks],
        "lambda": point.price,
        "latency_price": latency_price,
        "strategy": "single" if latency_price else point.strategy,
        "plan": _in_words(latency_price) if latency_price else point.plan,
        "familiarity": 1.0 if prediction.trust is None else float(prediction.trust),
        "expected": {"cost": point.cost, "quality": point.quality, "gain": point.gain},
        "experts": sorted(rows, key=lambda row: -row["value"]),
    }


def explain_all(
    router: Path,
    point: OperatingPoint,
    queries: Sequence[Query],
    latency_price: float = 0.0,
    engine: str = "local",
) -> list[dict[str, Any]]:
    """A row per query: whom the router in a folder would ask first, and its forecasts."""
    work = partial(_explained, router.absolute(), point, latency_price)
    done = dict(parallel.spread(work, parallel.in_parts(queries, engine), engine))
    return [row for place in sorted(done) for row in done[place]]


def _explained(
    router: Path, point: OperatingPoint, latency_price: float, queries: Sequence[Query]
) -> list[dict[str, Any]]:
    loaded = Router.load(router)
    rows = []
    for query in queries:
        told = explain(loaded, point, query, latency_price)
        row = {"id": query.id, "expert": told["expert"], "asks": told["asks"]}
        for expert in sorted(told["experts"], key=lambda row: loaded.experts.index(row["expert"])):
            row |= {f"quality::{expert['expert']}": expert["quality"]}
            row |= {f"cost::{expert['expert']}": expert["cost"]}
        rows.append(row)
    return rows


def _in_words(latency_price: float) -> str:
    return f"ask the expert with the best predicted quality − λ × cost − {latency_price:g}/s × time"
