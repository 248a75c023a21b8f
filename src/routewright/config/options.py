"""What a config may set of a strategy: the fields of its dataclass, and values that fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from pydantic import PydanticUserError, TypeAdapter

from routewright.types import Strategy


def fields(strategy: Any) -> dict[str, Any]:
    """The fields of a strategy's class and their types; Any where a type cannot be resolved.

    >>> from routewright.strategies.fixed import Fixed
    >>> fields(Fixed)
    {'expert': <class 'str'>}
    """
    try:
        hints = get_type_hints(strategy)
    except (NameError, TypeError):
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in _init_fields(strategy)}


def settable(strategy: Any) -> tuple[str, ...]:
    """The fields that a config can fill: plain data and other strategies, not a router."""
    hints = fields(strategy)
    return tuple(
        name
        for name, hint in hints.items()
        if name != "router" and (_adapter(hint) or takes_strategy(strategy, name))
    )


def required(strategy: Any) -> tuple[str, ...]:
    """The settable fields without a default."""
    nothing = dataclasses.MISSING
    demanded = {
        field.name
        for field in _init_fields(strategy)
        if field.default is nothing and field.default_factory is nothing
    }
    return tuple(name for name in settable(strategy) if name in demanded)


def takes_strategy(strategy: Any, name: str) -> bool:
    """Whether that field holds another strategy."""
    hint = fields(strategy).get(name)
    return Strategy in (hint, *get_args(hint))


def fit(strategy: Any, name: str, value: Any) -> Any:
    """The value as the field wants it: a YAML list becomes a tuple, "0.7" becomes 0.7.

    Raises pydantic's ValidationError if it does not fit.

    >>> from routewright.strategies.cascade import Cascade
    >>> fit(Cascade, "ladder", ["small", "large"])
    ('small', 'large')
    """
    adapter = _adapter(fields(strategy).get(name, Any))
    return value if adapter is None else adapter.validate_python(value)


def arguments(strategy: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option as its field wants it, ready for `strategy(**arguments)`."""
    return {name: fit(strategy, name, value) for name, value in options.items()}


def _init_fields(strategy: Any) -> list[dataclasses.Field[Any]]:
    if not dataclasses.is_dataclass(strategy):
        return []
    return [field for field in dataclasses.fields(strategy) if field.init]


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """None for objects that no config can spell."""
    try:
        return TypeAdapter(hint)
    except PydanticUserError:
        return None
