"""Whom to ask, step by step: one file per strategy, found by the file's name.

A strategy is a frozen dataclass with `plan(query)`, a generator of asks. Those that ask exactly
one expert and decide from the prediction alone also have `choose(queries, prediction)`, which
gives the same choices over arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

from routewright.errors import BadInput
from routewright.registry import find
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


def build(spec: Mapping[str, Any], router: Predicts | None = None) -> Strategy:
    """A strategy from plain data: its name under `strategy`, its fields beside it.

    Fields that hold such data themselves become strategies; a field `router` is filled in.

    >>> build({"strategy": "cascade", "ladder": ["small", "large"], "trust": 0.8}).trust
    0.8

    Raises BadInput naming fields that are missing or unknown.
    """
    options = {key: _value(value, router) for key, value in spec.items() if key != "strategy"}
    cls = find("strategies", str(spec.get("strategy")))
    known = {field.name: field for field in dataclasses.fields(cls)}
    if "router" in known:
        options.setdefault("router", router)
        if options["router"] is None:
            raise BadInput(f"strategy '{spec['strategy']}' needs a router: name its folder")
    if unknown := options.keys() - known.keys():
        raise BadInput(
            f"strategy '{spec['strategy']}' has no option {', '.join(sorted(unknown))};"
            f" it has {', '.join(name for name in known if name != 'router')}"
        )
    missing = [n for n, field in known.items() if n not in options and _required(field)]
    if missing:
        raise BadInput(f"strategy '{spec['strategy']}' needs the option {', '.join(missing)}")
    strategy: Strategy = cls(**options)
    return strategy


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _value(value: Any, router: Predicts | None) -> Any:
    if isinstance(value, Mapping) and "strategy" in value:
        return build(value, router)
    return tuple(value) if isinstance(value, list) else value
