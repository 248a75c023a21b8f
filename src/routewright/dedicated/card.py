"""`dedicated.json`: how a dedicated model was made, and above which doubt it defers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from routewright import files
from routewright.errors import BadInput
from routewright.types import Array

CARD, VERSION = "dedicated.json", 1


def read_card(folder: Path) -> dict[str, Any]:
    """Returns the contents of `dedicated.json`. Raises BadInput if it is missing or invalid."""
    try:
        card = files.read_json(folder / CARD)
        version, kind = card["version"], card["kind"]
    except (BadInput, OSError, KeyError, TypeError) as error:
        raise BadInput(
            f"'{folder}' is not a dedicated model, because it has no valid {CARD}: name a folder"
            " that `dedicate train` wrote"
        ) from error
    if version != VERSION or kind not in ("tag", "gate"):
        raise BadInput(f"'{folder}' was made by another version of Routewright: train it again")
    return dict(card)


def write_card(out: Path, card: Mapping[str, Any]) -> None:
    """Replaces the card in one step, so that a reader never sees half of it."""
    files.write(out / CARD, json.dumps(card, indent=2) + "\n")


def offset(doubts: Array, share: float) -> float:
    """The number to add to doubts (n,) so that a `share` of them (0..1) is above zero.

    It is minus the quantile of the doubts, halfway between two neighbouring doubts.

    >>> offset(np.array([0.0, 1.0, 2.0, 3.0]), 0.5)
    -1.5
    """
    descending = np.sort(doubts)[::-1]
    deferred = round(share * len(descending))
    edges = np.concatenate([[descending[0] + 2.0], descending, [descending[-1] - 2.0]])
    return float(-(edges[deferred] + edges[deferred + 1]) / 2)


def calibrate(folder: Path, doubts: Array, share: float, **figures: Any) -> None:
    """Sets the threshold of the model in `folder` so that it defers a `share` (0..1) of the
    held-out queries with these doubts (n,), and records further `figures`."""
    calibration = {
        "share": share,
        "offset": offset(doubts, share),
        "rows": len(doubts),
        **figures,
    }
    write_card(folder, {**read_card(folder), "calibration": calibration})
