"""Zooter against its baselines, per task and overall, and what noise in the rewards does to each.

    python -m bench zooter                                       all of it
    python -m bench.zooter --studies alpacaeval --no-noise       a part

Every figure is of rows that nothing was fitted on: `train` by cross-validation, and `dev`. The
price of quality λ is 0, as in the paper, which knows no cost. The best single expert is the best
on the rows that are fitted on. A task's rank is that among the experts and the system; intervals
are 95 %, by bootstrap over queries. `served` is the whole router of `fit --predictor zooter`, do
no harm included; the other rows are bare predictors.

Rewards are the tables' scores, so reward ranking sees what it is scored by and is an oracle: its
luck counts as skill. Where two judges have rated the same answers (`two judges`, and `judges
exchanged`), one of them gives the rewards and the other the scores; there ranking is what it
would be in use.

Drawing rows twice breaks ties: where there are many, the intervals of rank and share lean towards
worse ranks and lower shares than were measured. On few rows the best of many experts is a matter of
luck, too. How often a router can be best then is shown by a table that knows every task's best
expert beforehand.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from bench._data import REAL
from routewright import metrics, policies
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import AUTO_ENCODER, fit
from routewright.prediction.encoders import build
from routewright.prediction.predictors import folds
from routewright.prediction.predictors.zooter import Zooter
from routewright.strategies import build as build_strategy
from routewright.strategies._recorded import Recorded, replayed, run
from routewright.types import Array

JUDGES = {  # whose verdicts are the rewards, and whose the scores
    "two judges": ("alpacaeval", "alpacaeval_v1"),
    "judges exchanged": ("alpacaeval_v1", "alpacaeval"),
}
STUDIES = ("llmrouter_mix", "alpacaeval", *JUDGES, "alpacaeval_cot", "mmlu_experts")
TEN = 10  # experts of alpacaeval: those whose scores vary most between the queries of `train`
BETAS = (0.0, 0.1, 0.3, 0.5, 1.0)
NOISES = (0.0, 1.0, 3.0)  # standard deviations; true scores are in 0..1
REPLICATES = 400
UNSEEN = 940  # rows of a test set, of which a share of tasks is to be won
ZOOTER: dict[str, dict[str, Any]] = {f"zooter β {beta:g}": {"beta": beta} for beta in BETAS}
HARD = {"hard": True, "beta": 1.0}
MAIN = "zooter β 0.3"
SINGLE, SERVED, RANKING, ORACLE = "best single", "served β 0.3", "reward ranking", "oracle"
Progress = Callable[[str], None]


@dataclass
class Held:
    """What one system did with rows that it was not fitted on."""

    score: Array  # (n,)
    cost: Array  # (n,) US$
    calls: int = 1  # answers asked for, per query
    seconds: float = float("nan")  # to decide about one query, by the median


def read(study: str, split: str) -> Outcomes:
    if study == "alpacaeval":
        return ten(split)
    if study in JUDGES:
        return two_judges(split, *JUDGES[study])
    return outcomes.read(REAL / f"{study}.parquet", split=split)


def ten(split: str) -> Outcomes:
    rows = outcomes.read(REAL / "alpacaeval.parquet", split=split)
    return rows.pool(most_varied(rows.experts))


def most_varied(names: Sequence[str]) -> list[str]:
    """The ten of these experts of alpacaeval whose scores vary most over the rows of `train`."""
    train = outcomes.read(REAL / "alpacaeval.parquet", split="train").pool(names)
    return [names[m] for m in np.argsort(-np.nanvar(train.score, axis=0))[:TEN]]


def two_judges(split: str, rewarding: str, scoring: str) -> Outcomes:
    """The most varied experts that both AlpacaEvals have rated: one's verdicts are the rewards,
    the other's the scores. The second compares with GPT-4, the first with text-davinci-003."""
    rewards, scores = (
        outcomes.read(REAL / f"{name}.parquet", split=split) for name in (rewarding, scoring)
    )
    both = most_varied([name for name in rewards.experts if name in scores.experts])
    assert [q.id for q in rewards.queries] == [q.id for q in scores.queries]
    scores = scores.pool(both)
    return replace(scores, measures={**scores.measures, "reward": rewards.pool(both).score})


# --- the systems ---------------------------------------------------------------------------


