"""The figures of an evaluation: the keys of `evaluate --json`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from routewright import metrics, policies
from routewright.data import text
from routewright.data.outcomes import Outcomes
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies._fixed_mix import unfamiliar
from routewright.strategies._recorded import Run
from routewright.types import Array, Prediction

HALF = 0.5  # cost fraction of the policy that reports about a router speak of
FRACTIONS = (0.1, 0.25, 0.5, 0.75)
SERVED = ("quality", "quality_ci", "cost", "cost_fraction")
AT_FRACTION = ("quality", "quality_ci", "gain_over_zero_router", "gain_ci")


@dataclass(frozen=True)
class Evaluation:
    """A router's k operating points, or one strategy, measured on n rows."""

    router: Router | None  # None: of one strategy
    outcomes: Outcomes
    prediction: Prediction | None  # None: there is no router
    points: tuple[OperatingPoint, ...]
    runs: tuple[Run, ...]  # of every point
    weights: Array  # bootstrap weights (b, n)
    at_half: tuple[OperatingPoint, Run] | None = None  # of a router's policy; see `as_served`

    @cached_property
    def scores(self) -> Array:
        """(k, n)"""
        return np.array([run.score for run in self.runs])

    @cached_property
    def costs(self) -> Array:
        """(k, n) in US$"""
        return np.array([run.cost for run in self.runs])

    @cached_property
    def as_served(self) -> Evaluation:
        """What a policy with `max_cost_fraction: 0.5` serves, as one point; the cheapest point if
        all cost more, and the best one without costs."""
        if not np.nansum(self.outcomes.cost):
            k = int(np.argmin([point.price for point in self.points]))
        elif self.at_half is None:
            k = int(np.argmin(metrics.mean(self.costs.T)))
        else:
            return self.only(*self.at_half)
        return self.only(self.points[k], self.runs[k])

    def only(self, point: OperatingPoint, ran: Run) -> Evaluation:
        """One operating point on the same rows."""
        return replace(self, points=(point,), runs=(ran,))

    def __repr__(self) -> str:
        names = text.listed(self.outcomes.experts)
        return (
            f"<Evaluation of {len(self.points)} operating points on {len(self.outcomes)} queries,"
            f" {len(self.outcomes.experts)} experts ({names})>"
        )

    def __str__(self) -> str:
        """The router, or the strategy, beside the best single expert and the zero router."""
        return in_short(self.to_json(), None if self.router else served(self))

    def to_json(self) -> dict[str, Any]:
        """The contract of `evaluate --json`."""
        return summary(self)


def in_short(figures: dict[str, Any], strategy: dict[str, Any] | None = None) -> str:
    """A few lines about the figures of `evaluate --json`, for people; `strategy` is what `served`
    says of the one strategy that was measured, None for a router."""
    references, top = figures["references"], min(figures["curve"], key=lambda p: p["lambda"])
    best = references["best_single"]
    dearest = max((expert["cost"] or 0.0 for expert in figures["experts"].values()), default=0.0)
    rows = [("", "quality", "US$ per 1,000", "points over zero router (95 %)")]

    def row(name: str, quality: float | None, cost: float | None, gain: str = "") -> None:
        rows.append((name, text.percent(quality), text.dollars(cost), gain))

    row(f"best single expert: {best['name']}", best["quality"], best["cost"])
    if strategy is not None:
        row("the strategy", strategy["quality"], strategy["cost"], _gain(strategy))
    for fraction, at in figures["at_cost_fraction"].items() if strategy is None else ():
        if at["quality"] is not None:
            name = f"router at {100 * float(fraction):g} % of the most expensive expert's cost"
            row(name, at["quality"], float(fraction) * dearest, _gain(at))
    if strategy is None:
        row("router at λ = 0", top["quality"], top["cost"])
    row("oracle", references["oracle"]["quality"], references["oracle"]["cost"])
    lines = [f"{figures['n']} queries, {len(figures['experts'])} experts", text.columns(rows)]
    if figures["aiq"] is not None and strategy is None:
        lines.append(
            f"AIQ {figures['aiq']:.3f}, of the zero router {figures['aiq_zero_router']:.3f}"
        )
    return "\n".join(lines)


