"""Whom to ask, step by step: one file per strategy, found by the file's name.

A strategy is a frozen dataclass with `plan(query)`, a generator of asks. Those that ask exactly
one expert and decide from the prediction alone also have `choose(queries, prediction)`, which
gives the same choices over arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeGuard, runtime_checkable

from routewright import registry
from routewright.registry import Spec
from routewright.types import Indices, Plan, Prediction, Query, Strategy


class Predicts(Protocol):
    """What a strategy needs of a router: belief about queries, without I/O."""

    def predict(self, queries: Sequence[Query]) -> Prediction: ...


@runtime_checkable
class OneShot(Protocol):
    """A strategy that can decide about many queries at once."""

    def plan(self, query: Query) -> Plan: ...

    def choose(self, queries: Sequence[Query], prediction: Prediction) -> Indices: ...


def one_shot(strategy: Strategy) -> TypeGuard[OneShot]:
    """Whether the strategy, and every strategy that it is made of, asks exactly one expert."""
    inner = [part for part in vars(strategy).values() if hasattr(part, "plan")]
    return isinstance(strategy, OneShot) and all(one_shot(part) for part in inner)


def build(spec: Spec, router: Predicts | None = None) -> Strategy:
    """A strategy from plain data, and the router that it asks, if it asks one; see
    `registry.build`.

    >>> build({"strategy": "cascade", "ladder": ["small", "large"], "trust": 0.8}).trust
    0.8
    """
    strategy: Strategy = registry.build("strategies", spec, router=router)
    return strategy