def systems(train: Outcomes, rows: Outcomes) -> dict[str, Held]:
    """Every system fitted on `train` and let loose on `rows`."""
    found: dict[str, Held] = {}
    reader = build(AUTO_ENCODER + "+domain").fit(train.queries)
    x, seen = reader.encode(rows.queries), reader.encode(train.queries)
    for name, options in {**ZOOTER, "hard labels": HARD}.items():
        model = Zooter(**options).given(train).fit(seen, train.score, blocks=reader.blocks)
        found[name] = _choosing(rows, model.predict(x).mean.argmax(axis=1))
        found[name].seconds = _seconds(rows, lambda q, m=model: m.predict(reader.encode([q])))
    router = fit(train, predictor="zooter", options={"beta": 0.3})
    served = run(router.strategy(0.0), Recorded(rows, router))
    found[SERVED] = Held(served.score, served.cost)
    found[SERVED].seconds = _seconds(rows, lambda query: router.predict([query]))
    best = int(np.nanargmax(metrics.mean(train.score)))
    found[SINGLE] = _choosing(rows, np.full(len(rows), best))
    ranking = build_strategy({"strategy": "ranking", "experts": list(rows.experts)})
    ranked = replayed(ranking, Recorded(rows))
    found[RANKING] = Held(ranked.score, ranked.cost, calls=len(rows.experts))
    found[ORACLE] = _choosing(rows, metrics.oracle(rows.score, rows.cost))
    return found


def _choosing(rows: Outcomes, choice: Any) -> Held:
    return Held(policies.take(rows.score, choice), policies.take(rows.cost, choice))


def _seconds(rows: Outcomes, decide: Callable[[Any], object]) -> float:
    taken = []
    for query in rows.queries[:200]:
        began = time.perf_counter()
        decide(query)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def cross_validated(rows: Outcomes, k: int, say: Progress) -> tuple[Outcomes, dict[str, Held]]:
    """The same for every fold of `rows`, put together."""
    fold = folds(len(rows), k, 0, rows.groups)
    parts = []
    for number in range(k):
        say(f"fold {number + 1} of {k}")
        parts.append(systems(rows.rows(fold != number), rows.rows(fold == number)))
    order = np.concatenate([np.flatnonzero(fold == number) for number in range(k)])
    joined = {}
    for name, first in parts[0].items():
        score = np.concatenate([part[name].score for part in parts])
        cost = np.concatenate([part[name].cost for part in parts])
        seconds = float(np.median([part[name].seconds for part in parts]))
        joined[name] = Held(score, cost, first.calls, seconds)
    return rows.rows(order), joined


# --- figures -------------------------------------------------------------------------------


def by_task(table: Array, tasks: Sequence[str | None], weights: Array) -> Array:
    """Weighted means per task, (b, tasks, columns) of a table (n, columns)."""
    names = np.array([task or "" for task in tasks])
    return np.stack(
        [metrics.mean(table[names == t], weights[:, names == t]) for t in np.unique(names)], axis=1
    )


def show(title: str, rows: Outcomes, held: dict[str, Held], console: Console) -> None:
    weights = metrics.resample(len(rows), REPLICATES, 0)
    weights = np.vstack([np.ones(len(rows)), weights])  # the first row is the sample itself
    experts = by_task(rows.score, rows.domains, weights)  # (b, tasks, e)
    single = metrics.mean(held[SINGLE].score[:, None], weights)[:, 0]
    ranked = float(np.nanmean(held[RANKING].score))
    table = Table(title=f"{title} ({len(rows)} rows, {experts.shape[1]} tasks)")
    heads = ("system", "mean", "− best single", "of ranking", "task rank", "best on", "US$/1k")
    for head in (*heads, "calls"):
        table.add_column(head, justify="left" if head == "system" else "right", no_wrap=True)
    table.add_column("ms", justify="right")
    for name, one in held.items():
        mean = metrics.mean(one.score[:, None], weights)[:, 0]
        # A single expert is ranked beside Zooter, a system beside the experts.
        rival = held[MAIN] if name == SINGLE else one
        mine = by_task(rival.score[:, None], rows.domains, weights)
        quality = np.concatenate([mine, experts], axis=2).swapaxes(1, 2)  # (b, 1 + e, tasks)
        place = 0
        if name == SINGLE:
            place = 1 + int(np.nanargmin(metrics.task_rank(quality[0])[1:]))
        ranks = np.array([metrics.task_rank(q)[place] for q in quality])
        best = np.array([metrics.uplift(q)[place] for q in quality])
        table.add_row(
            name,
            _with_ci(mean),
            _with_ci(mean - single, sign=True),
            f"{mean[0] / ranked:.1%}",
            _with_ci(ranks, digits=2),
            _with_ci(best, digits=2),
            f"{1000 * np.nanmean(one.cost):.3f}",
            f"{one.calls}" if one.calls == 1 else f"{one.calls} + {one.calls} ratings",
            "" if np.isnan(one.seconds) else f"{1000 * one.seconds:.2f}",
        )
    console.print(table)
    console.print(
        f"best single: mean of the one chosen where it was fitted; its rank and share are those of"
        f" the expert with the best rank of {len(rows.experts)}, beside {MAIN}"
    )


