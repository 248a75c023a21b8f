"""The tables: fixed fractions of the cost, experts, domains, and where the router is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.evaluation import plots
from routewright.evaluation.figures import FRACTIONS, curve_replicates
from routewright.evaluation.report.study import MORE_THAN_ONE, Study
from routewright.evaluation.report.words import verdict_of
from routewright.types import Array

SMALL_DOMAIN = 30  # rows; below, a domain's numbers are shown grey
MISTAKES_SHOWN = 15
EXCERPT = 120  # characters of a prompt


class FractionRow(NamedTuple):
    fraction: float
    cost: float  # US$ per query
    reachable: bool
    quality: float
    quality_ci: Sequence[float]
    gain: float
    gain_ci: Sequence[float]
    verdict: str
    control: float | None
    over_control: float | None
    over_control_ci: Sequence[float] | None


def fraction_rows(study: Study) -> list[FractionRow]:
    """Quality, gain and the shuffled control at the fixed fractions of the dearest cost."""
    if not study.priced:
        return []
    least, _ = study.span
    dearest = study.figures["experts"][study.dearest]["cost"]
    control = _control_at_fractions(study)
    rows = []
    for f, fraction in enumerate(FRACTIONS):
        at = study.figures["at_cost_fraction"][f"{fraction:g}"]
        rows.append(
            FractionRow(
                fraction=fraction,
                cost=fraction * dearest,
                reachable=fraction >= least - 1e-6,
                quality=at["quality"],
                quality_ci=at["quality_ci"],
                gain=at["gain_over_zero_router"],
                gain_ci=at["gain_ci"],
                verdict=verdict_of(at["gain_ci"]) if at["gain_ci"] else "",
                control=control[0][0, f] if control else None,
                over_control=control[1][0, f] if control else None,
                over_control_ci=metrics.interval(control[1][1:, f]) if control else None,
            )
        )
    return rows


def _control_at_fractions(study: Study) -> tuple[Array, Array] | None:
    """Quality of the shuffled control and what the router has over it, each (b, fractions)."""
    if study.control is None:
        return None
    fractions = np.array(FRACTIONS)
    reached, _ = curve_replicates(study.evaluation, study.weights, fractions)
    price = metrics.mean(study.evaluation.outcomes.charges, study.weights)
    dealt = np.empty_like(reached)
    for b, (costs, qualities) in enumerate(zip(*study.control, strict=True)):
        order = np.lexsort((qualities, costs))
        dealt[b] = np.interp(fractions * np.nanmax(price[b]), costs[order], qualities[order])
    return dealt, reached - dealt


class ExpertRow(NamedTuple):
    name: str
    colour: str
    quality: float
    cost: float | None
    half: float | None  # share of queries it is asked at half the cost of the dearest
    whole: float | None  # at λ = 0
    auc: float | None
    brier: float
    ece: float


def expert_rows(study: Study) -> list[ExpertRow]:
    """Every expert, cheapest first as in the picture of shares."""
    e = study.evaluation
    colours = dict(zip(study.by_cost, study.colours, strict=True))
    rows = []
    for m in study.by_cost:
        name = study.experts[m]
        facts, belief = study.figures["experts"][name], study.figures["predictor"][name]
        rows.append(
            ExpertRow(
                name=name,
                colour=colours[m],
                quality=facts["quality"],
                cost=facts["cost"],
                half=_known(study.at_half(study.shares[:, m])),
                whole=_known(study.shares[study.best, m]),
                auc=belief["auc"],
                brier=metrics.brier(study.chance[:, m], e.outcomes.score[:, m]),
                ece=belief["ece"],
            )
        )
    return rows


class DomainRow(NamedTuple):
    name: str
    n: int
    router: float
    half: float | None
    best: str
    best_quality: float | None
    difference: float | None
    small: bool


def domain_rows(study: Study) -> list[DomainRow]:
    """The largest domains first; the best expert is the one that looks best in hindsight."""
    e = study.evaluation
    domains = np.array([domain or "" for domain in e.outcomes.domains])
    facts_of = study.figures["experts"]
    rows = []
    for name, facts in study.figures["domains"].items():
        per_point = metrics.mean(e.scores[:, domains == name].T)
        known = {m: q for m, q in facts["experts"].items() if q is not None}
        best = max(known, key=lambda m: (known[m], -plots.or_zero(facts_of[m]["cost"])), default="")
        rows.append(
            DomainRow(
                name=name,
                n=facts["n"],
                router=facts["router"],
                half=study.at_half(per_point) if study.priced else None,
                best=best,
                best_quality=known.get(best),
                difference=facts["router"] - known[best] if known else None,
                small=facts["n"] < SMALL_DOMAIN,
            )
        )
    return sorted(rows, key=lambda row: (-row.n, row.name))


class Mistake(NamedTuple):
    id: str
    domain: str | None
    text: str
    asked: str | None
    score: float
    cost: float | None
    better: str
    better_score: float
    better_cost: float | None


def mistakes(study: Study) -> list[Mistake]:
    """The queries with the largest regret at half cost: points lost, then dollars wasted."""
    e, k = study.evaluation, study.near_half
    score, cost = e.outcomes.score, e.outcomes.charges
    better = metrics.oracle(score, cost)
    lost = policies.take(score, better) - e.scores[k]
    wasted = e.costs[k] - policies.take(cost, better)
    order = np.lexsort((-np.nan_to_num(wasted), -np.nan_to_num(lost, nan=-1.0)))
    worst = [int(i) for i in order[:MISTAKES_SHOWN] if lost[i] > 0]
    return [_mistake(study, i, int(better[i])) for i in worst]


def _mistake(study: Study, i: int, better: int) -> Mistake:
    e, k = study.evaluation, study.near_half
    query, asked = e.outcomes.queries[i], study.asked[k, i]
    names = [name for name, share in zip(study.experts, asked, strict=True) if share > 0]
    text = " ".join(query.text.split())
    return Mistake(
        id=query.id,
        domain=query.domain,
        text=text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…",
        asked=None if asked.sum() > MORE_THAN_ONE else " or ".join(names),
        score=float(e.scores[k, i]),
        cost=_known(e.costs[k, i]) if study.priced else None,
        better=study.experts[better],
        better_score=float(e.outcomes.score[i, better]),
        better_cost=_known(e.outcomes.cost[i, better]) if study.priced else None,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
