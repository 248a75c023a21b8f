"""Explains a router's decision about a query without asking any expert."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from routewright.errors import BadInput
from routewright.policies import values
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies import is_light
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from routewright.strategies.single import Single
from routewright.types import Ask, Prediction, Query, Strategy


def first_asks(strategy: Strategy, query: Query) -> tuple[Ask, ...]:
    """The first asks of a strategy; none is sent."""
    plan = strategy.plan(query)
    try:
        asks = next(plan)
    finally:
        plan.close()
    return (asks,) if isinstance(asks, Ask) else asks


def chances(strategy: Strategy, query: Query) -> tuple[float, dict[str, float]]:
    """The probability (0..1) of what a strategy has drawn for a query, and the probabilities of the
    experts that its other parts would ask first.

    Only mixes draw. With the experts that are really asked first, this makes the propensities of a
    decision.

    >>> from routewright.strategies.fixed import Fixed
    >>> from routewright.strategies.mix import Mix
    >>> mix = Mix(Fixed("small"), Fixed("large"), share=0.25)
    >>> chances(mix, Query.of("What is 2 + 2?"))
    (0.75, {'large': 0.25})
    """
    strategy = _bare(strategy)
    if not isinstance(strategy, Mix):
        return 1.0, {}
    drawn, of_drawn = strategy.part(query.lot)
    others: dict[str, float] = {}
    for part, share in _parts(strategy, 1.0):
        if part is drawn or share == 0:
            continue
        asks = (part.expert,) if isinstance(part, Fixed) else first_experts(part, query)
        for name in asks:
            others[name] = others.get(name, 0.0) + share
    return of_drawn, others


def first_experts(strategy: Strategy, query: Query) -> tuple[str, ...]:
    """The experts that a strategy asks first."""
    return tuple(ask.expert for ask in first_asks(strategy, query))


def is_quick(strategy: Strategy) -> bool:
    """Whether `chances` needs no prediction."""
    bare = _bare(strategy)
    return not isinstance(bare, Mix) or is_light(bare)


def _bare(strategy: Strategy) -> Strategy:
    """A strategy without the fallbacks and limits around it."""
    for name in ("wanted", "preferred"):
        strategy = getattr(strategy, name, strategy)
    return strategy


def _parts(strategy: Strategy, share: float) -> Iterator[tuple[Strategy, float]]:
    """The strategies of nested mixes, and the share of all queries that each gets."""
    if isinstance(strategy, Mix):
        yield from _parts(strategy.first, share * (1 - strategy.share))
        yield from _parts(strategy.second, share * strategy.share)
    else:
        yield strategy, share


def forecast(belief: Prediction, expert: str) -> dict[str, float | None]:
    """The prediction of one expert for one query; unknown numbers are None."""
    place = belief.experts.index(expert)
    names = ("spread", "cost", "latency")
    columns = {"quality": belief.chance, **{name: getattr(belief, name) for name in names}}
    numbers = {name: float(column[place]) for name, column in columns.items()}
    return {name: n if math.isfinite(n) else None for name, n in numbers.items()}


def explain(
    router: Router, point: OperatingPoint, query: Query, latency_price: float = 0.0
) -> dict[str, Any]:
    """The first ask of the point's strategy and every expert's forecast, as plain data.

    With a `latency_price` (quality per second) the expert with the best quality − λ cost − μ
    seconds is asked, whatever the point's strategy is, because the frontier ignores latency. Raises
    BadInput if the router knows no latencies.
    """
    check_latency(router, latency_price)
    prediction = router.predict([query]).take(0)
    value = values(prediction, point.price, latency_price)
    rows = [
        {"expert": name, **forecast(prediction, name), "value": float(value[m])}
        for m, name in enumerate(prediction.experts)
    ]
    with_latency = Single(router, point.price, latency_price)
    asks = first_asks(with_latency if latency_price else router.strategy_at(point), query)
    return {
        "expert": asks[0].expert,
        "asks": [ask.expert for ask in asks],
        "lambda": point.price,
        "latency_price": latency_price,
        "strategy": "single" if latency_price else point.strategy,
        "plan": _plan_with_latency(latency_price) if latency_price else point.plan,
        "familiarity": 1.0 if prediction.trust is None else float(prediction.trust),
        "expected": {"cost": point.cost, "quality": point.quality, "gain": point.gain},
        "experts": sorted(rows, key=lambda row: -row["value"]),
    }


def check_latency(router: Router, latency_price: float) -> None:
    """Raises BadInput for a latency price if the router knows no latencies."""
    if latency_price and not router.knows_latency:
        raise BadInput(
            "a latency price needs latencies, and the router knows none: fit on a table with"
            " latency::EXPERT columns"
        )


def _plan_with_latency(latency_price: float) -> str:
    return f"ask the expert with the best predicted quality − λ × cost − {latency_price:g}/s × time"