def show_tasks(rows: Outcomes, held: dict[str, Held], console: Console) -> None:
    one = np.ones((1, len(rows)))
    experts = by_task(rows.score, rows.domains, one)[0]
    names = sorted({task or "" for task in rows.domains})
    shown = (MAIN, "hard labels", SINGLE, ORACLE)
    table = Table()
    for head in ("task", "rows", *shown, "the task's best expert, in hindsight"):
        table.add_column(head, justify="left" if head == "task" else "right")
    columns = [by_task(held[name].score[:, None], rows.domains, one)[0, :, 0] for name in shown]
    for t, name in enumerate(names):
        best = int(np.nanargmax(experts[t]))
        table.add_row(
            name,
            str(sum((task or "") == name for task in rows.domains)),
            *(f"{column[t]:.3f}" for column in columns),
            f"{experts[t, best]:.3f} {rows.experts[best]}",
        )
    console.print(table)


def show_ceiling(rows: Outcomes, console: Console) -> None:
    """What a table gets on few of these rows that knows who is best on all of them."""
    rng = np.random.default_rng(0)
    everything = np.ones((1, len(rows)))
    names = sorted({task or "" for task in rows.domains})
    experts = by_task(rows.score, rows.domains, everything)[0]
    best = {name: int(np.nanargmax(one)) for name, one in zip(names, experts, strict=True)}
    chosen = policies.take(rows.score, np.array([best[task or ""] for task in rows.domains]))
    columns = np.column_stack([chosen, rows.score])
    drawn = np.zeros((REPLICATES + 1, len(rows)))
    for one in drawn:
        one[rng.choice(len(rows), UNSEEN, replace=False)] = 1
    shares = [metrics.uplift(t.T)[0] for t in by_task(columns, rows.domains, drawn)]
    share = _with_ci(np.array([np.mean(shares), *shares]), digits=2)
    console.print(
        f"a table that knows every task's best expert of all these rows, on {UNSEEN} of them:"
        f" best on {share}"
    )


def _with_ci(replicates: Array, digits: int = 4, sign: bool = False) -> str:
    low, high = metrics.interval(replicates[1:])
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{replicates[0]:{form}} ({low:{form}} … {high:{form}})"


# --- noise ---------------------------------------------------------------------------------


def noise(console: Console, seeds: int = 2, k: int = 3) -> None:
    """Rewards = true scores + Gaussian noise; what counts is the true score of the choice."""
    rows = read("llmrouter_mix", "train")
    truth = rows.score
    reader = build(AUTO_ENCODER + "+domain").fit(rows.queries)
    x, fold = reader.encode(rows.queries), folds(len(rows), k, 0, rows.groups)
    weights = np.vstack([np.ones(len(rows)), metrics.resample(len(rows), REPLICATES, 0)])
    table = Table(title="llmrouter_mix, train by cross-validation: rewards = scores + noise")
    for head in ("noise σ", "β 0.3", "β 1", "hard labels", "β 0.3 − β 1", "β 1 − hard labels"):
        table.add_column(head, justify="right", no_wrap=True)
    for sigma in NOISES:
        got = {"β 0.3": {"beta": 0.3}, "β 1": {"beta": 1.0}, "hard labels": HARD}
        scores = {}
        for name, options in got.items():
            total = np.zeros(len(rows))
            for seed in range(seeds):
                rewards = truth + np.random.default_rng(seed).normal(0, sigma, truth.shape)
                for number in range(k):
                    inside, outside = fold != number, np.flatnonzero(fold == number)
                    model = Zooter(**options)
                    model.fit(x[inside], rewards[inside], blocks=reader.blocks, seed=seed)
                    choice = model.distribution(x[outside]).argmax(axis=1)
                    total[outside] += policies.take(truth[outside], choice) / seeds
            scores[name] = metrics.mean(total[:, None], weights)[:, 0]
        table.add_row(
            f"{sigma:g}",
            *(f"{one[0]:.4f}" for one in scores.values()),
            _with_ci(scores["β 0.3"] - scores["β 1"], sign=True),
            _with_ci(scores["β 1"] - scores["hard labels"], sign=True),
        )
    console.print(table)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.zooter", description=__doc__)
    parser.add_argument("--studies", nargs="*", default=STUDIES, choices=STUDIES)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--no-noise", action="store_true")
    wishes = parser.parse_args(arguments)
    console, errors = Console(width=170), Console(stderr=True)
    if not REAL.exists():
        console.print(f"skipped: {REAL} is not here")
        return
    with threadpool_limits(1), errors.status("") as status:
        for name in wishes.studies:
            say = lambda words, n=name: status.update(f"{n}: {words}")  # noqa: E731
            train = read(name, "train")
            rows, held = cross_validated(train, wishes.folds, say)
            show(f"{name}, train by cross-validation", rows, held, console)
            show_tasks(rows, held, console)
            if len(train) > 2 * UNSEEN:
                show_ceiling(train, console)
            say("dev")
            dev = read(name, "dev")
            show(f"{name}, dev", dev, systems(train, dev), console)
        if not wishes.no_noise:
            status.update("noise")
            noise(console)


if __name__ == "__main__":
    main(sys.argv[1:])
