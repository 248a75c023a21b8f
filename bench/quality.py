"""The main job on real tables: fit on `train`, evaluate on `dev`, against every reference.

    python -m bench.quality [POOL …]

`single` decides by prediction alone, "answers alone" knows nothing of the prompt but the experts'
means, and `auto` uses both.
`ratio_greedy` is Routoo's published decoding of the same forecasts, fitted as `single` is; below it
stands the rule as published, with one budget for all rows of `dev` in their order. "Option style"
also uses how multiple-choice options are written, a habit of whoever made the questions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import POOLS, read
from routewright import metrics, policies
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.figures import FRACTIONS
from routewright.fitting.fit import fit, fit_each
from routewright.fitting.ladder import kind_of
from routewright.router.router import Router

HEADS = (
    *("pool", "strategy", "fit s", "at 0.1", "at 0.25", "at 0.5", "at 0.75", "gain at 0.5"),
    *("λ=0 over best single", "AIQ", "no hull", "zero router"),
)


def main(pools: Sequence[str] = ()) -> None:
    table = Table()
    for head in HEADS:
        table.add_column(head)
    if unknown := [pool for pool in pools if pool not in POOLS]:
        sys.exit(f"no pool {', '.join(unknown)}: choose among {', '.join(POOLS)}")
    for pool in pools or POOLS:
        train, dev = read(pool, "train"), read(pool, "dev")
        if train is None or dev is None:
            continue
        began = time.perf_counter()
        ours = ["single"] if train.answers is None else ["single", "auto"]
        routers = fit_each(train, [*ours, "ratio_greedy"])
        published = [f"{quality:.3f}" for quality in in_order(routers["ratio_greedy"], dev)]
        kind = kind_of(train) if "auto" in routers else None
        if kind is not None:
            routers["auto, answers alone"] = fit(train, predictor="prior")
        if kind == "letter":
            routers["auto, option style"] = fit(train, option_style=True)
        seconds = time.perf_counter() - began
        for strategy, router in routers.items():
            figures = evaluate(router, dev).to_json()
            at = figures["at_cost_fraction"]
            table.add_row(
                f"{pool} ({len(train):,} + {len(dev)})",
                strategy,
                f"{seconds:.0f}",
                *(_known(at[f]["quality"], "3f") for f in ("0.1", "0.25", "0.5", "0.75")),
                _gain(at["0.5"]),
                f"{_over_best_single(figures):+.3f}",
                *(_known(figures[k], "4f") for k in ("aiq", "aiq_no_hull", "aiq_zero_router")),
            )
        table.add_row("", "ratio_greedy, in order", "", *published)
    Console(width=160).print(table)


def in_order(router: Router, dev: Outcomes) -> list[float]:
    """Quality of `policies.ratio_greedy` at FRACTIONS of the dearest expert's cost."""
    prediction = router.predict(dev.queries)
    rows = dev.pool(router.experts)
    dearest = float(np.nanmax(metrics.mean(rows.charges)))
    choices = (
        policies.ratio_greedy(prediction, fraction * dearest * len(rows)) for fraction in FRACTIONS
    )
    return [float(metrics.mean(policies.take(rows.score, choice))) for choice in choices]


def _gain(at: dict[str, Any]) -> str:
    if at["gain_ci"] is None:
        return "–"
    low, high = at["gain_ci"]
    return f"{at['gain_over_zero_router']:+.3f} ({low:+.3f} … {high:+.3f})"


def _over_best_single(figures: dict[str, Any]) -> float:
    best = min(figures["curve"], key=lambda point: point["lambda"])
    return float(best["quality"] - figures["references"]["best_single"]["quality"])


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:.{form}}"


if __name__ == "__main__":
    main(sys.argv[1:])
