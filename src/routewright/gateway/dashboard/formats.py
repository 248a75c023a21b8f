"""Formats numbers and times as the pages show them, with their units."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any, NamedTuple

from markupsafe import Markup

UNKNOWN = "–"
STEP = re.compile(r"(?P<name>.*?)(?::(?P<fact>[^:]*))?")
KINDS = ("verify", "judge", "embed")


def usd(amount: float | None) -> str:
    """US$, with as many digits as small amounts need.

    >>> usd(12.3456), usd(0.00012345), usd(0.0), usd(None)
    ('US$ 12.35', 'US$ 0.000123', 'US$ 0', '–')
    """
    if amount is None or not math.isfinite(amount):
        return UNKNOWN
    if amount == 0:
        return "US$ 0"
    if abs(amount) >= 1:
        return f"US$ {amount:,.2f}"
    digits = min(max(2 - math.floor(math.log10(abs(amount))), 2), 9)
    return f"US$ {amount:.{digits}f}"


def per_thousand(cost: float | None) -> str:
    """US$ per query as US$ per 1,000 queries, without the unit.

    >>> per_thousand(0.0031), per_thousand(2.13e-6)
    ('3.10', '0.00213')
    """
    if cost is None or not math.isfinite(cost):
        return UNKNOWN
    return f"{1000 * cost:,.2f}" if cost >= 1e-3 else f"{1000 * cost:.3g}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share or a quality (0..1) in per cent.

    >>> percent(0.4431), percent(0.72412, 1)
    ('44 %', '72.4 %')
    """
    if share is None or not math.isfinite(share):
        return UNKNOWN
    return f"{100 * share:.{digits}f} %"


def points(difference: float | None) -> str:
    """A difference of qualities, in percentage points.

    >>> points(0.0241), points(-0.1)
    ('+2.4', '−10.0')
    """
    if difference is None or not math.isfinite(difference):
        return UNKNOWN
    return f"{100 * difference:+.1f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds, or milliseconds where there is less than one of them.

    >>> duration(2.345), duration(0.0123), duration(75)
    ('2.3 s', '12 ms', '75 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "<1 ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:,.0f} s"


def count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def moment(at: float | None) -> Markup:
    """A time, which a script shows in the reader's zone; UTC without it."""
    if at is None or not math.isfinite(at):
        return Markup(UNKNOWN)
    time = datetime.datetime.fromtimestamp(at, datetime.UTC)
    text = f"{time:%Y-%m-%d %H:%M} UTC"
    return Markup('<time datetime="{}">{}</time>').format(f"{time:%Y-%m-%dT%H:%M:%SZ}", text)


class Step(NamedTuple):
    """One ask of a path, for its picture."""

    name: str  # the expert, or the kind of ask
    fact: str  # its status or its confidence
    tone: str  # ok, bad or check


def steps(path: str | None) -> list[Step]:
    """The asks of a path, in order.

    >>> steps("small:failed>large")
    [Step(name='small', fact='failed', tone='bad'), Step(name='large', fact='', tone='ok')]
    >>> steps("small>verify:0.31>large")[1]
    Step(name='verify', fact='0.31', tone='check')
    """
    found = []
    for text in (path or "").split(">"):
        match = STEP.fullmatch(text)
        if not text or match is None:
            continue
        name, fact = match["name"], match["fact"] or ""
        tone = "check" if name in KINDS else ("bad" if fact else "ok")
        found.append(Step(name, fact, tone))
    return found


def period(seconds: float) -> str:
    """A length of time in words.

    >>> period(3600), period(86400), period(7 * 86400)
    ('hour', '24 hours', '7 days')
    """
    if seconds <= 3600:
        return "hour"
    return f"{seconds / 3600:.0f} hours" if seconds <= 86400 else f"{seconds / 86400:.0f} days"


FILTERS: tuple[Any, ...] = (
    usd, per_thousand, percent, points, duration, count, moment, steps, period,
)  # fmt: skip