def _gain(facts: dict[str, Any]) -> str:
    """The gain over the zero router with its interval, in points; empty where costs are unknown."""
    if facts["gain_ci"] is None:
        return ""
    return f"{text.points(facts['gain_over_zero_router'])} {text.between(facts['gain_ci'], True)}"


def summary(e: Evaluation) -> dict[str, Any]:
    """Everything of design section 5: experts, references, curve, gains, AIQ, forecasts."""
    quality, price = metrics.mean(e.outcomes.score), metrics.mean(e.outcomes.charges)
    priced = _priced(e.outcomes)
    whole = priced and bool(np.isfinite(e.scores).any(axis=1).all())  # every point was measured
    cheap, dear = _extremes(quality, price)
    curve_cost, curve_quality = metrics.mean(e.costs.T), metrics.mean(e.scores.T)
    hull = policies.zero_router(quality, price)
    zero = np.array([[v.cost, v.quality] for v in hull]).T
    span = (float(price[cheap]), float(price[dear]))

    return {
        "experts": experts(e.outcomes),
        "references": references(e.outcomes),
        "curve": curve(e),
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
        "predictor": _forecasts(e),
        "domains": _domains(e),
        "tie": tie(e),
        "n": len(e.outcomes),
        "warnings": [*unproven(e), *warnings(e.outcomes), *of_other_topics(e)],
    }


def tie(e: Evaluation) -> dict[str, Any] | None:
    """What `tie: cheapest` serves at λ = 0 in place of the router's best choice, what that saves
    (a share of the cost) and what it does to quality on these rows; None if the fit found no such
    expert."""
    if e.router is None or (name := e.router.card.get("tie")) not in e.outcomes.experts:
        return None
    k, m = int(np.argmin([p.price for p in e.points])), e.outcomes.experts.index(name)
    score, cost = e.scores[k], e.costs[k]
    instead, dollars = e.outcomes.score[:, m], e.outcomes.charges[:, m]
    spent = float(metrics.mean(cost))
    lost = metrics.mean((instead - score)[:, None], e.weights)[:, 0]
    return {
        "expert": name,
        "quality": _number(float(metrics.mean(instead))),
        "cost": _number(float(metrics.mean(dollars))),
        "difference": _number(float(metrics.mean(instead - score))),
        "difference_ci": list(metrics.interval(lost)),
        "saves": 1 - float(metrics.mean(dollars)) / spent if spent > 0 else None,
    }


def tie_in_words(facts: dict[str, Any] | None) -> str:
    """What `tie: cheapest` would do, as a sentence; empty where it saves no whole percent."""
    if facts is None or (facts["saves"] is not None and round(100 * facts["saves"]) <= 0):
        return ""
    saves = (
        "" if facts["saves"] is None else f", which saves {text.share(facts['saves'])} of the cost"
    )
    difference = text.points(facts["difference"])
    return (
        f"At λ = 0, `tie: cheapest` serves {facts['expert']}{saves}: {difference} points"
        f" {text.between(facts['difference_ci'], True)} of quality on these rows."
    )


def of_other_topics(e: Evaluation) -> list[str]:
    """What the router is worth on topics that it was not fitted on, if that is not proven, and how
    many rows are unlike those that it was fitted on."""
    if e.router is None or not (facts := e.router.card.get("left_out")) or facts["pays"]:
        return []
    gain, pair = text.points(facts["gain"]), text.between(facts["gain_ci"], True)
    warning = (
        f"On {facts['by']}s left out of its fit the router gains {gain} points {pair} over mixing"
        f" fixed experts, beside {text.points(facts['gain_where_fitted'])} where it was fitted:"
        " queries unlike its training rows get the fixed mix"
    )
    trust = None if e.prediction is None else e.prediction.trust
    if trust is not None:
        warning += f", here {text.share(float(np.mean(unfamiliar(trust))))} of the rows"
    return [f"{warning}."]


