"""Figures as text for people: quality in per cent, money in US$ per 1,000 queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import shorten

UNKNOWN = "?"
FEW = 100  # rows; fewer prove differences of ten points or more only
TOO_FEW = 30  # rows; fewer prove nothing
AUC_AND_ECE = (
    "AUC: how well the forecasts tell right answers from wrong ones (0.5: not at all, 1: always);"
    " ECE, the calibration error: how far off they are on average"
)
DIFFERENT = 0.2  # share of rows on which two choices score differently, for `provable`
LINES = 16  # of a table, its heading included


def percent(quality: float | None) -> str:
    """A quality (0..1) in per cent.

    >>> percent(0.7241), percent(None)
    ('72.4 %', '?')
    """
    return UNKNOWN if quality is None or math.isnan(quality) else f"{100 * quality:.1f} %"


def share(part: float) -> str:
    """A share (0..1) in whole per cent.

    >>> share(0.4431)
    '44 %'
    """
    return f"{100 * part:.0f} %"


def points(gain: float) -> str:
    """A difference between two qualities, in percentage points.

    >>> points(0.0241), points(-0.1)
    ('+2.4', '-10.0')
    """
    return f"{100 * gain:+.1f}"


def between(interval: Sequence[float], sign: bool = False) -> str:
    """The 95 % interval of a quality, or of a difference (with `sign`), in percentage points.

    >>> between((0.7, 0.8)), between((-0.01, 0.02), sign=True)
    ('(70.0 … 80.0)', '(-1.0 … +2.0)')
    """
    low, high = (f"{100 * end:{'+' if sign else ''}.1f}" for end in interval)
    return f"({low} … {high})"


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


def provable(n: int, noun: str = "row") -> str:
    """The smallest difference between two policies that n rows prove, as a sentence without its
    full stop: 1.96 √(d / n), where the policies' scores differ by 1 on the share d of the rows.

    >>> provable(400)
    '400 rows can prove differences of about 4 percentage points or more'
    >>> provable(20)
    '20 rows are too few to prove anything'
    """
    if n < TOO_FEW:
        return f"{n} {noun}{'s are' if n != 1 else ' is'} too few to prove anything"
    points = f"{difference(n):.0f} percentage points"
    return f"{n} {noun}s can prove differences of about {points} or more"


def difference(n: int) -> float:
    """The smallest difference (percentage points) that n rows prove; see `provable`."""
    return 196 * math.sqrt(DIFFERENT / n)
