"""What would a router have done on recorded outcomes, and was it worth it?

The strategies that are evaluated are those that are served: one-shot ones over arrays, all
others by replay. Costs include everything that a strategy asked on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routewright import metrics, policies
from routewright.drive import replay
from routewright.errors import BadTable, NotAdmissible, UpstreamError
from routewright.evidence import Standing
from routewright.frontier import OperatingPoint, known_costs
from routewright.outcomes import Outcomes
from routewright.router import Router
from routewright.strategies import one_shot
from routewright.strategies.auto import Auto, look
from routewright.strategies.cascade_routing import CascadeRouting
from routewright.strategies.frugal import Frugal
from routewright.strategies.mix import Mix
from routewright.types import Array, Prediction, Strategy

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
AT_FRACTION = ("quality", "quality_ci", "gain_over_zero_router", "gain_ci")
REPLICATES = 1000
CLUSTERS = 10  # domains that the bootstrap needs to draw whole ones


@dataclass(frozen=True)
class Evaluation:
    """A router's operating points measured on n rows; scores and costs are (k, n)."""

    router: Router
    outcomes: Outcomes
    prediction: Prediction
    points: tuple[OperatingPoint, ...]
    scores: Array
    costs: Array  # US$
    weights: Array  # bootstrap weights (b, n)

    def to_json(self) -> dict[str, Any]:
        """The contract of `evaluate --json`."""
        return summary(self)


def evaluate(
    router: Router, outcomes: Outcomes, *, replicates: int = REPLICATES, seed: int = 0
) -> Evaluation:
    """Runs every operating point of the router on every row.

    Raises BadTable if the table lacks one of the router's experts, or knows nothing of one that
    is asked.
    """
    asked = [*router.experts, *router.card.get("verifiers", ())]
    if missing := [name for name in asked if name not in outcomes.experts]:
        raise BadTable(
            f"the router knows {', '.join(missing)}, the table does not;"
            f" it has {', '.join(outcomes.experts)}"
        )
    whole = outcomes.pool(asked).at_prices(**router.card.get("prices", {"answer": {}})).costed()
    outcomes = whole.pool(router.experts)
    _check_known(router, outcomes)
    prediction = router.predict(outcomes.queries)
    standings = look(router.evidence, outcomes, prediction) if router.evidence else None
    rows = [
        expected(router.strategy_at(point), whole, prediction, standings)
        for point in router.frontier
    ]
    return Evaluation(
        router=router,
        outcomes=outcomes,
        prediction=prediction,
        points=router.frontier,
        scores=np.array([score for score, _ in rows]),
        costs=np.array([cost for _, cost in rows]),
        weights=metrics.resample(len(outcomes), replicates, seed, _clusters(outcomes)),
    )


def _check_known(router: Router, outcomes: Outcomes) -> None:
    """Of everybody who is asked at some point, the rows must know a score, and a cost where they
    know any: means over what happens to be known would say nothing about the router."""
    asked = {name for point in router.frontier for name in point.shares}
    for fact, table in (("score", outcomes.score), ("cost", known_costs(outcomes.cost))):
        columns = enumerate(outcomes.experts)
        nothing = [name for m, name in columns if not np.isfinite(table[:, m]).any()]
        if unknown := [name for name in nothing if name in asked]:
            raise BadTable(
                f"no {fact} is known for {', '.join(unknown)} in split '{outcomes.split}': add"
                f" {fact}::NAME, evaluate on another --split, or fit without with --experts"
            )


def _clusters(outcomes: Outcomes) -> Sequence[str | None]:
    """What the bootstrap draws whole: domains, as their rows are not independent; single rows
    where a row has no domain or the domains are too few to say how much they differ."""
    domains = outcomes.domains
    return domains if all(domains) and len(set(domains)) >= CLUSTERS else ()


def expected(
    strategy: Strategy,
    outcomes: Outcomes,
    prediction: Prediction,
    standings: Sequence[Standing] | None = None,
) -> tuple[Array, Array]:
    """The same as `run` in expectation over the lots that a mix draws: one draw of a mix of two
    experts on 600 rows is off by a point of quality, which says nothing about the router."""
    if not isinstance(strategy, Mix):
        return run(strategy, outcomes, prediction, standings)
    parts = [
        expected(part, outcomes, prediction, standings)
        for part in (strategy.first, strategy.second)
    ]
    (score, cost), (other_score, other_cost) = parts
    share = strategy.share
    return (1 - share) * score + share * other_score, (1 - share) * cost + share * other_cost