def unproven(e: Evaluation) -> list[str]:
    """What the router assumed in place of scores, if it was fitted without."""
    assumption = e.router.card.get("unproven") if e.router is not None else None
    return [f"The router was fitted by agreement: {assumption}."] if assumption else []


def warnings(outcomes: Outcomes) -> list[str]:
    """What the reader of an evaluation on these rows must know first."""
    return [f"{provable(outcomes)}."] if questions(outcomes) < text.FEW else []


def questions(outcomes: Outcomes) -> int:
    """The number of different questions: rows of one group are one piece of evidence."""
    return len(set(outcomes.groups)) if outcomes.groups else len(outcomes)


def provable(outcomes: Outcomes) -> str:
    """What the rows prove, as a sentence without its full stop; see `text.provable`."""
    rows, different = len(outcomes), questions(outcomes)
    if different == rows:
        return text.provable(rows)
    return f"{rows} rows repeat {different} questions: {text.provable(different, 'question')}"


def experts(outcomes: Outcomes) -> dict[str, Any]:
    """What always asking one expert gives."""
    quality, price = metrics.mean(outcomes.score), metrics.mean(outcomes.charges)
    return {
        name: {"quality": _number(quality[m]), "cost": _dollars(price[m], outcomes)}
        for m, name in enumerate(outcomes.experts)
    }


def _priced(outcomes: Outcomes) -> bool:
    return bool(np.isfinite(outcomes.cost).any())


def _dollars(amount: float, outcomes: Outcomes) -> float | None:
    """None in a table without any costs."""
    return float(amount) if _priced(outcomes) else None


def _forecasts(e: Evaluation) -> dict[str, Any]:
    """How good the forecasts of each expert's score are; of a strategy without a router, {}."""
    if e.prediction is None:
        return {}
    chance, score = e.prediction.chance, e.outcomes.pool(e.prediction.experts).score
    return {
        name: {
            "auc": _number(metrics.auc(chance[:, m], score[:, m])),
            "ece": _number(metrics.ece(chance[:, m], score[:, m])),
        }
        for m, name in enumerate(e.prediction.experts)
    }


def _extremes(quality: Array, price: Array) -> tuple[int, int]:
    """The cheapest and the dearest expert, the better one at ties."""
    known = [m for m in range(len(price)) if np.isfinite(price[m]) and np.isfinite(quality[m])]
    cheap = min(known, key=lambda m: (price[m], -quality[m]))
    return cheap, max(known, key=lambda m: (price[m], quality[m]))


def references(outcomes: Outcomes) -> dict[str, Any]:
    """What a router is compared with: single experts, the oracle, the zero router.

    The oracle is over the rows on which all experts' scores are known: on others it might miss the
    right answer. It is None without such rows, and where it is below the best expert, whose other
    rows are easier.
    """
    score, cost = outcomes.score, outcomes.charges
    quality, price = metrics.mean(score), metrics.mean(cost)
    best, (cheap, _) = int(np.nanargmax(quality)), _extremes(quality, price)
    whole = np.isfinite(score[:, np.isfinite(quality)]).all(axis=1)
    ideal = metrics.oracle(score[whole], cost[whole])
    reached = float(metrics.mean(policies.take(score[whole], ideal))) if whole.any() else np.nan
    is_known = reached >= quality[best] - 1e-9

    def dollars(amount: float) -> float | None:
        return _dollars(amount, outcomes)

    def expert(m: int) -> dict[str, Any]:
        name = outcomes.experts[m]
        return {"name": name, "quality": float(quality[m]), "cost": dollars(price[m])}

    return {
        "best_single": expert(best),
        "cheapest": expert(cheap),
        "oracle": {
            "quality": reached if is_known else None,
            "cost": (
                dollars(float(metrics.mean(policies.take(cost[whole], ideal))))
                if is_known
                else None
            ),
        },
        "zero_router": [[dollars(v.cost), v.quality] for v in policies.zero_router(quality, price)],
    }


