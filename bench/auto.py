"""What `auto` reaches where answers may be looked at, beside what is wanted of it.

    python -m bench.auto [p1 everybody gsm8k sandbox]

P1 and everybody: MMLU-Pro, fitted on `train`, measured on `dev`. GSM8K: five open models and
GPT-4o, cross-fitted on `dev`, as `train` lacks them. Sandbox: the three tiny models behind a real
gateway, asked over HTTP, beside the same plans replayed on their recorded answers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import REAL, read
from routewright import demo, metrics
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.drive import replay
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.prediction.predictors import folds
from routewright.router.router import Router
from routewright.sandbox.skills import grade, questions
from routewright.types import Array

WANTED = {0.1: 0.530, 0.25: 0.605, 0.5: 0.680, 0.75: 0.715}  # on other rows than `dev`
WANTED_COST = {0.95: 0.52, 1.0: 0.75}
GPT_4O = "gpt-4o-2024-05-13"
KNOWN = 0.995  # share of the rows on which an expert of `everybody` is scored, at least
GSM8K = (
    "Meta-Llama-3.1-8B-Instruct",
    "Qwen2-7B-Instruct",
    "Yi-1.5-9B-Chat",
    "gemma-2-9b-it",
    "Phi-3.5-mini-instruct",
    "gpt-4o-2024-08-06",
)
FOLDS = 5


class Curve:
    """A frontier on rows that it was not fitted on, read by straight lines."""

    def __init__(self, costs: Array, scores: Array, dear: Array, goal: Array) -> None:
        self.cost, self.quality = metrics.mean(costs.T), metrics.mean(scores.T)
        self.dear, self.goal = float(metrics.mean(dear)), float(metrics.mean(goal))

    def at(self, fraction: float) -> float:
        order = np.lexsort((self.quality, self.cost))
        return float(np.interp(fraction * self.dear, self.cost[order], self.quality[order]))

    def cost_of(self, share: float) -> float:
        """Share of the goal's cost at which so much of its quality is reached; NaN: never."""
        return metrics.cpt(self.cost, self.quality, share, (0.0, 0.0), (self.dear, self.goal))


def p1() -> None:
    train, dev = read("mmlu_pro P1", "train"), read("mmlu_pro P1", "dev")
    if train is None or dev is None:
        return
    for option_style in (False, True):
        began = time.perf_counter()
        router = fit(train, option_style=option_style)
        used = "with" if option_style else "without"
        seconds = time.perf_counter() - began
        print(f"P1 {used} option style: fitted on {len(train):,} rows in {seconds:.0f} s")
        show(router, dev, GPT_4O)


def everybody() -> None:
    path = REAL / "mmlu_pro.parquet"
    if not path.exists():
        print(f"everybody: skipped, {path} is not here")
        return
    train, dev = (outcomes.read(path, split=split) for split in ("train", "dev"))
    known = np.isfinite(train.score).mean(axis=0)
    pool = [name for name, share in zip(train.experts, known, strict=True) if share >= KNOWN]
    began = time.perf_counter()
    router = fit(train.pool(pool))
    print(f"{len(pool)} experts: fitted in {time.perf_counter() - began:.0f} s")
    show(router, dev.pool(pool), GPT_4O)


def show(router: Router, dev: Outcomes, goal: str) -> None:
    """Quality at shares of the goal's cost, the cost of its quality, and the plan there."""
    e = evaluate(router, dev)
    m = dev.experts.index(goal)
    curve = Curve(e.costs, e.scores, dev.charges[:, m], dev.score[:, m])
    table = Table(title=f"{len(dev)} rows of dev; {goal} scores {curve.goal:.3f}")
    for head in ("", *(f"at {f:g}" for f in WANTED), *(f"cost of {s:.0%}" for s in WANTED_COST)):
        table.add_column(head)
    reached = [*(curve.at(f) for f in WANTED), *(curve.cost_of(s) for s in WANTED_COST)]
    table.add_row("auto", *(f"{x:.3f}" for x in reached))
    table.add_row("wanted of P1 elsewhere", *map(str, [*WANTED.values(), *WANTED_COST.values()]))
    Console(width=140).print(table)
    least = [p for p, q in zip(router.frontier, curve.quality, strict=True) if q >= curve.goal]
    if least:
        print(f"its quality at the least cost: {min(least, key=lambda p: p.cost).plan}")


def gsm8k() -> None:
    path = REAL / "gsm8k_dedicated.parquet"
    if not path.exists():
        print(f"gsm8k: skipped, {path} is not here")
        return
    rows = outcomes.read(path, experts=GSM8K, split="dev")
    fold = folds(len(rows), FOLDS, 0, rows.groups)
    prices = np.linspace(0, 1, 41)
    costs, scores = np.empty((2, len(prices), len(rows)))
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        e = evaluate(fit(rows.rows(inside)), rows.rows(outside))
        # Points of the folds are matched by what they were expected to cost.
        expected = np.array([point.cost_fraction for point in e.points])
        nearest = [int(np.argmin(abs(expected - price))) for price in prices]
        costs[:, outside], scores[:, outside] = e.costs[nearest], e.scores[nearest]
    curve = Curve(costs, scores, rows.charges[:, -1], rows.score[:, -1])
    print(
        f"GSM8K, cross-fitted on {len(rows)} rows of dev: {curve.at(0.25):.3f} at a quarter of"
        f" GPT-4o's cost (wanted: 0.957), {curve.at(0.35):.3f} at 0.35; GPT-4o's own"
        f" {curve.goal:.4f} at {curve.cost_of(1.0):.2f} of its cost (wanted: 0.35)"
    )


def sandbox() -> None:
    with tempfile.TemporaryDirectory() as path:
        folder = demo.Folder(Path(path))
        folder.prepare()
        demo.ask_everybody(folder, 0, lambda cell: None)
        demo.learn(folder, 0, lambda doing, share: None)
        rows, router = outcomes.read(folder.table, split="dev"), Router.load(folder.router)
        asked = {q.text: q for q in questions(demo.LEARN + demo.CHECK, seed=0)}
        point = router.at(max_cost_fraction=0.5)
        strategy = router.strategy_at(point)
        with demo.gateway(folder, 0) as (url, _):
            replies = [_ask(url, query.text) for query in rows.queries]
    right = [grade(asked[q.text], text) for q, (text, _) in zip(rows.queries, replies, strict=True)]
    paid = [float(headers["x-routewright-cost"]) for _, headers in replies]
    plain = [replay(strategy, _bare(q), rows.record(i)) for i, q in enumerate(rows.queries)]
    same = [
        headers["x-routewright-path"] == d.path and text == d.answer.text
        for (text, headers), d in zip(replies, plain, strict=True)
    ]
    sage = rows.experts.index("sage")
    share = np.mean(paid) / metrics.mean(rows.cost[:, sage])
    print(
        f"sandbox over HTTP, {len(rows)} questions: {np.mean(right):.3f} at {share:.2f} of sage's"
        f" cost (wanted: sage's {metrics.mean(rows.score[:, sage]):.3f} at 0.60); live decisions"
        f" that are the replayed ones: {sum(same)} of {len(same)}\n  {point.strategy}: {point.plan}"
    )


def _bare(query: Any) -> Any:
    """What the gateway sees: the messages alone."""
    return type(query)(query.messages)


def _ask(url: str, text: str) -> tuple[str, Mapping[str, str]]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"], dict(response.headers)


PARTS = {"p1": p1, "everybody": everybody, "gsm8k": gsm8k, "sandbox": sandbox}


def main(arguments: Sequence[str] = ()) -> None:
    for name in arguments or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
