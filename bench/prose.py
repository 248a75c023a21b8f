"""Answers in prose and code: what `auto` gains by reading them, cross-fitted and on `dev`.

    python -m bench.prose [POOL ...]

Five outer folds of `train` (whole groups) are decided by routers fitted on the other four; then
`dev` by a router fitted on `train`. Each line gives the gain over the zero router in points of
quality, at fractions of the most expensive expert's cost, with 95 % intervals (bootstrap over
groups). "unproven" are the candidates before the rule of doing no harm, "served" what it admits,
and "fixed" the zero router as fitted: below 0, since its experts were chosen on other rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench._data import REAL
from routewright import metrics, policies
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.fitting import fit as fitting
from routewright.prediction.predictors import folds
from routewright.router import frontier
from routewright.router.frontier import Candidate
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, run
from routewright.types import Array

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
GRID = np.linspace(0, 1, 41)  # fractions of the cost at which the points of folds are matched
FOLDS, REPLICATES = 5, 400
POOLS: dict[str, tuple[str, tuple[str, ...] | None, tuple[float, float] | None]] = {
    "alpaca1": (
        "alpaca1_answers",
        ("vicuna-13b", "llama-2-7b-chat-hf", "phi-2-sft", "minichat-3b", "gpt4_0314"),
        (11, 9),
    ),
    "alpaca1 7B": (
        "alpaca1_answers",
        ("llama-2-7b-chat-hf", "vicuna-13b", "zephyr-7b-alpha", "gpt4_0314"),
        (3, 3),
    ),
    "alpaca2": (
        "alpaca2_answers",
        (
            "FuseChat-Llama-3.2-1B-Instruct",
            "gemma-7b-it",
            "OpenHermes-2.5-Mistral-7B",
            "gpt4_1106_preview",
        ),
        (4, 6),
    ),
    "classeval": (
        "classeval_answers",
        ("WizardCoder-15B-V1.0", "starcoder-instruct-15B", "instruct-codegen-16B", "GPT-4-Turbo"),
        (5, 3.5),
    ),
    "mbpp": (
        "mbpp_answers",
        (
            "mistralai/mistral-7b-chat",
            "WizardLM/WizardLM-13B-V1.2",
            "mistralai/mixtral-8x7b-chat",
            "meta/code-llama-instruct-34b-chat",
            "gpt-4-1106-preview",
        ),
        (5, 4),
    ),
    "alpaca1, all": ("alpaca1_answers", None, None),
    "alpaca2, all": ("alpaca2_answers", None, None),
    "classeval, all": ("classeval_answers", None, None),
    "mbpp, all": ("mbpp_answers", None, None),
}


class Replay(NamedTuple):
    """A frontier on rows that it was not fitted on."""

    score: Array  # (grid, n)
    cost: Array  # (grid, n)


def main(names: Sequence[str] = ()) -> None:
    for name in names or POOLS:
        table, experts, goal = POOLS[name]
        path = REAL / f"{table}.parquet"
        if not path.exists():
            print(f"{name}: skipped, {path} is not here")
            continue
        began = time.perf_counter()
        train, dev = (outcomes.read(path, experts=experts, split=s) for s in ("train", "dev"))
        wanted = f", goals {goal[0]:+g} / {goal[1]:+g} at .25 / .5" if goal else ""
        print(f"{name}: {len(train)} + {len(dev)} rows{wanted}")
        fold = folds(len(train), FOLDS, 0, train.groups)
        inside = [np.flatnonzero(fold != k) for k in range(FOLDS)]
        outside = [np.flatnonzero(fold == k) for k in range(FOLDS)]
        parts = [
            replays(train.rows(i), train.rows(o)) for i, o in zip(inside, outside, strict=True)
        ]
        order = np.concatenate(outside)
        show("train, cross-fitted", parts, train.rows(order))
        show("dev", [replays(train, dev)], dev)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)


def replays(train: Outcomes, rows: Outcomes) -> dict[str, Replay]:
    """Fits `auto` on `train`, and replays its points on other rows."""
    candidates: list[Candidate] = []
    trace = frontier.trace

    def watched(found: Sequence[Candidate], *words: Any, **options: Any) -> Any:
        candidates[:] = found
        return trace(found, *words, **options)

    frontier.trace = watched
    try:
        router = fitting.fit(train)
    finally:
        frontier.trace = trace
    table = train.pool(router.experts)
    top = float(np.nanmax(metrics.mean(table.charges)))
    hull = policies.zero_router(metrics.mean(table.score), metrics.mean(table.charges))
    fixed = [
        (f, frontier.fixed(policies.mix_at_cost(hull, f * top), table.experts).spec)
        for f in np.linspace(hull[0].cost / top, 1, len(GRID)).tolist()
    ]
    unproven = [(float(metrics.mean(c.cost)) / top, c.strategy.spec) for c in candidates]
    served = [(point.cost_fraction, point.spec) for point in router.frontier]
    recorded = Recorded(rows.pool(router.experts), router)
    return {
        name: _replay(points, router, recorded)
        for name, points in (("fixed", fixed), ("unproven", unproven), ("served", served))
    }


def _replay(points: Sequence[tuple[float, Any]], router: Router, rows: Recorded) -> Replay:
    """At each of GRID, the point whose expected cost is nearest."""
    expected = np.array([fraction for fraction, _ in points])
    nearest = [int(np.argmin(abs(expected - fraction))) for fraction in GRID]
    runs = {i: run(build(points[i][1], router), rows) for i in set(nearest)}
    return Replay(
        np.array([runs[i].score for i in nearest]), np.array([runs[i].cost for i in nearest])
    )


def show(name: str, parts: Sequence[dict[str, Replay]], rows: Outcomes) -> None:
    """Prints the gains of frontiers that were replayed on consecutive parts of the rows."""
    weights = metrics.resample(len(rows), REPLICATES, 0, rows.groups)
    weights = np.vstack([np.ones(len(rows)), weights])
    for kind in parts[0]:
        score, cost = (
            np.hstack([getattr(part[kind], f) for part in parts]) for f in ("score", "cost")
        )
        gains = np.array([_gains(score, cost, rows, w) for w in weights])
        low, high = np.quantile(gains[1:], [0.025, 0.975], axis=0)
        cells = (
            f"{f:g}: {100 * g:+5.1f} ({100 * a:+.1f} … {100 * b:+.1f})"
            for f, g, a, b in zip(FRACTIONS, gains[0], low, high, strict=True)
        )
        print(f"  {name:20} {kind:9}", "   ".join(cells))


def _gains(score: Array, cost: Array, rows: Outcomes, weights: Array) -> list[float]:
    price = metrics.mean(rows.charges, weights)
    hull = policies.zero_router(metrics.mean(rows.score, weights), price)
    costs, qualities = metrics.mean(cost.T, weights), metrics.mean(score.T, weights)
    order, top = np.lexsort((qualities, costs)), float(np.nanmax(price))
    return [
        float(np.interp(f * top, costs[order], qualities[order]))
        - float(policies.hull_quality(hull, f * top))
        for f in FRACTIONS
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
