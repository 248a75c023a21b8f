"""Checks what a router folder holds before anything uses it.

A router may come from a stranger, and files get damaged. So every part of it takes its options and
arrays through this module, which raises BadRouter for anything that a saved router cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from routewright import registry
from routewright.errors import BadRouter
from routewright.registry import FAMILIES

LARGEST = 1e15  # of the numbers in an array: products of two are far from infinity
WIDEST = 1 << 20  # columns of a vector
KINDS = {"f": "real numbers", "iu": "whole numbers", "biu": "truth values"}
UNREADABLE = (  # what code raises that meets data of another form than its own
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError),
    *(TypeError, ValueError),
)


@contextmanager
def reading(part: str) -> Iterator[None]:
    """Turns the errors of code that reads odd data into a BadRouter that names the part.

    >>> with reading("predictor 'knn'"):
    ...     {}["view"]
    Traceback (most recent call last):
    routewright.errors.BadRouter: predictor 'knn' is not complete (KeyError: 'view')
    """
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise BadRouter(f"{part} is not complete ({type(error).__name__}: {reason})") from error


def load(family: str, stored: Any, arrays: Mapping[str, Any]) -> Any:
    """A fitted member from its stored `name`, `options` and arrays.

    Raises BadRouter if they are not those of a member, and BadInput for an unknown name.
    """
    noun = FAMILIES[family].noun
    if not isinstance(stored, Mapping) or not isinstance(stored.get("name"), str):
        raise BadRouter(f"the {noun} has no name")
    name, options = stored["name"], stored.get("options")
    if not isinstance(options, Mapping):
        raise BadRouter(f"{noun} '{name}' has no options")
    cls = registry.find(family, name)
    with reading(f"{noun} '{name}'"):
        _check_options(family, name, options)
        return cls.load(options, arrays)


def _check_options(family: str, name: str, stored: Mapping[str, Any]) -> None:
    """Raises BadRouter for an option of another type; `stored` also holds fitted state."""
    fields = registry.options(registry.find(family, name))
    chosen = {key: value for key, value in stored.items() if key in fields and fields[key].adapter}
    for fault in registry.faults(family, name, chosen):
        if fault.kind == "value":
            raise BadRouter(fault.sentence)
    for key, value in chosen.items():  # text that reads as a number is none
        if isinstance(value, str) and not isinstance(fields[key].convert(value, {}), str):
            raise BadRouter(f"option {key} of {name} must not be text: {value[:60]!r}")


class Arrays:
    """The arrays of one part, which are checked when they are taken.

    The sizes of named dimensions must agree between all arrays of the part.

    >>> part = Arrays("knn", {"x": np.zeros((3, 2)), "mean": np.zeros(4)})
    >>> part.take("x", "rows", 2).shape
    (3, 2)
    >>> part.take("mean", "rows")
    Traceback (most recent call last):
    routewright.errors.BadRouter: array 'mean' of knn has the shape (4,) and not (rows=3)
    """

    def __init__(self, part: str, arrays: Mapping[str, Any], **sizes: int) -> None:
        self.part = part
        self.sizes = sizes
        self._arrays = arrays

    def take(
        self,
        name: str,
        *dimensions: str | int,
        kind: str = "f",
        unknown: bool = False,
        least: float = -LARGEST,
        most: float = LARGEST,
    ) -> Any:
        """The array with these dimensions, whose numbers lie between `least` and `most`; with
        `unknown`, some may be NaN. Raises BadRouter."""
        array = self._arrays.get(name)
        if not isinstance(array, np.ndarray):
            raise BadRouter(f"{self.part} has no array '{name}'")
        what = f"array '{name}' of {self.part}"
        if array.dtype.kind not in kind:
            raise BadRouter(f"{what} must hold {KINDS[kind]}, not {array.dtype}")
        sizes = [d if isinstance(d, int) else self.sizes.get(d) for d in dimensions]
        fits = array.ndim == len(sizes) and all(
            size in (None, length) for size, length in zip(sizes, array.shape, strict=True)
        )
        if not fits:
            named = (
                str(d) if d == s else f"{d}={s or '?'}"
                for d, s in zip(dimensions, sizes, strict=True)
            )
            raise BadRouter(f"{what} has the shape {array.shape} and not ({', '.join(named)})")
        self.sizes |= {
            d: length
            for d, length in zip(dimensions, array.shape, strict=True)
            if isinstance(d, str)
        }
        if array.dtype.kind == "f":  # a bound must be a number of the array's own type
            widest = float(np.finfo(array.dtype).max)
            least, most = max(least, -widest), min(most, widest)
        wrong = ~((array >= least) & (array <= most))
        if unknown:
            wrong &= ~np.isnan(array)
        if wrong.any():
            raise BadRouter(f"{what} holds {array[wrong].flat[0]}, which cannot be")
        return array

    def size(self, dimension: str) -> int:
        """The size of a dimension of the arrays that were taken."""
        return self.sizes[dimension]


def under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names start with the prefix, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def whole(value: Any, what: str, least: int, most: int) -> int:
    """The value, if it is a whole number between these bounds. Raises BadRouter."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadRouter(
            f"{what} must be a whole number from {least} to {most}, not {_shown(value)}"
        )
    return value


def number(value: Any, what: str, least: float = -LARGEST, most: float = LARGEST) -> float:
    """The value as a float, if it is a number between these bounds. Raises BadRouter."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadRouter(f"{what} must be a number from {least:g} to {most:g}, not {_shown(value)}")
    return float(value)


def texts(value: Any, what: str) -> tuple[str, ...]:
    """The value as texts, if it is a list of them. Raises BadRouter."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise BadRouter(f"{what} must be a list of texts, not {_shown(value)}")
    return tuple(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
