"""Finds strategies, predictors, encoders and the like by the name of their file.

`strategies/cascade.py` holds `Cascade` and is found as `find("strategies", "cascade")`. Other
packages add members with an entry point in the group `routewright.strategies` (and so on).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module, metadata
from pkgutil import iter_modules
from typing import Any

from routewright.errors import BadInput


@cache
def names(family: str) -> tuple[str, ...]:
    """The members of a family, e.g. of `strategies`, in alphabetical order."""
    package = import_module(f"routewright.{family}")
    here = {module.name for module in iter_modules(package.__path__)}
    return tuple(sorted(name for name in here | set(_plugins(family)) if not name.startswith("_")))


@cache
def find(family: str, name: str) -> Any:
    """The class that a name stands for; raises BadInput naming the members that exist."""
    if name not in names(family):
        raise BadInput(
            f"no {family.rstrip('s')} is called '{name}': choose one of {', '.join(names(family))}"
        )
    if name in _plugins(family):
        return _plugins(family)[name].load()
    module = import_module(f"routewright.{family}.{name}")
    return getattr(module, class_name(name))


def class_name(name: str) -> str:
    """
    >>> class_name("ratio_greedy")
    'RatioGreedy'
    """
    return "".join(part.capitalize() for part in name.split("_"))


@cache
def _plugins(family: str) -> dict[str, metadata.EntryPoint]:
    found = metadata.entry_points(group=f"routewright.{family}")
    return {point.name: point for point in found}