def curve(e: Evaluation) -> list[dict[str, Any]]:
    """Every operating point: what it costs and reaches."""
    quality, price = metrics.mean(e.outcomes.score), metrics.mean(e.outcomes.charges)
    costs, qualities = metrics.mean(e.costs.T), metrics.mean(e.scores.T)
    dearest = _dollars(price[_extremes(quality, price)[1]], e.outcomes)
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
    price = metrics.mean(e.outcomes.charges, weights)
    quality = metrics.mean(e.outcomes.score, weights)
    reached = np.empty((len(weights), len(fractions)))
    zero = np.empty_like(reached)
    for b in range(len(weights)):
        at = fractions * np.nanmax(price[b])
        order = np.lexsort((scores[b], costs[b]))
        # Below its cheapest point the router cannot go: unknown, not free.
        reached[b] = np.interp(at, costs[b][order], scores[b][order], left=np.nan)
        zero[b] = policies.hull_quality(policies.zero_router(quality[b], price[b]), at)
    return reached, _rounded(reached - zero)


def _rounded(gains: Array) -> Array:
    """The gains without rounding errors: a fixed mix gains exactly nothing over itself."""
    return np.where(np.abs(gains) < 1e-9, 0.0, gains)


def over_fixed_mix(e: Evaluation, weights: Array) -> Array:
    """The paired gain of every operating point over mixing fixed experts at the cost that the point
    has on these rows, per replicate: (b, points)."""
    costs, scores = metrics.mean(e.costs.T, weights), metrics.mean(e.scores.T, weights)
    price = metrics.mean(e.outcomes.charges, weights)
    quality = metrics.mean(e.outcomes.score, weights)
    mixes = [
        policies.hull_quality(policies.zero_router(q, c), at)
        for q, c, at in zip(quality, price, costs, strict=True)
    ]
    return _rounded(scores - np.array(mixes))


def gains(e: Evaluation) -> Array:
    """The paired gain of every operating point over mixing fixed experts at its own cost, and the
    ends of its interval: (3, points)."""
    replicates = over_fixed_mix(e, np.vstack([np.ones(len(e.outcomes)), e.weights]))
    ends = [metrics.interval(replicates[1:, k]) for k in range(len(e.points))]
    return np.vstack([replicates[0], np.array(ends).T])


def served(e: Evaluation) -> dict[str, Any]:
    """What the one point of an evaluation costs and reaches on these rows, with intervals, and its
    paired gain over mixing fixed experts at the same cost; None where costs are unknown."""
    (point,) = curve(e)
    facts: dict[str, Any] = {key: point[key] for key in SERVED}
    unknown = dict.fromkeys(("cost_fraction_ci", "gain_over_zero_router", "gain_ci"))
    if not facts["cost_fraction"]:
        return facts | unknown
    weights = np.vstack([np.ones(len(e.outcomes)), e.weights])
    price = metrics.mean(e.outcomes.charges, weights)
    dearest = price[:, int(np.nanargmax(price[0]))]
    fractions = metrics.mean(e.costs.T, e.weights)[:, 0] / dearest[1:]
    gain = over_fixed_mix(e, weights)[:, 0]
    return facts | {
        "cost_fraction_ci": list(metrics.interval(fractions)),
        "gain_over_zero_router": _number(gain[0]),
        "gain_ci": list(metrics.interval(gain[1:])),
    }


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
                    e.outcomes.experts, metrics.mean(e.outcomes.score[names == name]), strict=True
                )
            },
        }
        for name in np.unique(names)
        if name
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
