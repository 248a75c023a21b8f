"""Figures as text for people: quality in per cent, money in US$ per 1,000 queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import shorten

UNKNOWN = "?"
LINES = 16  # of a table, its heading included


def percent(quality: float | None) -> str:
    """A quality (0..1) in per cent.

    >>> percent(0.7241), percent(None)
    ('72.4 %', '?')
    """
    return UNKNOWN if quality is None or math.isnan(quality) else f"{100 * quality:.1f} %"


def points(gain: float) -> str:
    """A difference between two qualities, in percent points.

    >>> points(0.0241), points(-0.1)
    ('+2.4', '-10.0')
    """
    return f"{100 * gain:+.1f}"


def dollars(cost: float | None) -> str:
    """US$ for one query as US$ for 1,000.

    >>> dollars(0.0031), dollars(2.13e-6), dollars(math.nan)
    ('3.10', '0.00213', '?')
    """
    if cost is None or math.isnan(cost):
        return UNKNOWN
    return f"{1000 * cost:,.2f}" if cost >= 1e-3 else f"{1000 * cost:.3g}"


def listed(names: Sequence[str], width: int = 80) -> str:
    """Names in one line of at most `width` characters.

    >>> listed(["small", "middle", "large"], width=16)
    'small, middle, …'
    """
    return shorten(", ".join(names), width, placeholder=" …")


def columns(rows: Sequence[Sequence[str]], lines: int = LINES) -> str:
    """Cells in columns: the first to the left, the others to the right, and no more than so many
    lines of them.

    >>> print(columns([["expert", "quality"], ["small", "72.4 %"]]))
    expert   quality
    small     72.4 %
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [
        "   ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
        for first, *cells in rows[:lines]
    ]
    more = [f"… and {len(rows) - lines} more"] if len(rows) > lines else []
    return "\n".join(shown + more)
