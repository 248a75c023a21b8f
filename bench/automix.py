"""AutoMix on MMLU-Pro: ours beside the published package, fitted on `train`, measured on `dev`.

Small is Llama-3.1-8B-Instruct, large GPT-4o, at costs 1 and 50; the verifier is the share of
eight other open models that give the small one's letter, at cost 1. The eight are the best on
`train` among those up to a size. The package (`pip install automix-llm pandas`) takes part where
it is installed; it is no dependency of Routewright.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import REAL
from routewright import metrics
from routewright.answers import metaverifiers as meta
from routewright.answers.observations import Observations
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.demo import CONFIG, sandbox_experts
from routewright.drive import decide, replay
from routewright.experts.client import Client
from routewright.fitting import automix
from routewright.fitting.automix import Cascade
from routewright.router.frontier import BUDGETS
from routewright.router.router import Router
from routewright.sandbox.skills import questions
from routewright.types import Array, Decision

SMALL, LARGE = "Meta-Llama-3_1-8B-Instruct", "gpt-4o-2024-05-13"
PRICES = {"small": 1.0, "large": 50.0, "verify": 1.0}
SIZES = (10, 50)  # billions of parameters that a model of the committee may have
WANTED = 70.0  # percent
REPLICATES = 2000
GRADED = ("--grader", "exact", "--verify", "1", "--only", "abacus,sage")
PAIR = ("--small", "abacus", "--large", "sage", "--verifier", "verify=1")


class Rows(NamedTuple):
    """What is seen of the rows of a split, and the moment that seeing took."""

    trials: meta.Trials
    observations: list[Observations]
    seconds: float


class Done(NamedTuple):
    """Costs and scores of every row, (2, n), and how long that took."""

    rows: Array
    fit_seconds: float
    infer_seconds: float


def main() -> None:
    path = REAL / "mmlu_pro.parquet"
    if not path.exists():
        print(f"skipped, {path} is not here")
        return live()
    described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["models"]
    for size in SIZES:
        others = [
            name
            for name, facts in described.items()
            if name not in (SMALL, LARGE) and (facts.get("params_b") or np.inf) <= size
        ]
        train = outcomes.read(path, experts=[SMALL, LARGE, *others], split="train")
        agree = automix.committee(train, (SMALL, LARGE), among=others)
        cascade = Cascade((SMALL, LARGE), agree)
        rows = [_rows(path, cascade, split) for split in ("train", "dev")]
        Console().print(f"\nverifier: {', '.join(agree)} (the best eight up to {size}B on train)")
        _show(*rows, size)
    live()


def live() -> None:
    """The sandbox models verify themselves: interviewed, fitted, then live beside the replay."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "config.yaml").write_text(CONFIG, encoding="utf-8")
        lines = [
            json.dumps(
                {
                    "id": q.id,
                    "prompt": q.text,
                    "reference": q.answer,
                    "domain": q.domain,
                    "split": split,
                }
            )
            for split, seed, n in (("train", 1, 400), ("dev", 2, 300))
            for q in questions(n, seed)
        ]
        unique = {json.loads(line)["id"]: line for line in lines}  # dev never repeats train
        (here / "queries.jsonl").write_text("\n".join(unique.values()), encoding="utf-8")
        _run(here, "interview", "config.yaml", "queries.jsonl", "--out", "T.parquet", *GRADED)
        _run(here, "fit", "T.parquet", "--out", "router", "--strategy", "automix", *PAIR)
        _run(here, "evaluate", "router", "T.parquet")
        _compare_live(Router.load(here / "router"), outcomes.read(here / "T.parquet", split="dev"))


