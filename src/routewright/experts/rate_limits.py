"""Reads what upstreams say about their rate limits in the headers of a reply. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 86_400.0  # upper bound in seconds of a Retry-After that is passed on
EPOCH = 1_000_000_000.0  # a larger number is no duration but a time since 1970
OPENAI = ("", "-requests", "-tokens")  # OpenAI, Azure, Groq, Mistral, OpenRouter, …
ANTHROPIC = ("requests", "tokens", "input-tokens", "output-tokens")
LIMITS = (  # the header of what remains, and that of the time when all of it is back
    *((f"x-ratelimit-remaining{of}", f"x-ratelimit-reset{of}") for of in OPENAI),
    *(
        (f"anthropic-ratelimit-{of}-remaining", f"anthropic-ratelimit-{of}-reset")
        for of in ANTHROPIC
    ),
)
UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}
PART = r"(\d{1,12}(?:\.\d{1,12})?)(ms|us|µs|d|h|m|s)"
DURATION = re.compile(rf"(?:{PART}){{1,6}}")
PARTS = re.compile(PART)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After-Ms, or else of Retry-After in either of its two forms; None if a
    reply has neither.

    >>> retry_after({"Retry-After": "2", "Retry-After-Ms": "1500"}), retry_after({})
    (1.5, None)
    """
    seconds = _number(headers.get("Retry-After-Ms", ""), 0.001)
    value = headers.get("Retry-After", "")
    if seconds is None:
        seconds = _number(value)
    if seconds is None:
        try:
            date = parsedate_to_datetime(value)
            seconds = _until(date)
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_WAIT)


def pause(headers: Mapping[str, str]) -> float:
    """The seconds for which nothing remains of a rate limit; 0 if something does.

    >>> pause({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"})
    90.0
    >>> pause({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m30s"})
    0.0
    """
    longest = 0.0
    for remaining, reset in LIMITS:
        left = headers.get(remaining)
        if left is not None and left[:1] in "0-" and (_number(left) or 0.0) <= 0.0:
            longest = max(longest, seconds_of(headers.get(reset, "")))
    return longest


def seconds_of(reset: str) -> float:
    """The seconds of a reset: a duration, a number of seconds, or a time; 0 if it is none of them.

    >>> seconds_of("120ms"), seconds_of("6m0s"), seconds_of("1h2m3.5s"), seconds_of("12")
    (0.12, 360.0, 3723.5, 12.0)
    >>> seconds_of("soon"), seconds_of("2020-01-27T00:00:00Z")
    (0.0, 0.0)
    """
    reset = reset.strip()[:80]
    if DURATION.fullmatch(reset):
        return math.fsum(float(number) * UNITS[unit] for number, unit in PARTS.findall(reset))
    if (number := _number(reset)) is not None:
        if number > EPOCH:  # in seconds, or in milliseconds
            number = number / (1000 if number > 1000 * EPOCH else 1) - datetime.now(UTC).timestamp()
        return max(0.0, number)
    try:
        return max(0.0, _until(datetime.fromisoformat(reset)))
    except (ValueError, OverflowError):
        return 0.0


def _until(date: datetime) -> float:
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return (date - datetime.now(UTC)).total_seconds()


def _number(text: str, unit: float = 1.0) -> float | None:
    """A finite number in these units; None if the text is none."""
    try:
        number = float(text) * unit
    except ValueError:
        return None
    return number if math.isfinite(number) else None
