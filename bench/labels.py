"""What few labels are worth: quality at shares of the most expensive expert's cost.

    python -m bench.labels [p1] [gsm8k] [mmlu_experts] [NUMBER_OF_LABELS ...]

Routers are fitted on so many rows of `train` (mean of three draws), and measured on `dev`; GSM8K is
drawn from `dev`, and measured on the rest of it. 0 labels: 1,000 rows with answers and no scores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import REAL, read
from bench.auto import GSM8K
from routewright import metrics, policies
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit

LABELS = (0, 50, 100, 200, 400)
SHARES = (0.1, 0.25, 0.5, 0.75)
DRAWS, UNLABELLED = 3, 1000


def at_shares(costs: Sequence[float], qualities: Sequence[float], dev: Outcomes) -> list[float]:
    """The quality at each of SHARES, between points by straight lines."""
    highest = float(np.nanmax(metrics.mean(dev.charges)))
    order = np.lexsort((qualities, costs))
    cost, quality = np.array(costs)[order], np.array(qualities)[order]
    return [float(np.interp(share * highest, cost, quality)) for share in SHARES]


def fitted(rows: Outcomes, dev: Outcomes) -> list[float]:
    e = evaluate(fit(rows), dev, replicates=2)
    return at_shares(list(metrics.mean(e.costs.T)), list(metrics.mean(e.scores.T)), dev)


def zero_router(dev: Outcomes) -> list[float]:
    hull = policies.zero_router(metrics.mean(dev.score), metrics.mean(dev.charges))
    return at_shares([v.cost for v in hull], [v.quality for v in hull], dev)


def without_scores(rows: Outcomes) -> Outcomes:
    return replace(rows, measures={**rows.measures, "score": np.full(rows.score.shape, np.nan)})


def tables(name: str) -> tuple[Outcomes, Outcomes | None] | None:
    """The rows to draw from, and those to measure on (None: those that were not drawn)."""
    if name == "gsm8k":
        path = REAL / "gsm8k_dedicated.parquet"
        return (outcomes.read(path, experts=GSM8K, split="dev"), None) if path.exists() else None
    pool = {"p1": "mmlu_pro P1"}.get(name, name)
    train, dev = read(pool, "train"), read(pool, "dev")
    return None if train is None else (train, dev)


def show(name: str, labels: Sequence[int]) -> None:
    if (found := tables(name)) is None:
        return
    rows, dev = found
    table = Table(title=name)
    for head in ("labels", *(f"at {share:g}" for share in SHARES)):
        table.add_column(head)
    for count in labels:
        if count == 0 and rows.answers is None:
            continue
        reached = []
        for seed in range(DRAWS if count else 1):
            order = np.random.default_rng(seed).permutation(len(rows))
            cut = count or min(UNLABELLED, len(rows) * 2 // 3)
            part, rest = rows.rows(np.sort(order[:cut])), rows.rows(np.sort(order[cut:]))
            reached.append(fitted(part if count else without_scores(part), dev or rest))
        table.add_row(str(count), *(f"{quality:.3f}" for quality in np.mean(reached, axis=0)))
    table.add_row("zero router", *(f"{quality:.3f}" for quality in zero_router(dev or rows)))
    Console(width=100).print(table)


def main(arguments: Sequence[str] = ()) -> None:
    labels = [int(word) for word in arguments if word.isdigit()] or LABELS
    names = [word for word in arguments if not word.isdigit()]
    for name in names or ("p1", "gsm8k", "mmlu_experts"):
        show(name, labels)


if __name__ == "__main__":
    main(sys.argv[1:])
