"""Ways to look at answers, side by side: fitted on `train`, measured on `dev`, pool P1.

    python -m bench.cascades [--rows 1500]

All but AutoMix share one fit of the forecasts. Intervals are paired bootstraps (95 %): the same
rows are drawn for `auto` and for the other. Costs are those of the dearest expert's and count
everything asked on the way.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import BY_DOMAIN, P1, read
from routewright import metrics
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.figures import FRACTIONS, Evaluation, curve_replicates
from routewright.fitting import automix
from routewright.fitting.fit import STRATEGIES, fit_each
from routewright.router.router import Router
from routewright.types import Array

POOL = "mmlu_pro P1"
LARGE = "gpt-4o-2024-05-13"
# Small model and those whose agreement verifies it: AutoMix is told whom to ask.
AUTOMIX = automix.Cascade((P1[0], LARGE), P1[1:3], "letter")
SHARES = (0.95, 1.0)  # of the large expert's quality
OURS = "auto"


class Figures(NamedTuple):
    """What a router reaches, one row per replicate; the first is the sample itself."""

    quality: Array  # (b, fractions) at FRACTIONS of the large expert's cost
    cost: Array  # (b, shares) fraction of it at SHARES of the large expert's quality, NaN: never


def routers(train: Outcomes) -> dict[str, Router]:
    fitted = fit_each(train, STRATEGIES, encoder=BY_DOMAIN)
    return {**fitted, "automix": automix.fit(train, AUTOMIX)}


def figures(e: Evaluation, large: Outcomes) -> Figures:
    """`large` holds the large expert alone."""
    weights = np.vstack([np.ones(len(e.outcomes)), e.weights])
    reached, _ = curve_replicates(e, weights, np.array(FRACTIONS))
    goal = metrics.mean(large.score[:, 0], weights)
    price = metrics.mean(large.charges[:, 0], weights)
    costs, scores = (metrics.mean(table.T, weights) for table in (e.costs, e.scores))
    least = [
        [metrics.cpt(c, s, share, (0.0, 0.0), (p, g)) for share in SHARES]
        for c, s, p, g in zip(costs, scores, price, goal, strict=True)
    ]
    return Figures(reached, np.array(least))


def report(found: dict[str, Figures], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left")
    heads = [f"at {fraction:g}" for fraction in FRACTIONS]
    for head in ("strategy", *heads, *(f"cost of {share:.0%}" for share in SHARES)):
        table.add_column(head)
    for name, mine in found.items():
        table.add_row(name, *(_known(x) for x in (*mine.quality[0], *mine.cost[0])))
    for name, mine in found.items():
        if name != OURS:
            leads = [ours - other for ours, other in zip(found[OURS], mine, strict=True)]
            table.add_row(f"{OURS} − {name}", *(_lead(x) for lead in leads for x in lead.T))
    console.print(table)


def _known(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "never"


def _lead(replicates: Array) -> str:
    """A difference with its interval; over the replicates in which both get there."""
    if not np.isfinite(replicates[0]):
        return "–"
    low, high = np.nanpercentile(replicates[1:], [2.5, 97.5])
    return f"{replicates[0]:+.3f} ({low:+.3f} … {high:+.3f})"


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cascades", description=__doc__)
    parser.add_argument("--rows", type=int, help="fit on so many rows of `train` only")
    chosen = parser.parse_args(arguments)
    train, dev = read(POOL, "train"), read(POOL, "dev")
    if train is None or dev is None:
        return
    train = train.rows(slice(chosen.rows))
    began = time.perf_counter()
    fitted = routers(train)
    seconds = time.perf_counter() - began
    large = dev.pool([LARGE])
    found = {name: figures(evaluate(router, dev), large) for name, router in fitted.items()}
    title = f"{POOL}: fitted on {len(train):,} rows in {seconds:.0f} s, {len(dev)} of dev"
    report(found, title, Console(width=190))


if __name__ == "__main__":
    main(sys.argv[1:])
