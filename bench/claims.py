"""What Routewright claims on real tables, point by point: target, figure, pass or miss.

    python -m bench.claims [--tables routerbench_subset gsm8k] [--seeds 1] [--folds 5]

Every figure is measured on rows that the router was not fitted on: on `dev`, and by nested
cross-validation on `train` (the whole fit is repeated in every fold, its own cross-validation
included), which has many more rows. Targets are gains over the zero router, as its level differs
between samples of rows; the interval is a paired bootstrap, of whole domains where there are ten
or more. `knn` and `domain` are the same fit with that predictor alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import BY_DOMAIN, REAL, others, read
from routewright import metrics, policies
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import CLUSTERS, evaluate
from routewright.fitting.fit import Assumed, fit
from routewright.prediction.predictors import folds
from routewright.types import Array

REPLICATES = 400
BASELINES = ("knn", "domain")
GSM8K, BASE, FALLBACK = "gsm8k", "meta-math/MetaMath-Mistral-7B", "gpt-4-1106-preview"
ASSUMED = {FALLBACK: Assumed(0.95, 0.0037)}


# --- what is claimed -----------------------------------------------------------------------


class Measured(NamedTuple):
    """Operating points on rows that they were not fitted on, one replicate per row of weights."""

    cost: Array  # (b, k) US$ per query
    quality: Array  # (b, k)
    hulls: list[list[policies.Vertex]]  # the zero router, (b,)
    singles: Array  # (b, e) quality of single experts
    prices: Array  # (b, e) US$ of single experts


Figure = Callable[[Measured], Array]  # one number per replicate


class Claim(NamedTuple):
    words: str
    figure: Figure
    target: float
    at_most: bool = False
    proven: bool = False  # the interval must lie above zero too


def aiq(hull: bool) -> Figure:
    """AIQ over that of the zero router."""

    def figure(m: Measured) -> Array:
        gains = []
        for cost, quality, zero, prices in zip(m.cost, m.quality, m.hulls, m.prices, strict=True):
            span = float(np.nanmin(prices)), float(np.nanmax(prices))
            x, y = np.array([[v.cost, v.quality] for v in zero]).T
            ours = metrics.aiq(cost, quality, *span, with_hull=hull)
            gains.append(ours - metrics.aiq(x, y, *span, with_hull=hull))
        return np.array(gains)

    return figure


def gain_at(fraction: float) -> Figure:
    """Quality over the zero router's at a share of the dearest expert's cost."""

    def figure(m: Measured) -> Array:
        at = fraction * np.nanmax(m.prices, axis=1)
        return _read(m, at) - _zero(m, at)

    return figure


def over_best_single(m: Measured) -> Array:
    """Quality over the best single expert's, at its cost."""
    best, rows = np.nanargmax(m.singles, axis=1), np.arange(len(m.singles))
    return _read(m, m.prices[rows, best]) - m.singles[rows, best]


def cost_of_the_best(m: Measured) -> Array:
    """The share of the best single expert's cost at which its quality is reached."""
    best = np.nanargmax(m.singles, axis=1)
    shares = []
    for b, expert in enumerate(best):
        floor, goal = (m.prices[b].min(), 0.0), (m.prices[b, expert], m.singles[b, expert])
        at = metrics.cpt(m.cost[b], m.quality[b], 1.0, floor, goal)
        shares.append((floor[0] + at * (goal[0] - floor[0])) / goal[0])
    return np.array(shares)


def worst(m: Measured) -> Array:
    """How far the curve falls below the zero router, at its worst operating point."""
    short = [
        np.interp(c, *_corners(h)) - q for c, q, h in zip(m.cost, m.quality, m.hulls, strict=True)
    ]
    return np.max(short, axis=1)


AREA = "AIQ over the zero router"
PLAIN = "the same, without the hull"
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "mmlu_experts": (
        Claim("gain at 0.5", gain_at(0.5), 0.020, proven=True),
        Claim("best single's quality at this share of its cost", cost_of_the_best, 0.95, True),
        Claim(AREA, aiq(True), 0.026),
        Claim(PLAIN, aiq(False), 0.0),
    ),
    "mmlu_experts, eight open": (Claim("worst point below the zero router", worst, 0.003, True),),
    "mmlu_experts, seven 7B": (Claim("worst point below the zero router", worst, 0.003, True),),
    "mmlu_pro P1": (
        *(
            Claim(f"gain at {at}", gain_at(at), target)
            for at, target in ((0.1, 0.054), (0.25, 0.071), (0.5, 0.077), (0.75, 0.048))
        ),
        Claim(AREA, aiq(True), 0.058),
        Claim(PLAIN, aiq(False), 0.0),
    ),
    "llmrouter_mix": (
        Claim("over the best single at its cost", over_best_single, 0.05),
        Claim(AREA, aiq(True), 0.059),
        Claim(PLAIN, aiq(False), 0.0),
    ),
    "routerbench_subset": (
        Claim(AREA, aiq(True), 0.043),
        Claim(PLAIN, aiq(False), 0.0),
    ),
}


