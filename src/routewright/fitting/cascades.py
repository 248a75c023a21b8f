"""Traces published rules for routing and cascading over recorded outcomes, for comparison."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from routewright import metrics, policies
from routewright.answers.equivalence import Kind
from routewright.answers.evidence import Evidence
from routewright.data.outcomes import Outcomes
from routewright.errors import BadTable
from routewright.fitting.ladder import PRICES, Ladder, kind_of, words
from routewright.router.frontier import BUDGETS, Candidate, PointStrategy, curve, worth
from routewright.strategies._recorded import Recorded, Run, StandIn
from routewright.strategies.cascade_routing import CascadeRouting
from routewright.strategies.frugal import Frugal
from routewright.types import Array, Prediction

QUANTILES = np.linspace(0, 1, 14)  # of the chances on a rung; they are the thresholds to try
STRETCHES = (1.0, 2.0, 4.0, 8.0)  # factors on the spread of forecasts to try
NEVER = 2.0  # a threshold that no chance reaches

Progress = Callable[[str, float], None]


def frugal(
    outcomes: Outcomes,
    prediction: Prediction,
    ladder: Ladder | None,
    progress: Progress = lambda doing, share: None,
) -> list[Candidate]:
    """Threshold cascades over the ladder, or over single experts without one: for each of BUDGETS
    the thresholds of the best quality within it, the most expensive first.

    Thresholds are quantiles of the held-out chances, searched for every rung as in FrugalGPT (arXiv
    2305.05176, section 3); a ladder of single experts has one threshold for all rungs. `prediction`
    must be held out.
    """
    kind = _kind(outcomes, "frugal")
    evidence = ladder.evidence if ladder else None
    router = StandIn(prediction, evidence)
    rows = Recorded(outcomes, router)
    if ladder:
        rows.cached("states", (evidence,), lambda: ladder.states)
    last = outcomes.experts[int(np.nanargmax(metrics.mean(outcomes.score)))]
    steps = Frugal(router, NEVER, last, kind).steps(rows)
    if ladder:
        trials = list(product(*(_thresholds(step.chance) for step in steps)))
    else:
        trials = [(t,) for t in _thresholds(np.concatenate([step.chance for step in steps]))]

    def run(trust: tuple[float, ...]) -> Run:
        return Frugal(router, trust, last, kind).over(rows)

    means = []
    for i, trust in enumerate(trials):
        progress("searching for thresholds", i / len(trials))
        ran = run(trust)
        means.append([float(metrics.mean(ran.cost)), float(metrics.mean(ran.score))])
    cost, quality = np.array(means).T
    candidates = []
    for k, price in _within_budgets(cost, quality):
        trust, ran = trials[k], run(trials[k])
        spec = {"strategy": "frugal", "trust": list(trust), "last": last, "answers": kind}
        thresholds = ", then ".join("never" if t == NEVER else f"{t:.2f}" for t in trust)
        plan = (
            f"trust an answer from a probability of {thresholds}: {_plan(evidence, outcomes, ran)}"
        )
        candidates.append(
            Candidate(
                price, ran.score, ran.cost, PointStrategy(spec, plan, ran.shares(outcomes.experts))
            )
        )
    return candidates


def cascade_routing(
    outcomes: Outcomes,
    prediction: Prediction,
    progress: Progress = lambda doing, share: None,
) -> list[Candidate]:
    """Cascade routing at every price of quality, the most expensive first, with the stretch of the
    highest decision value; `prediction` must be held out."""
    kind = _kind(outcomes, "cascade_routing")
    router = StandIn(prediction)
    rows = Recorded(outcomes, router)
    highest_cost = max(float(np.nanmax(metrics.mean(outcomes.charges))), 1e-300)

    def candidate(price: float, stretch: float) -> Candidate:
        ran = CascadeRouting(router, price, kind, stretch).over(rows)
        spec = {
            "strategy": "cascade_routing",
            "price": price,
            "answers": kind,
            "stretch": stretch,
        }
        plan = (
            f"ask further while the expected best answer rises by {price:.4g}/$ × cost:"
            f" {_plan(None, outcomes, ran)}"
        )
        return Candidate(
            price, ran.score, ran.cost, PointStrategy(spec, plan, ran.shares(outcomes.experts))
        )

    prices = (PRICES / highest_cost).tolist()
    worths = {}
    for i, stretch in enumerate(STRETCHES):
        progress("running cascades", i / (len(STRETCHES) + 2))
        worths[stretch] = worth(
            *curve([candidate(price, stretch) for price in prices[::4]]), outcomes
        )
    progress("running cascades at every price", 0.6)
    best = max(worths, key=lambda stretch: worths[stretch])
    return [candidate(price, best) for price in prices]


def ratio_greedy(outcomes: Outcomes, prediction: Prediction) -> list[Candidate]:
    """Routoo's decoding: for each of BUDGETS the best setting within it, the most expensive first.

    The settings are budgets per query and, because the rule rarely uses a larger budget, shares of
    the queries that go to the best expert instead. `prediction` must be held out.
    """
    tables = outcomes.score, outcomes.charges
    average = metrics.mean(tables[1])
    best = int(np.nanargmax(metrics.mean(outcomes.score)))
    caps = np.unique(np.quantile(prediction.cost, QUANTILES[:-1])).tolist()
    trials = [*((cap, 0.0) for cap in caps), *((None, share) for share in BUDGETS)]

    def run(cap: float | None, share: float) -> Array:
        """Score, cost and shares of the experts asked, (2 + e, n)."""
        choice = policies.best_ratio(prediction, average, np.inf if cap is None else cap)
        asked = (1 - share) * np.eye(len(average))[:, choice]
        asked[best] += share
        cells = [(1 - share) * policies.take(t, choice) + share * t[:, best] for t in tables]
        return np.vstack([*cells, asked])

    quality, cost = np.array([metrics.mean(run(*trial)[:2].T) for trial in trials]).T
    candidates = []
    for k, price in _within_budgets(cost, quality):
        (cap, share), (score, spent, *asked) = trials[k], run(*trials[k])
        spec: dict[str, Any] = {"strategy": "ratio_greedy", "budget": cap}
        plan = "ask the expert with the best ratio of expected score to average cost"
        if cap is not None:
            plan += f" of those expected to cost at most ${cap:.2g}"
        if share > 0:
            top = {"strategy": "fixed", "expert": outcomes.experts[best]}
            spec = {"strategy": "mix", "first": spec, "second": top, "share": share}
            plan += f", {outcomes.experts[best]} for {100 * share:.0f} % of queries"
        shares_asked = zip(outcomes.experts, np.mean(asked, axis=1).tolist(), strict=True)
        shares = {name: part for name, part in shares_asked if part > 0}
        candidates.append(Candidate(price, score, spent, PointStrategy(spec, plan, shares)))
    return candidates


def _kind(outcomes: Outcomes, strategy: str) -> Kind:
    if outcomes.answers is None:
        raise BadTable(
            f"strategy '{strategy}' compares answers and the table has none: add answer::EXPERT"
            " columns, or fit --strategy single"
        )
    return kind_of(outcomes) or "auto"


def _thresholds(chance: Array) -> list[float]:
    return [*np.unique(np.quantile(chance, QUANTILES)).tolist(), NEVER]


def _within_budgets(cost: Array, quality: Array) -> list[tuple[int, float]]:
    """The best trial within each budget, the most expensive first, and its price of quality: the
    slope of the upper hull over all trials at its cost."""
    hull = policies.zero_router(quality, cost)
    ends, heights = (np.array([vertex[i] for vertex in hull]) for i in (1, 2))
    slopes = [*(np.diff(heights) / np.diff(ends)).tolist(), 0.0]
    span = ends[-1] - ends[0]
    best: dict[int, float] = {}
    for share in BUDGETS[::-1]:
        within = np.where(cost <= ends[0] + share * span + 1e-15, quality, -np.inf)
        k = int(np.lexsort((cost, -within))[0])
        at = int(np.searchsorted(ends, cost[k], side="right")) - 1
        best.setdefault(k, float(slopes[max(at, 0)]))
    return list(best.items())


def _plan(evidence: Evidence | None, outcomes: Outcomes, ran: Run) -> str:
    if evidence is not None:
        return words(evidence, outcomes.experts, ran)
    shares = sorted(ran.shares(outcomes.experts).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in shares)
