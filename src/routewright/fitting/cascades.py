"""Published ways to route and to cascade, traced over recorded outcomes for comparison."""

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

QUANTILES = np.linspace(0, 1, 14)  # of the chances on a rung, as its thresholds
STRETCHES = (1.0, 2.0, 4.0, 8.0)  # of the spread of forecasts, for what answers will tell
NEVER = 2.0  # a threshold that no chance reaches

Progress = Callable[[str, float], None]


def frugal(
    outcomes: Outcomes,
    prediction: Prediction,
    ladder: Ladder | None,
    progress: Progress = lambda doing, share: None,
) -> list[Candidate]:
    """Threshold cascades over the ladder, or over single experts where there is none: for each
    of BUDGETS the thresholds of the best quality within it, the dearest first.

    Thresholds are quantiles of the held-out chances, searched through rung by rung as FrugalGPT
    does (arXiv 2305.05176, section 3); a ladder of single experts has one for all its rungs.
    `prediction` must be held out.
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

    reached = []
    for i, trust in enumerate(trials):
        progress("searching for thresholds", i / len(trials))
        ran = run(trust)
        reached.append([float(metrics.mean(ran.cost)), float(metrics.mean(ran.score))])
    cost, quality = np.array(reached).T
    found = []
    for k, price in _within_budgets(cost, quality):
        trust, ran = trials[k], run(trials[k])
        spec = {"strategy": "frugal", "trust": list(trust), "last": last, "answers": kind}
        enough = ", then ".join("never" if t == NEVER else f"{t:.2f}" for t in trust)
        plan = f"trust an answer from a probability of {enough}: {_plan(evidence, outcomes, ran)}"
        found.append(
            Candidate(
                price, ran.score, ran.cost, PointStrategy(spec, plan, ran.shares(outcomes.experts))
            )
        )
    return found


def cascade_routing(
    outcomes: Outcomes,
    prediction: Prediction,
    progress: Progress = lambda doing, share: None,
) -> list[Candidate]:
    """Cascade routing at every price of quality, the dearest first, with the stretch of the
    greatest decision value; `prediction` must be held out."""
    kind = _kind(outcomes, "cascade_routing")
    router = StandIn(prediction)
    rows = Recorded(outcomes, router)
    dearest = max(float(np.nanmax(metrics.mean(outcomes.charges))), 1e-300)

    def way(price: float, stretch: float) -> Candidate:
        ran = CascadeRouting(router, price, kind, stretch).over(rows)
        spec = {
            "strategy": "cascade_routing",
            "price": price,
            "answers": kind,
            "stretch": stretch,
        }
        plan = (
            f"ask on while the best answer expected rises by {price:.4g}/$ × cost:"
            f" {_plan(None, outcomes, ran)}"
        )
        return Candidate(
            price, ran.score, ran.cost, PointStrategy(spec, plan, ran.shares(outcomes.experts))
        )

    prices = (PRICES / dearest).tolist()
    tried = {}
    for i, stretch in enumerate(STRETCHES):
        progress("running cascades", i / (len(STRETCHES) + 2))
        tried[stretch] = worth(*curve([way(price, stretch) for price in prices[::4]]), outcomes)
    progress("running cascades at every price", 0.6)
    best = max(tried, key=lambda stretch: tried[stretch])
    return [way(price, best) for price in prices]


def ratio_greedy(outcomes: Outcomes, prediction: Prediction) -> list[Candidate]:
    """Routoo's decoding: for each of BUDGETS what is best within it, the dearest first.

    Tried are budgets per query and, as the rule seldom spends what a larger budget allows, shares
    of the queries that go to the best expert in its place. `prediction` must be held out.
    """
    tables = outcomes.score, outcomes.charges
    average = metrics.mean(tables[1])
    best = int(np.nanargmax(metrics.mean(outcomes.score)))
    caps = np.unique(np.quantile(prediction.cost, QUANTILES[:-1])).tolist()
    trials = [*((cap, 0.0) for cap in caps), *((None, share) for share in BUDGETS)]

    def run(cap: float | None, share: float) -> Array:
        """Score, cost and who is asked, (2 + e, n)."""
        choice = policies.best_ratio(prediction, average, np.inf if cap is None else cap)
        asked = (1 - share) * np.eye(len(average))[:, choice]
        asked[best] += share
        cells = [(1 - share) * policies.take(t, choice) + share * t[:, best] for t in tables]
        return np.vstack([*cells, asked])

    quality, cost = np.array([metrics.mean(run(*trial)[:2].T) for trial in trials]).T
    candidates = []
    for k, price in _within_budgets(cost, quality):
        (cap, share), (score, paid, *asked) = trials[k], run(*trials[k])
        spec: dict[str, Any] = {"strategy": "ratio_greedy", "budget": cap}
        plan = "ask the expert with the best ratio of expected score to average cost"
        if cap is not None:
            plan += f" of those expected to cost at most ${cap:.2g}"
        if share > 0:
            top = {"strategy": "fixed", "expert": outcomes.experts[best]}
            spec = {"strategy": "mix", "first": spec, "second": top, "share": share}
            plan += f", {outcomes.experts[best]} for {share:.0%} of queries"
        often = zip(outcomes.experts, np.mean(asked, axis=1).tolist(), strict=True)
        shares = {name: part for name, part in often if part > 0}
        candidates.append(Candidate(price, score, paid, PointStrategy(spec, plan, shares)))
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
    """Which trial is the best within each budget, the dearest first, and at which price of
    quality: the slope there of the upper hull over all trials."""
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
    often = sorted(ran.shares(outcomes.experts).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} ({share:.0%})" for name, share in often)
