"""Checks whether a router was evaluated on rows that it was fitted on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from routewright.data.outcomes import ALL, Fingerprints, fingerprints
from routewright.evaluation.figures import Evaluation
from routewright.evaluation.report.words import percent
from routewright.router.router import Router


class Audit(NamedTuple):
    """The overlap of the fit and the evaluation; `level` is good, open or bad."""

    level: str
    text: str


def audit(e: Evaluation, seen: Fingerprints | None = None, router: Router | None = None) -> Audit:
    """Compares the rows by digest, then by `seen`, the prompts of the fit, or else by source; the
    router is that of the evaluation if none is given."""
    router = router or e.router
    data = router.card.get("data", {}) if router else {}
    if data.get("sha256") == e.outcomes.digest:
        return Audit("bad", "The router was fitted on exactly these rows.")
    if seen is not None:
        shared = np.isin(fingerprints(e.outcomes.queries), seen).sum()
        return _by_overlap(int(shared), len(e.outcomes))
    if not data:
        return Audit("open", "The router does not record which rows it was fitted on.")
    splits = {data["split"], e.outcomes.split}
    same_file = bool(_names(data["sources"]) & _names(e.outcomes.sources))
    if same_file and (len(splits) == 1 or ALL in splits):
        return Audit(
            "bad",
            f"The router was fitted on split '{data['split']}' of a table with the same name and"
            f" evaluated on split '{e.outcomes.split}': rows of the fit are very likely among the"
            " evaluated rows.",
        )
    source = (
        "another split of a table with the same name" if same_file else "tables with other names"
    )
    return Audit(
        "open",
        f"The router was fitted on {source}. It has no fingerprints of its prompts, so shared"
        " prompts cannot be ruled out; fit it again to check them.",
    )


def _by_overlap(shared: int, n: int) -> Audit:
    if not shared:
        return Audit("good", f"None of the {n} prompts was in the fit.")
    return Audit(
        "bad" if shared > n / 100 else "open",
        f"{shared} of the {n} prompts ({percent(shared / n, 1)}) were also in the fit.",
    )


def _names(paths: Iterable[str]) -> set[str]:
    return {Path(path).name for path in paths}