def _run(folder: Path, *words: str) -> None:
    print(f"$ routewright {' '.join(words)}")
    command = [sys.executable, "-m", "routewright.cli.main", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    print(done.stdout[-2500:] if done.returncode == 0 else done.stderr)


def _compare_live(router: Router, dev: Outcomes) -> None:
    """Every decision at half of sage's cost, once over the client and once from the record."""
    strategy = router.strategy_at(router.at(max_cost_fraction=0.5))
    experts = [expert for expert in sandbox_experts() if expert.name in router.experts]

    async def run() -> list[Decision]:
        async with Client(experts) as client:
            return [await decide(strategy, query, experts, client) for query in dev.queries]

    lived = asyncio.run(run())
    replayed = [replay(strategy, query, dev.record(i)) for i, query in enumerate(dev.queries)]
    same = [
        (a.answer.expert, a.answer.text) == (b.answer.expert, b.answer.text)
        for a, b in zip(lived, replayed, strict=True)
    ]
    print(f"live decisions that are the replayed ones: {sum(same)} of {len(same)}")


def _rows(path: Any, cascade: Cascade, split: str) -> Rows:
    table = outcomes.read(path, experts=cascade.experts, split=split)
    table = table.at_prices(**automix.table_prices(cascade, PRICES))
    for query in table.queries:
        _ = query.text  # read once, as any router does
    began = time.perf_counter()
    trials, observations, _ = automix.observe(table, cascade)
    return Rows(trials, observations, time.perf_counter() - began)


def _show(train: Rows, dev: Rows, size: int) -> None:
    table = Table(title=f"{len(train.trials):,} rows fitted on, {len(dev.trials)} measured")
    for head in ("", "US$/query", "quality", "ΔIBC (95 %)", "mean ΔIBC", "fit s", "infer s"):
        table.add_column(head, justify="right" if head else "left")
    for m, name in ((0, SMALL), (-1, LARGE)):
        quality, cost = dev.trials.quality[:, m].mean(), dev.trials.cost[:, m].mean()
        table.add_row(name, f"{cost:.3g}", f"{quality:.4f}")
    table.add_section()
    for name in automix.NAMES:
        done = _ours(name, train, dev)
        table.add_row(f"ours: {name}", *_figures(done, dev, _mean_lift(name, train, dev)))
    published = _published(train, dev)
    for name, done in published.items():
        table.add_row(f"automix-llm: {name}", *_figures(done, dev, float("nan")))
    Console(width=130).print(table)
    looking = f"{train.seconds:.3f} s for train, {dev.seconds:.3f} s for dev"
    print(f"comparing the answers and reading the queries (once, for all of ours): {looking}")
    best = _ours(automix.EVIDENCE, train, dev)
    weights = metrics.resample(len(dev.trials), REPLICATES)
    lifts = metrics.ibc_lifts(best.rows, *_ends(dev), weights)
    verdict = "pass" if _lift(best.rows, dev) >= WANTED else "MISS"
    low, high = metrics.interval(lifts)
    print(
        f"wanted: ΔIBC ≥ +{WANTED:.0f} %; up to {size}B: {_lift(best.rows, dev):+.1f}"
        f" ({low:+.1f} … {high:+.1f}): {verdict}"
    )
    if "POMDP" in published:
        theirs = published["POMDP"].rows
        paired = lifts - metrics.ibc_lifts(theirs, *_ends(dev), weights)
        gap, (low, high) = _lift(best.rows, dev) - _lift(theirs, dev), metrics.interval(paired)
        print(f"over the package's POMDP: {gap:+.1f} ({low:+.1f} … {high:+.1f}, paired)")


def _ours(name: str, train: Rows, dev: Rows) -> Done:
    began = time.perf_counter()
    fitted = automix.fit_one(name, train.trials, train.observations)
    own = automix.with_confidence(fitted, train.trials, train.observations)
    policy = fitted.rule(meta.steepest(fitted.rule, own))
    between = time.perf_counter()
    score, cost = meta.outcome(
        policy, automix.with_confidence(fitted, dev.trials, dev.observations)
    )
    return Done(np.stack([cost, score]), between - began, time.perf_counter() - between)


def _mean_lift(name: str, train: Rows, dev: Rows) -> float:
    """Over five regions of cost."""
    fitted = automix.fit_one(name, train.trials, train.observations)
    own = automix.with_confidence(fitted, train.trials, train.observations)
    fresh = automix.with_confidence(fitted, dev.trials, dev.observations)
    points = []
    for step in meta.steps(fitted.rule, own, BUDGETS):
        first, second = (np.stack(meta.outcome(p, fresh)) for p in (step.first, step.second))
        points.append(((1 - step.share) * first + step.share * second).mean(axis=1))
    scores, costs = np.array(points).T
    small, large = (tuple(end.mean(axis=1).tolist()) for end in _ends(dev))
    return metrics.mean_ibc_lift(costs, scores, small, large)


def _ends(rows: Rows) -> tuple[Array, Array]:
    """Cost and score of always asking small, and large, (2, n) each."""
    small, large = (np.stack([rows.trials.cost[:, m], rows.trials.quality[:, m]]) for m in (0, -1))
    return small, large


def _lift(done: Array, rows: Rows) -> float:
    small, large = (tuple(end.mean(axis=1).tolist()) for end in _ends(rows))
    return metrics.ibc_lift(*done.mean(axis=1).tolist(), small, large)


def _figures(done: Done, dev: Rows, mean_lift: float) -> Sequence[str]:
    weights = metrics.resample(len(dev.trials), REPLICATES)
    low, high = metrics.interval(metrics.ibc_lifts(done.rows, *_ends(dev), weights))
    cost, score = done.rows.mean(axis=1)
    return (
        f"{cost:.3g}",
        f"{score:.4f}",
        f"{_lift(done.rows, dev):+.1f} ({low:+.1f} … {high:+.1f})",
        "" if np.isnan(mean_lift) else f"{mean_lift:+.1f}",
        f"{done.fit_seconds:.3f}",
        f"{done.infer_seconds:.4f}",
    )


# --- the published package --------------------------------------------------------------------


def _published(train: Rows, dev: Rows) -> dict[str, Done]:
    """Its methods, with a bin per number of votes; empty (and a word) where it is not here."""
    try:
        import pandas as pd
        from automix import POMDP, Automix, DoubleThreshold, SelfConsistency, Threshold
    except ImportError as error:
        print(f"automix-llm is left out: {error}")
        return {}

    def frame(rows: Rows) -> Any:
        small, large = rows.trials.quality.T
        kind = np.where(large > small, "NEEDY", np.where(small > 0, "GOOD", "HOPELESS"))
        return pd.DataFrame(  # its column names are fixed in its code
            {
                "llama13b_f1": small,
                "llama70b_f1": large,
                "p_ver_13b": rows.trials.confidence[:, 0],
                "category": kind,
            }
        )

    methods: dict[str, Callable[[], Any]] = {
        "Threshold": lambda: Threshold(num_bins=8),
        "DoubleThreshold": lambda: DoubleThreshold(num_bins=8),
        "SelfConsistency": lambda: SelfConsistency(num_bins=8),
        "POMDP": lambda: POMDP(num_bins=8),
    }
    seen, fresh, found = frame(train), frame(dev), {}
    for name, method in methods.items():
        model = Automix(method(), costs=[1, 50], verifier_cost=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.perf_counter()
            model.train(seen)
            between = time.perf_counter()
            asked = model.evaluate(fresh, return_dict=True, return_decisions=True)["route_to_llm"]
            end = time.perf_counter()
        up = np.asarray(asked, dtype=bool)
        score = np.where(up, dev.trials.quality[:, 1], dev.trials.quality[:, 0])
        cost = np.where(up, 1.0 + 50.0, 1.0) + 1.0
        found[name] = Done(np.stack([cost, score]), between - began, end - between)
    return found