def asked(
    strategy: Strategy,
    outcomes: Outcomes,
    prediction: Prediction,
    standings: Sequence[Standing] | None = None,
) -> Array:
    """The share of rows about which each expert is asked, (e,), in expectation over the lots that
    a mix draws; together more than 1 where several are. NaN where only a replay could tell."""
    if isinstance(strategy, Mix):
        first, second = (
            asked(part, outcomes, prediction, standings)
            for part in (strategy.first, strategy.second)
        )
        return (1 - strategy.share) * first + strategy.share * second
    if one_shot(strategy):
        choice = strategy.choose(outcomes.queries, prediction)
        return np.array([(choice == m).mean() for m in range(len(outcomes.experts))])
    if isinstance(strategy, Auto | Frugal):
        return np.asarray(strategy.over(outcomes, prediction, standings).asked.mean(axis=0))
    if isinstance(strategy, CascadeRouting):
        return np.asarray(strategy.over(outcomes, prediction).asked.mean(axis=0))
    return np.full(len(outcomes.experts), np.nan)


def run(
    strategy: Strategy,
    outcomes: Outcomes,
    prediction: Prediction,
    standings: Sequence[Standing] | None = None,
) -> tuple[Array, Array]:
    """Score and cost (US$) of a strategy on every row, each (n,); `standings` are those of `look`,
    which many operating points share."""
    if isinstance(strategy, Auto | Frugal):
        ran = strategy.over(outcomes, prediction, standings)
        return ran.score, ran.cost
    if isinstance(strategy, CascadeRouting):
        ran = strategy.over(outcomes, prediction)
        return ran.score, ran.cost
    cost = known_costs(outcomes.cost)
    if one_shot(strategy):
        choice = strategy.choose(outcomes.queries, prediction)
        return policies.take(outcomes.score, choice), policies.take(cost, choice)
    if isinstance(strategy, Mix):
        return _mixed(strategy, outcomes, prediction)
    if hasattr(strategy, "over"):  # it knows most rows' way without walking it
        score, spent, known = strategy.over(outcomes)
        rest = np.flatnonzero(~known)
        score[rest], spent[rest] = replay_all(strategy, outcomes, rest.tolist())
        return score, spent
    return replay_all(strategy, outcomes)


def _mixed(mix: Mix, outcomes: Outcomes, prediction: Prediction) -> tuple[Array, Array]:
    to_second = np.array([query.lot < mix.share for query in outcomes.queries])
    found = np.empty((2, len(outcomes)))
    for part, rows in ((mix.first, ~to_second), (mix.second, to_second)):
        if rows.any():
            found[:, rows] = run(part, outcomes.rows(rows), prediction.take(rows))
    return found[0], found[1]


def replay_all(
    strategy: Strategy, outcomes: Outcomes, rows: Sequence[int] | None = None
) -> tuple[Array, Array]:
    """The same by running the plan on each row's record; NaN where nobody that it asks is known."""
    found = [
        _replayed(strategy, outcomes, row)
        for row in (range(len(outcomes)) if rows is None else rows)
    ]
    scores, costs = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return scores, costs


def _replayed(strategy: Strategy, outcomes: Outcomes, row: int) -> tuple[float, float]:
    try:
        decision = replay(strategy, outcomes.queries[row], outcomes.record(row))
    except (NotAdmissible, UpstreamError):
        return float("nan"), float("nan")
    score = decision.answer.score
    return float("nan") if score is None else score, decision.cost


# --- the summary ---------------------------------------------------------------------------


def summary(e: Evaluation) -> dict[str, Any]:
    """Everything of design section 5: experts, references, curve, gains, AIQ, forecasts."""
    score, cost = e.outcomes.score, known_costs(e.outcomes.cost)
    quality, price = metrics.mean(score), metrics.mean(cost)
    priced = bool(np.isfinite(e.outcomes.cost).any())
    whole = priced and bool(np.isfinite(e.scores).any(axis=1).all())  # every point was measured
    cheap, dear = _extremes(quality, price)
    curve_cost, curve_quality = metrics.mean(e.costs.T), metrics.mean(e.scores.T)
    hull = policies.zero_router(quality, price)
    zero = np.array([[v.cost, v.quality] for v in hull]).T
    span = (float(price[cheap]), float(price[dear]))

    def dollars(amount: float) -> float | None:
        return float(amount) if priced else None

    return {
        "experts": {
            name: {"quality": _number(quality[m]), "cost": dollars(price[m])}
            for m, name in enumerate(e.router.experts)
        },
        "references": _references(e, quality, price, dollars),
        "curve": _curve(e, curve_cost, curve_quality, span[1] if priced else None),
        "at_cost_fraction": (
            _at_fractions(e, span[1])
            if priced
            else {f"{fraction:g}": dict.fromkeys(AT_FRACTION) for fraction in FRACTIONS}
        ),
        "aiq": metrics.aiq(curve_cost, curve_quality, *span) if whole else None,
        "aiq_no_hull": (
            metrics.aiq(curve_cost, curve_quality, *span, with_hull=False) if whole else None
        ),
        "aiq_zero_router": metrics.aiq(zero[0], zero[1], *span) if priced else None,
        "apgr": (
            _number(
                metrics.apgr(
                    curve_cost,
                    curve_quality,
                    (span[0], float(quality[cheap])),
                    (span[1], float(quality[dear])),
                )
            )
            if whole
            else None
        ),
        "predictor": {
            name: {
                "auc": _number(metrics.auc(e.prediction.chance[:, m], score[:, m])),
                "ece": _number(metrics.ece(e.prediction.chance[:, m], score[:, m])),
            }
            for m, name in enumerate(e.router.experts)
        },
        "domains": _domains(e),
        "n": len(e.outcomes),
    }


