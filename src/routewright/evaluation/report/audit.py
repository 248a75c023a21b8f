"""Was it fair? Whether rows of the fit are among those evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from routewright.data.outcomes import ALL, Fingerprints, fingerprints
from routewright.evaluation.figures import Evaluation
from routewright.evaluation.report.words import percent


class Audit(NamedTuple):
    """Whether the rows of the evaluation were part of the fit; `level` is good, open or bad."""

    level: str
    text: str


def audit(e: Evaluation, seen: Fingerprints | None = None) -> Audit:
    data = e.router.card.get("data", {}) if e.router else {}
    if data.get("sha256") == e.outcomes.digest:
        return Audit("bad", "These are the very rows that the router was fitted on.")
    if seen is not None:
        return _counted(int(np.isin(fingerprints(e.outcomes.queries), seen).sum()), len(e.outcomes))
    if not data:
        return Audit("open", "The router does not say what it was fitted on.")
    splits = {data["split"], e.outcomes.split}
    same_file = bool(_names(data["sources"]) & _names(e.outcomes.sources))
    if same_file and (len(splits) == 1 or ALL in splits):
        return Audit(
            "bad",
            f"The router was fitted on split '{data['split']}' of a table of the same name, and"
            f" this is split '{e.outcomes.split}' of it: rows of the fit are very likely among"
            " those evaluated.",
        )
    where = "another split of a table of the same name" if same_file else "tables of other names"
    return Audit(
        "open",
        f"It was fitted on {where}. The router holds no fingerprints of its prompts, so a prompt"
        " that stands in both cannot be ruled out; fit it again to have this checked.",
    )


def _counted(shared: int, n: int) -> Audit:
    if not shared:
        return Audit("good", f"None of the {n} prompts was among those of the fit.")
    return Audit(
        "bad" if shared > n / 100 else "open",
        f"{shared} of the {n} prompts ({percent(shared / n, 1)}) were also in the fit.",
    )


def _names(paths: Iterable[str]) -> set[str]:
    return {Path(path).name for path in paths}
