"""Reads targets in the user's own units: "$0.30 per 1,000", "95% of gpt-4o", "at most 20%".

Each function reads one kind of text and raises BadInput with the forms that it accepts.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence

from routewright.errors import BadInput
from routewright.router.frontier import OperatingPoint

NUMBER = r"(?P<number>(?:\d++(?:\.\d*+)?+|\.\d++)(?:e[+-]?+\d++)?)"
DOLLARS = re.compile(
    rf"\$?\s*+{NUMBER}\s*+(?:(?:\$|usd|us\$)\s*+)?"
    r"(?:(?:/|per)\s*+(?P<per>\d[\d,_]*+(?:\s*+[km])?|quer(?:y|ies)|[km])\s*+(?:quer(?:y|ies))?)?",
    re.IGNORECASE,
)
SHARE = re.compile(rf"{NUMBER}\s*+(?P<percent>%)?", re.IGNORECASE)
OF_EXPERT = re.compile(rf"{NUMBER}\s*+(?:(?P<percent>%)\s*+)?of\s++(?P<expert>\S.*)", re.IGNORECASE)
AT_MOST = re.compile(r"^(?:at most|≤|<=)\s*", re.IGNORECASE)
AT_LEAST = re.compile(r"^(?:at least|≥|>=)\s*", re.IGNORECASE)
MOST_COST = 2.0  # a plain cost fraction above it may have meant a percentage
THOUSANDS = {"k": 1e3, "m": 1e6}


def dollars(text: str) -> float:
    """US$ per query.

    >>> dollars("0.0003"), dollars("0.30/1000"), dollars("at most $0.30 per 1,000 queries")
    (0.0003, 0.0003, 0.0003)
    """
    match = DOLLARS.fullmatch(_without(AT_MOST, text))
    per = _queries(match["per"]) if match else 0.0
    if match is None or not per > 0:
        raise BadInput(
            f"cost '{text}' is not understood: write US$ per query (0.0003) or per many queries"
            " (0.30/1000, '$0.30 per 1000')"
        )
    return float(match["number"]) / per


def _queries(text: str | None) -> float:
    if text is None or text.lower().startswith("quer"):
        return 1.0
    digits = re.sub(r"[,_\s]", "", text.lower())
    factor = THOUSANDS.get(digits[-1], 1.0)
    return float(digits.rstrip("km") or 1) * factor


def share(text: str, what: str = "share", most: float = 1.0) -> float:
    """A part of a whole, 0..`most`.

    >>> share("20%"), share("at most 0.2")
    (0.2, 0.2)
    """
    match = SHARE.fullmatch(_without(AT_MOST, text))
    value = _part(match) if match else math.nan
    if not 0 <= value <= most:
        raise BadInput(f"{what} '{text}' is not understood: write a percentage (20%) or 0.2")
    return value


def cost_fraction(text: str) -> float:
    """A cost relative to always asking the most expensive expert, 0..1.

    >>> cost_fraction("50%"), cost_fraction("0.5"), cost_fraction("at most 20%")
    (0.5, 0.5, 0.2)
    """
    value = share(text, "cost fraction", math.inf)
    if value > MOST_COST and "%" not in text:
        percent = f"{value:g}% or {value / 100:g}" if value <= 100 else "50% or 0.5"
        raise BadInput(f"cost fraction '{text}' is {value:g} times the whole: write {percent}")
    if value > 1:
        raise BadInput(
            f"cost fraction '{text}' is above 1, the cost of always asking the most expensive"
            " expert: write at most 100% or 1; a higher limit is a cost in US$ (`calibrate"
            " --max-cost`)"
        )
    return value


def quality(text: str, experts: Mapping[str, float]) -> float:
    """A mean score, 0..1: a plain number, or a part of the mean quality of one of `experts`.

    >>> quality("0.8", {}), quality("at least 95 % of sage", {"sage": 0.8})
    (0.8, 0.76)
    """
    bare = _without(AT_LEAST, text)
    if match := OF_EXPERT.fullmatch(bare):
        return _part(match) * _quality_of(match["expert"].strip(), experts)
    match = SHARE.fullmatch(bare)
    if match and match["percent"]:
        raise BadInput(f"quality '{text}' of which expert? Write '{text.strip()} of NAME' or 0.8")
    value = _part(match) if match else math.nan
    if not 0 <= value <= 1:
        raise BadInput(
            f"quality '{text}' is not understood: write a mean score in 0..1 (0.8) or a part of"
            " an expert's ('95% of NAME')"
        )
    return value


def _without(words: re.Pattern[str], text: str) -> str:
    """The text without words that the option already says; the opposite words stay."""
    return words.sub("", text.strip())


def _part(match: re.Match[str]) -> float:
    number = float(match["number"])
    return round(number / 100, 15) if match["percent"] else number


def _quality_of(expert: str, experts: Mapping[str, float]) -> float:
    if expert not in experts:
        close = difflib.get_close_matches(expert, experts, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise BadInput(f"no expert '{expert}': {hint}the router knows {', '.join(experts)}")
    quality_of_expert = experts[expert]
    if not math.isfinite(quality_of_expert):
        raise BadInput(f"the router does not know the quality of '{expert}': name a mean score")
    return quality_of_expert


def within_share(points: Sequence[OperatingPoint], expert: str, most: float) -> OperatingPoint:
    """The best point that asks `expert` for at most the share `most` of the queries.

    Raises BadInput if no point does, or if the points do not record whom they ask.
    """
    if not points:
        raise BadInput("the router has no operating points; fit it again")
    shares = [_share_of(point, expert) for point in points]
    sufficient = [
        point for point, share in zip(points, shares, strict=True) if share <= most + 1e-9
    ]
    if not sufficient:
        raise BadInput(
            f"{expert} cannot be kept to {100 * most:.1f} % of the queries: at least"
            f" {100 * min(shares):.1f} %"
        )
    return max(sufficient, key=lambda point: (point.quality, -point.cost))


def _share_of(point: OperatingPoint, expert: str) -> float:
    if not point.shares:
        raise BadInput(
            "the router does not record which share of the queries each expert gets: fit it again"
        )
    return point.shares.get(expert, 0.0)
