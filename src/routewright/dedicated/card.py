"""`dedicated.json`: how a dedicated model was made, and from what doubt on it defers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from routewright.errors import BadInput
from routewright.types import Array

CARD, VERSION = "dedicated.json", 1


def read_card(folder: Path) -> dict[str, Any]:
    """What `dedicated.json` says; raises BadInput."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["version"] != VERSION or card["kind"] not in ("tag", "gate"):
            raise BadInput(f"'{folder}' was made by another version: train it again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"'{folder}' is no dedicated model: there is no good {CARD}") from error
    return dict(card)


def write_card(out: Path, card: Mapping[str, Any]) -> None:
    fresh = out / f".{CARD}.partial"
    fresh.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    fresh.replace(out / CARD)


def offset(doubts: Array, share: float) -> float:
    """What to add to doubts so that `share` of them (0..1) end above zero: a quantile, halfway
    between two doubts.

    >>> offset(np.array([0.0, 1.0, 2.0, 3.0]), 0.5)
    -1.5
    """
    most = np.sort(doubts)[::-1]
    deferred = round(share * len(most))
    edges = np.concatenate([[most[0] + 2.0], most, [most[-1] - 2.0]])
    return float(-(edges[deferred] + edges[deferred + 1]) / 2)


def calibrate(folder: Path, doubts: Array, share: float, **found: Any) -> None:
    """Writes into a folder from what doubt on its model defers: `share` of the held-out queries."""
    told = {"share": share, "offset": offset(doubts, share), "rows": len(doubts), **found}
    write_card(folder, {**read_card(folder), "calibration": told})
