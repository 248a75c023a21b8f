"""Budgets that are kept on shifted traffic: paced policies, replayed on real tables.

A router of pool P1 is fitted on half of the subjects of `mmlu_pro`. Its policies get queries of
these subjects, of the other subjects one after another, and of twice the length. "Most" is the
highest mean cost of any 500 queries in a row, relative to the goal: a share of what GPT-4o really
costs for the same queries, or US$ per query. "Curve" is the quality of the router's own operating
points on these queries at the cost that the pacer spent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import read
from routewright import metrics
from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.gateway.pacing import Pacer
from routewright.router.router import Router
from routewright.strategies._recorded import Recorded, run
from routewright.types import Array, Prediction, Query

WINDOW = 500
GOALS = (0.1, 0.25, 0.5, 0.75)
ROWS = 1500  # to fit on
HEADS = ("traffic", "goal", "spent", "most", "static: spent", "most ", "quality", "curve")


def main() -> None:
    train = read("mmlu_pro P1", "train")
    if train is None:
        return
    subjects = sorted(set(train.domains))
    inside = np.isin(train.domains, subjects[::2])
    lot = np.random.default_rng(0).permutation(len(train))
    own, other = lot[inside[lot]], lot[~inside[lot]]
    router = fit(train.rows(own[:ROWS]))
    by_subject = other[np.argsort(np.array(train.domains)[other], kind="stable")]
    traffic = {
        "same subjects": [train.rows(own[ROWS:])],
        "other subjects": [train.rows(by_subject)],
        "same, then twice as long": [
            train.rows(own[ROWS : ROWS + 1000]),
            doubled(train.rows(own[ROWS:])),
        ],
    }
    table = Table()
    for head in HEADS:
        table.add_column(head)
    for name, parts in traffic.items():
        recorded = [Rows.of(router, part) for part in parts]
        rows = Rows(*(np.concatenate(columns, axis=-1) for columns in zip(*recorded, strict=True)))
        for goal in GOALS:
            table.add_row(
                name, f"{goal:g} of GPT-4o", *result(router, rows, max_cost_fraction=goal)
            )
        highest = float(np.nanmax(router.average_cost))
        table.add_row(name, f"${0.5 * highest:.2g}", *result(router, rows, max_cost=0.5 * highest))
    Console(width=140).print(table)


def doubled(rows: Outcomes) -> Outcomes:
    """The same queries said twice, at twice the cost."""
    queries = tuple(
        replace(query, messages=({"role": "user", "content": f"{query.text}\n\n{query.text}"},))
        for query in rows.queries
    )
    cost = 2 * rows.measures["cost"]
    return replace(rows, queries=queries, measures={**rows.measures, "cost": cost})


class Rows(NamedTuple):
    """What every operating point does on n queries."""

    score: Array  # (points, n)
    cost: Array  # (points, n) US$
    reference: Array  # (n,) real cost of the most expensive expert
    predicted: Array  # (n,) its predicted cost
    lot: Array  # (n,)

    @classmethod
    def of(cls, router: Router, outcomes: Outcomes) -> Rows:
        recorded = Recorded(outcomes.pool(router.experts), router)
        runs = [run(router.strategy_at(point), recorded) for point in router.frontier]
        dearest = int(np.nanargmax(router.average_cost))
        return cls(
            np.nan_to_num([one.score for one in runs]),
            np.nan_to_num([one.cost for one in runs]),
            np.nan_to_num(recorded.pool.charges[:, dearest]),
            recorded.prediction.cost[:, dearest],
            recorded.lots,
        )


class Forecasts(NamedTuple):
    """Stands for a router whose predictions are known."""

    router: Router
    reference: list[float]

    def __getattr__(self, name: str) -> object:
        return getattr(self.router, name)

    def predict(self, queries: object) -> Prediction:
        cost = np.zeros((1, len(self.router.experts)))
        cost[0, int(np.nanargmax(self.router.average_cost))] = self.reference[0]
        return Prediction(self.router.experts, cost, cost, cost, cost)


def result(router: Router, rows: Rows, **goal: float) -> list[str]:
    """Spent, most of a window, the same for the static point, quality, and the curve's quality."""
    reference = [0.0]
    pacer = Pacer(Forecasts(router, reference), **goal)  # type: ignore[arg-type]
    place = {id(point): k for k, point in enumerate(router.frontier)}
    score, cost = np.zeros(len(rows.lot)), np.zeros(len(rows.lot))
    for i, lot in enumerate(rows.lot.tolist()):
        reference[0] = float(rows.predicted[i])
        query = Query.of("")
        query.__dict__["lot"] = lot  # a cached property
        pace = pacer.begin(query)
        k = place[id(pace.point)]
        score[i], cost[i] = rows.score[k, i], rows.cost[k, i]
        was_asked = cost[i] >= 0.8 * rows.reference[i]
        pace.end(float(cost[i]), float(rows.reference[i]) if was_asked else None)
    if "max_cost" in goal:
        limit = np.full(len(cost), goal["max_cost"])
    else:
        limit = goal["max_cost_fraction"] * rows.reference
    static = rows.cost[router.frontier.index(router.at(**goal))]
    order = np.argsort(costs := metrics.mean(rows.cost.T))
    curve = np.interp(cost.mean(), costs[order], metrics.mean(rows.score.T)[order])
    return [
        *(f"{value:.3f}" for spent in (cost, static) for value in shares(spent, limit)),
        f"{score.mean():.4f}",
        f"{curve:.4f}",
    ]


def shares(cost: Array, limit: Array) -> tuple[float, float]:
    """Cost relative to the limit: of all queries, and of the WINDOW in a row that cost most."""
    sums = [np.cumsum(np.append(0.0, column)) for column in (cost, limit)]
    windows = [total[WINDOW:] - total[:-WINDOW] for total in sums]
    return float(cost.sum() / limit.sum()), float((windows[0] / windows[1]).max())