# --- how it is measured --------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Scores and costs of k operating points on every row, (k, n)."""

    outcomes: Outcomes
    scores: Array
    costs: Array

    def measured(self, weights: Array) -> Measured:
        price = metrics.mean(self.outcomes.charges, weights)
        quality = metrics.mean(self.outcomes.score, weights)
        return Measured(
            cost=metrics.mean(self.costs.T, weights),
            quality=metrics.mean(self.scores.T, weights),
            hulls=[policies.zero_router(q, c) for q, c in zip(quality, price, strict=True)],
            singles=quality,
            prices=price,
        )


def on_dev(train: Outcomes, others: Outcomes | None, dev: Outcomes, predictor: str) -> Run:
    router = fit(train, auxiliary=others, predictor=predictor, strategy="single", encoder=BY_DOMAIN)
    e = evaluate(router, dev, replicates=1)
    return Run(e.outcomes, e.scores, e.costs)


def crossed(
    rows: Outcomes, others: Outcomes | None, predictor: str, seed: int = 0, k: int = 5
) -> Run:
    """Every row measured by a router that was fitted without its fold; their n-th points are
    one point of the whole."""
    fold = folds(len(rows), k, 1000 + seed, rows.groups)
    parts = [
        on_dev(
            rows.rows(fold != held_out),
            others and others.rows(fold != held_out),
            rows.rows(fold == held_out),
            predictor,
        )
        for held_out in range(k)
    ]
    points = max(len(part.scores) for part in parts)
    both = np.empty((2, points, len(rows)))
    for held_out, part in enumerate(parts):
        taken = np.linspace(0, len(part.scores) - 1, points).round().astype(int)
        both[:, :, fold == held_out] = part.scores[taken], part.costs[taken]
    return Run(rows, *both)


def _weights(rows: Outcomes) -> Array:
    names = rows.domains
    clusters = names if all(names) and len(set(names)) >= CLUSTERS else ()
    return np.vstack([np.ones(len(rows)), metrics.resample(len(rows), REPLICATES, 0, clusters)])


def _corners(hull: list[policies.Vertex]) -> tuple[list[float], list[float]]:
    return [v.cost for v in hull], [v.quality for v in hull]


def _read(m: Measured, at: Array) -> Array:
    return np.array(
        [metrics.quality_at(c, q, float(x)) for c, q, x in zip(m.cost, m.quality, at, strict=True)]
    )


def _zero(m: Measured, at: Array) -> Array:
    return np.array([float(policies.hull_quality(h, x)) for h, x in zip(m.hulls, at, strict=True)])


# --- point 5: keep or defer ----------------------------------------------------------------


def lift(run: Run, weights: Array) -> Array:
    """Quality over random mixing with half of the questions to the fallback. `run.costs` must
    count 1 for a question that went there, 0 for one that was kept."""
    m = run.measured(weights)
    return _read(m, np.full(len(weights), 0.5)) - m.singles.mean(axis=1)


def counted(rows: Outcomes) -> Outcomes:
    """The rows with costs that count the fallback's calls."""
    calls = np.broadcast_to([0.0, 1.0], rows.cost.shape)
    return replace(rows, measures={**rows.measures, "cost": calls})


