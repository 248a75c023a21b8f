"""Formats numbers as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# The folders of an absolute path, on Unix and on Windows.
ABSOLUTE = re.compile(r"(?<![^\s=:,;'\"(])(?:[A-Za-z]:)?[\\/](?:[^\s\\/,;'\"]+[\\/])*(?=[^\s\\/])")


def points(quality: float | None) -> str:
    """A quality from 0 to 1 as points of 100."""
    return "–" if quality is None or not np.isfinite(quality) else f"{100 * quality:.1f}"


def signed(difference: float | None) -> str:
    if difference is None or not np.isfinite(difference):
        return "–"
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def between(interval: Sequence[float], sign: bool = False) -> str:
    show = signed if sign else points
    return f"({show(interval[0])} to {show(interval[1])})"


def percent(share: float | None, digits: int = 0) -> str:
    if share is None or not np.isfinite(share):
        return "–"
    if 0 < share < 0.5 * 10 ** -(2 + digits):
        return f"<{10**-digits:g} %"
    return f"{100 * share:.{digits}f} %"


def rate(number: float | None) -> str:
    return "–" if number is None or not np.isfinite(number) else f"{number:.2f}"


def dollars(cost: float | None) -> str:
    """A cost in US$ per query, as US$ per 1,000 queries."""
    if cost is None or not np.isfinite(cost):
        return "–"
    if abs(cost) >= 0.1:
        return f"{1000 * cost:,.0f}"
    return np.format_float_positional(1000 * cost, precision=3, fractional=False, trim="-")


def local(text: object) -> str:
    """The text without the folders of absolute paths, so that a page that is passed on names no
    folder of this machine.

    >>> local("sentence=/home/ada/minilm on /srv/a.parquet, b/c.parquet")
    'sentence=minilm on a.parquet, b/c.parquet'
    """
    return ABSOLUTE.sub("", str(text))


def verdict_of(interval: Sequence[float]) -> str:
    """The verdict of the interval of a gain: gain, unproven or loss."""
    low, high = interval
    if low > 0:
        return "gain"
    return "loss" if high < 0 else "unproven"
