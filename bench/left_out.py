"""Routers on tasks that they were not fitted on: half of the tasks of `llmrouter_mix`, both halves.

Gains are over the zero router of the same rows, mean and least over all operating points. "Always
learned" is the same router without the rule for queries unlike its training rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import read
from routewright.data.outcomes import Outcomes
from routewright.evaluation import figures
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.prediction.novelty import Novelty
from routewright.router.router import Router

HEADS = (
    "fitted on",
    "measured on",
    "unfamiliar",
    "served: mean",
    "least",
    "learned: mean",
    "least ",
)


def main() -> None:
    train, dev = read("llmrouter_mix", "train"), read("llmrouter_mix", "dev")
    if train is None or dev is None:
        return
    tasks = sorted(set(train.domains))
    table = Table()
    for head in HEADS:
        table.add_column(head)
    for name, half in (("one half", tasks[::2]), ("the other", tasks[1::2])):
        router = fit(_of(train, half), strategy="single")
        print(name, router.card["left_out"], "steady:", ", ".join(router.steady))
        rest = [task for task in tasks if task not in half]
        rows = {"its tasks (dev)": _of(dev, half), "other tasks": _of(train, rest)}
        for where, measured in rows.items():
            table.add_row(name, where, *_figures(router, measured))
    Console(width=120).print(table)


def _of(rows: Outcomes, tasks: list[str | None]) -> Outcomes:
    return rows.rows(np.flatnonzero(np.isin(np.array(rows.domains), tasks)))


def _figures(router: Router, rows: Outcomes) -> list[str]:
    always = replace(router, novelty=_without_limit(router.novelty))
    gains = [
        figures.over_fixed_mix(evaluate(each, rows, replicates=2), np.ones((1, len(rows))))[0]
        for each in (router, always)
    ]
    trust = router.predict(rows.queries).trust
    assert trust is not None
    numbers = [f"{value:+.4f}" for gain in gains for value in (gain.mean(), gain.min())]
    return [f"{np.mean(trust < 0.5):.0%}", *numbers]


def _without_limit(novelty: Novelty) -> Novelty:
    return replace(novelty, limit=np.inf)
