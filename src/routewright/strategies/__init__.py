"""Strategies decide, step by step, which experts to ask; the file's name is the strategy's name.

A strategy is a frozen dataclass with `plan(query)`, a generator of asks. On recorded outcomes it
is replayed row by row, unless it has a method that decides for all rows at once: `over(rows)`, or
`choose(queries, prediction)` if it asks exactly one expert and decides by the prediction alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from routewright import registry
from routewright.registry import Spec
from routewright.types import Indices, Plan, Prediction, Query, Strategy


class Predicts(Protocol):
    """The part of a router that strategies use: predictions for queries, without I/O."""

    def predict(self, queries: Sequence[Query]) -> Prediction: ...


@runtime_checkable
class OneShot(Protocol):
    """A strategy that asks exactly one expert and can choose it for many queries at once."""

    def plan(self, query: Query) -> Plan: ...

    def choose(self, queries: Sequence[Query], prediction: Prediction) -> Indices: ...


def router_of(strategy: Strategy) -> Predicts | None:
    """The router that a strategy asks, or a strategy that it is made of; None if none does."""
    router: Predicts | None = getattr(strategy, "router", None)
    if router is not None:
        return router
    parts = [part for part in getattr(strategy, "__dict__", {}).values() if hasattr(part, "plan")]
    routers = (router_of(part) for part in parts)
    return next((router for router in routers if router is not None), None)


def is_light(strategy: Strategy) -> bool:
    """Whether the steps of a strategy read neither prompts nor answers, so that they need no
    thread; a strategy says so with an attribute `light`."""
    return bool(getattr(strategy, "light", False))


def name_of(strategy: Strategy) -> str:
    """The name of its file, as `build` takes it; of a class elsewhere, the class's own."""
    package, _, file = type(strategy).__module__.rpartition(".")
    return file if package == __name__ else type(strategy).__name__


def build(spec: Spec, router: Predicts | None = None) -> Strategy:
    """Builds a strategy from its spec, and with the router if it uses one; see
    `registry.build`.

    >>> build({"strategy": "cascade", "ladder": ["small", "large"], "trust": 0.8}).trust
    0.8
    """
    strategy: Strategy = registry.build("strategies", spec, router=router)
    return strategy
