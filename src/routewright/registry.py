"""Finds strategies, predictors, encoders and the like by the name of their file.

`strategies/cascade.py` holds `Cascade` and is found as `find("strategies", "cascade")`. Other
packages add members with an entry point in the group `routewright.strategies` (and so on).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from routewright.errors import BadInput

FAMILIES = {  # family ▶ the package whose files are its members
    "encoders": "routewright.prediction.encoders",
    "graders": "routewright.grading.graders",
    "predictors": "routewright.prediction.predictors",
    "providers": "routewright.experts.providers",
    "rewards": "routewright.grading.rewards",
    "strategies": "routewright.strategies",
}


@cache
def names(family: str) -> tuple[str, ...]:
    """The members of a family, e.g. of `strategies`, in alphabetical order."""
    found = _files(family) | set(_plugins(family))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@cache
def find(family: str, name: str) -> Any:
    """The class that a name stands for; raises BadInput naming the members that exist."""
    if name in _files(family) and not name.startswith("_"):
        module = import_module(f"{FAMILIES[family]}.{name}")
        return getattr(module, class_name(name))
    if name in _plugins(family):
        return _plugins(family)[name].load()
    kind = "strategy" if family == "strategies" else family.removesuffix("s")
    raise BadInput(f"no {kind} is called '{name}': choose one of {', '.join(names(family))}")


def class_name(name: str) -> str:
    """
    >>> class_name("ratio_greedy")
    'RatioGreedy'
    """
    return "".join(part.capitalize() for part in name.split("_"))


@cache
def _files(family: str) -> frozenset[str]:
    package = import_module(FAMILIES[family])
    return frozenset(module.name for module in iter_modules(package.__path__))


@cache
def _plugins(family: str) -> dict[str, Any]:
    from importlib import metadata  # slow to import, and most names stand in the tree

    found = metadata.entry_points(group=f"routewright.{family}")
    return {point.name: point for point in found}