def keep_or_defer(seeds: int, k: int, console: Console) -> None:
    path = REAL / "gsm8k_dedicated.parquet"
    if not path.exists():
        console.print(f"{GSM8K}: skipped, {path.name} is not here")
        return
    everyone = {split: outcomes.read(path, split=split) for split in ("train", "dev")}
    train, dev = (everyone[split].pool((BASE, FALLBACK)) for split in ("train", "dev"))
    rest = {
        split: rows.pool([name for name in rows.experts if name not in train.experts])
        for split, rows in everyone.items()
    }
    table = Table(title="gsm8k_dedicated: MetaMath and GPT-4, half of the questions to GPT-4")
    for head in ("lift over random mixing", "target", "measured", "(95 %)", ""):
        table.add_column(head)

    def row(words: str, figures: Array) -> None:
        low, high = metrics.interval(figures[1:])
        verdict = "pass" if figures[0] >= 0.045 else "miss"
        cells = (words, "≥ +0.0450", f"{figures[0]:+.4f}", f"({low:+.4f} … {high:+.4f})", verdict)
        table.add_row(*cells)

    weights = np.vstack([np.ones(len(dev)), metrics.resample(len(dev), REPLICATES)])
    found = []
    for seed in range(seeds):
        router = fit(
            train,
            encoder=BY_DOMAIN,
            auxiliary=rest["train"],
            label="soft",
            assume=ASSUMED,
            strategy="single",
            seed=seed,
        )
        e = evaluate(router, counted(dev), replicates=1)
        found.append(lift(Run(e.outcomes, e.scores, e.costs), weights))
    row("fitted on train without GPT-4's scores, on dev", np.mean(found, axis=0))
    found = []
    for seed in range(seeds):
        fold = folds(len(dev), k, 1000 + seed, dev.groups)
        both: list[Array] = []
        for held_out in range(k):
            inside, outside = fold != held_out, fold == held_out
            beside = rest["dev"].rows(inside)
            router = fit(
                dev.rows(inside),
                encoder=BY_DOMAIN,
                auxiliary=beside,
                label="soft",
                strategy="single",
            )
            e = evaluate(router, counted(dev.rows(outside)), replicates=1)
            both = both or [np.empty((len(e.scores), len(dev))) for _ in range(2)]
            both[0][:, outside], both[1][:, outside] = e.scores, e.costs
        found.append(lift(Run(counted(dev), *both), weights))
    row("fitted on dev, cross-fitted", np.mean(found, axis=0))
    console.print(table)


# --- printing ------------------------------------------------------------------------------


def report(pool: str, seeds: int, k: int, console: Console) -> None:
    train, dev = read(pool, "train"), read(pool, "dev")
    if train is None or dev is None:
        return
    began = time.perf_counter()
    names = ("auto", *(BASELINES if len(CLAIMS[pool]) > 1 else ()))
    weights = {"dev": _weights(dev), "cv": _weights(train)}
    beside = others(pool, "train")
    seen = on_dev(train, beside, dev, "auto").measured(weights["dev"])
    nested = {
        name: [
            crossed(train, beside if name == "auto" else None, name, s, k).measured(weights["cv"])
            for s in range(seeds)
        ]
        for name in names
    }
    table = Table(
        title=f"{pool}: {len(train):,} rows cross-validated ({seeds} × {k} folds),"
        f" {len(dev)} of dev; {time.perf_counter() - began:.0f} s",
        title_justify="left",
    )
    for head in (
        "claim",
        "target",
        "dev",
        "nested CV (95 %)",
        *(f"over {b} (95 %)" for b in names[1:]),
        "",
    ):
        table.add_column(head)
    for claim in CLAIMS[pool]:
        figures = {n: np.mean([claim.figure(m) for m in nested[n]], axis=0) for n in names}
        ours = figures["auto"]
        low, _ = metrics.interval(ours[1:])
        good = ours[0] <= claim.target if claim.at_most else ours[0] >= claim.target
        good = good and (low > 0 or not claim.proven)
        lead = [ours - figures[name] for name in names[1:]]
        verdict = "pass" if good and (claim.at_most or all(d[0] >= 0 for d in lead)) else "miss"
        table.add_row(
            claim.words,
            f"{'≤' if claim.at_most else '≥'} {claim.target:.3f}",
            f"{claim.figure(seen)[0]:+.4f}",
            _with_interval(ours),
            *(_with_interval(difference) for difference in lead),
            verdict,
        )
    console.print(table)


def _with_interval(figures: Array) -> str:
    low, high = metrics.interval(figures[1:])
    return f"{figures[0]:+.4f} ({low:+.4f} … {high:+.4f})"


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    known = [*CLAIMS, GSM8K]
    parser.add_argument("--tables", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", type=int, default=1, help="repetitions of the cross-validation")
    parser.add_argument("--folds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    console = Console(width=170)
    for name in chosen.tables:
        if name == GSM8K:
            keep_or_defer(chosen.seeds, chosen.folds, console)
        else:
            report(name, chosen.seeds, chosen.folds, console)


if __name__ == "__main__":
    main(sys.argv[1:])