def _extremes(quality: Array, price: Array) -> tuple[int, int]:
    """The cheapest and the dearest expert, the better one at ties."""
    known = [m for m in range(len(price)) if np.isfinite(price[m]) and np.isfinite(quality[m])]
    cheap = min(known, key=lambda m: (price[m], -quality[m]))
    return cheap, max(known, key=lambda m: (price[m], quality[m]))


def _references(e: Evaluation, quality: Array, price: Array, dollars: Any) -> dict[str, Any]:
    score, cost = e.outcomes.score, known_costs(e.outcomes.cost)
    best, (cheap, _) = int(np.nanargmax(quality)), _extremes(quality, price)
    ideal = metrics.oracle(score, cost)

    def expert(m: int) -> dict[str, Any]:
        name = e.router.experts[m]
        return {"name": name, "quality": float(quality[m]), "cost": dollars(price[m])}

    return {
        "best_single": expert(best),
        "cheapest": expert(cheap),
        "oracle": {
            "quality": float(metrics.mean(policies.take(score, ideal))),
            "cost": dollars(float(metrics.mean(policies.take(cost, ideal)))),
        },
        "zero_router": [[dollars(v.cost), v.quality] for v in policies.zero_router(quality, price)],
    }


def _curve(
    e: Evaluation, costs: Array, qualities: Array, dearest: float | None
) -> list[dict[str, Any]]:
    replicates = metrics.mean(e.scores.T, e.weights)  # (b, k)
    return [
        {
            "lambda": point.price,
            "cost": float(costs[k]) if dearest is not None else None,
            "cost_fraction": float(costs[k]) / dearest if dearest else None,
            "quality": float(qualities[k]),
            "quality_ci": list(metrics.interval(replicates[:, k])),
            "strategy": point.strategy,
        }
        for k, point in enumerate(e.points)
    ]


def _at_fractions(e: Evaluation, dearest: float) -> dict[str, Any]:
    """Quality at shares of the dearest expert's cost, and the paired gain over the zero router;
    None where even the cheapest operating point costs more.

    Both the curve and the zero router are measured anew in every bootstrap replicate.
    """
    everything = np.vstack([np.ones(len(e.outcomes)), e.weights])
    fractions = np.array(FRACTIONS)
    reached, gained = curve_replicates(e, everything, fractions)
    found: dict[str, Any] = {}
    for f, fraction in enumerate(FRACTIONS):
        reachable = bool(np.isfinite(reached[0, f]))
        found[f"{fraction:g}"] = {
            "quality": _number(reached[0, f]),
            "quality_ci": list(metrics.interval(reached[1:, f])) if reachable else None,
            "gain_over_zero_router": _number(gained[0, f]),
            "gain_ci": list(metrics.interval(gained[1:, f])) if reachable else None,
        }
    return found


def curve_replicates(e: Evaluation, weights: Array, fractions: Array) -> tuple[Array, Array]:
    """Quality of the router and its gain over the zero router at fractions of the dearest
    expert's cost, per replicate: two arrays (b, fractions)."""
    costs, scores = metrics.mean(e.costs.T, weights), metrics.mean(e.scores.T, weights)
    price = metrics.mean(known_costs(e.outcomes.cost), weights)
    quality = metrics.mean(e.outcomes.score, weights)
    reached = np.empty((len(weights), len(fractions)))
    zero = np.empty_like(reached)
    for b in range(len(weights)):
        at = fractions * np.nanmax(price[b])
        order = np.lexsort((scores[b], costs[b]))
        # Below its cheapest point the router cannot go: unknown, not free.
        reached[b] = np.interp(at, costs[b][order], scores[b][order], left=np.nan)
        zero[b] = policies.hull_quality(policies.zero_router(quality[b], price[b]), at)
    return reached, reached - zero


def _domains(e: Evaluation) -> dict[str, Any]:
    best = int(np.argmin([point.price for point in e.points]))
    names = np.array([domain or "" for domain in e.outcomes.domains])
    return {
        str(name): {
            "n": int((names == name).sum()),
            "router": float(metrics.mean(e.scores[best][names == name])),
            "experts": {
                expert: _number(float(q))
                for expert, q in zip(
                    e.router.experts, metrics.mean(e.outcomes.score[names == name]), strict=True
                )
            },
        }
        for name in np.unique(names)
        if name
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
