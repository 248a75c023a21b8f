"""Chooses which of a file's scores counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routewright.data.outcomes import ROUNDING
from routewright.errors import BadTable


def flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The known scores of a row; those in an object get names with a dot.

    >>> flat({"acc": 1, "judge": {"tone": 0.5, "facts": None}})
    {'acc': 1, 'judge.tone': 0.5}
    """
    parts: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            parts |= {f"{name}.{key}": part for key, part in flat(value).items()}
        elif value is not None and not (isinstance(value, float) and math.isnan(value)):
            parts[name] = value
    return parts


def choose(
    rows: Sequence[Mapping[str, Any]], metric: str | None, path: Path, fields: Sequence[str] = ()
) -> str:
    """The name of the score to take, of the scores of each row (see `flat`).

    It is the `metric` if one is named. Otherwise it is the one with values in 0..1 wherever it is
    known that is known on most rows; of several, the first. Raises BadTable if there is none; the
    message names the scores, or else the `fields` of the file.
    """
    counts = Counter(name for row in rows for name in row)
    if metric is not None:
        close = [name for name in counts if name == metric or name.startswith(f"{metric}.")]
        if metric in counts or len(close) == 1:
            return metric if metric in counts else close[0]
        raise BadTable(f"'{path}' has no score '{metric}'; it has {', '.join(counts) or 'none'}")
    valid = [name for name in counts if all(_is_score(row[name]) for row in rows if name in row)]
    if not valid:
        names = ", ".join(list(counts) or fields) or "none"
        raise BadTable(f"'{path}' has no metric in 0..1 on all its rows; it has {names}")
    return max(valid, key=lambda name: counts[name])


def numeric(value: Any) -> Any:
    """The number or truth in a text; any other value unchanged.

    >>> numeric("0.5"), numeric("True"), numeric("good")
    (0.5, 1.0, 'good')
    """
    if not isinstance(value, str):
        return value
    try:
        return float({"true": "1", "false": "0"}.get(value.strip().lower(), value))
    except ValueError:
        return value


def _is_score(value: Any) -> bool:
    return isinstance(value, bool | int | float) and -ROUNDING <= value <= 1 + ROUNDING
