"""Targets in the user's own units: "$0.30 per 1,000", "95% of gpt-4o", "at most 20%".

Each function reads one kind of text and says, if it cannot, which forms it knows.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence

from routewright.errors import BadInput
from routewright.router.frontier import OperatingPoint

NUMBER = r"(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)"
DOLLARS = re.compile(
    rf"\$?\s*{NUMBER}\s*(?:\$|usd|us\$)?"
    r"(?:\s*(?:/|per)\s*(?P<per>\d[\d,_]*\s*[km]?|quer(?:y|ies)|[km])\s*(?:quer(?:y|ies))?)?",
    re.IGNORECASE,
)
SHARE = re.compile(rf"{NUMBER}\s*(?P<percent>%)?", re.IGNORECASE)
OF_EXPERT = re.compile(rf"{NUMBER}\s*(?P<percent>%)?\s*of\s+(?P<expert>\S.*)", re.IGNORECASE)
AT_MOST = re.compile(r"^(?:at most|≤|<=)\s*", re.IGNORECASE)
AT_LEAST = re.compile(r"^(?:at least|≥|>=)\s*", re.IGNORECASE)
THOUSANDS = {"k": 1e3, "m": 1e6}


def dollars(text: str) -> float:
    """US$ per query.

    >>> dollars("0.0003"), dollars("0.30/1000"), dollars("at most $0.30 per 1,000 queries")
    (0.0003, 0.0003, 0.0003)
    """
    found = DOLLARS.fullmatch(_without(AT_MOST, text))
    per = _queries(found["per"]) if found else 0.0
    if found is None or not per > 0:
        raise BadInput(
            f"cost '{text}' is not understood: write US$ per query (0.0003) or for many"
            " (0.30/1000, '$0.30 per 1000')"
        )
    return float(found["number"]) / per


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
    found = SHARE.fullmatch(_without(AT_MOST, text))
    value = _part(found) if found else math.nan
    if not 0 <= value <= most:
        raise BadInput(f"{what} '{text}' is not understood: write a percentage (20%) or 0.2")
    return value


def quality(text: str, experts: Mapping[str, float]) -> float:
    """A mean score, 0..1: a plain number, or a part of the mean quality of one of `experts`.

    >>> quality("0.8", {}), quality("at least 95 % of sage", {"sage": 0.8})
    (0.8, 0.76)
    """
    bare = _without(AT_LEAST, text)
    if found := OF_EXPERT.fullmatch(bare):
        return _part(found) * _quality_of(found["expert"].strip(), experts)
    found = SHARE.fullmatch(bare)
    if found and found["percent"]:
        raise BadInput(f"quality '{text}' of which expert? Write '{text.strip()} of NAME' or 0.8")
    value = _part(found) if found else math.nan
    if not 0 <= value <= 1:
        raise BadInput(
            f"quality '{text}' is not understood: write a mean score in 0..1 (0.8) or a part of"
            " an expert's ('95% of NAME')"
        )
    return value


def _without(words: re.Pattern[str], text: str) -> str:
    """What the option says anyhow may be said again; the opposite may not."""
    return words.sub("", text.strip())


def _part(found: re.Match[str]) -> float:
    number = float(found["number"])
    return round(number / 100, 15) if found["percent"] else number


def _quality_of(expert: str, experts: Mapping[str, float]) -> float:
    if expert not in experts:
        close = difflib.get_close_matches(expert, experts, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise BadInput(f"no expert '{expert}': {hint}the router knows {', '.join(experts)}")
    known = experts[expert]
    if not math.isfinite(known):
        raise BadInput(f"the router does not know the quality of '{expert}': name a mean score")
    return known


def within_share(points: Sequence[OperatingPoint], expert: str, most: float) -> OperatingPoint:
    """The best point that asks `expert` for at most the share `most` of the queries.

    Raises BadInput if no point does, or if the points do not record whom they ask.
    """
    asked = [_asked(point, expert) for point in points]
    good = [point for point, share in zip(points, asked, strict=True) if share <= most + 1e-9]
    if not good:
        raise BadInput(
            f"{expert} cannot be kept to {most:.1%} of the queries: at least {min(asked):.1%}"
        )
    return max(good, key=lambda point: (point.quality, -point.cost))


def _asked(point: OperatingPoint, expert: str) -> float:
    if not point.shares:
        raise BadInput(
            "the router does not record which share of the queries each expert gets: fit it again"
        )
    return point.shares.get(expert, 0.0)
