"""Reads a formula with math-verify. It runs in a process of its own, see `routewright.apart`:
nothing bounds the time that SymPy takes."""

from __future__ import annotations

import logging
from typing import Any


def prepare() -> None:
    """Loads SymPy and the parser's tables."""
    read(r"\frac{1}{2}")


def read(text: str) -> str | list[str] | None:
    """The value of a formula: its numerator and denominator if it is rational, else a text; None
    if it cannot be read."""
    from math_verify import parse

    # The parser's own timeout needs signals. Without a timeout it logs a warning each time.
    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)
    results = parse(f"${text.strip()}$", parsing_timeout=None, raise_on_error=False)
    return None if not results or isinstance(results[0], str) else _exact(results[0])


def _exact(value: Any) -> str | list[str]:
    value = value.doit() if hasattr(value, "doit") else value
    if getattr(value, "is_Rational", False):
        return [str(value.p), str(value.q)]
    return str(value.evalf(12)) if hasattr(value, "evalf") else str(value)
