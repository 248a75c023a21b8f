"""Computes the tables of the report: cost fractions, experts, domains and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.data.text import TOO_FEW
from routewright.evaluation import plots
from routewright.evaluation.figures import FRACTIONS, curve_replicates
from routewright.evaluation.report.study import MORE_THAN_ONE, Study
from routewright.evaluation.report.words import verdict_of
from routewright.types import Array

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
    """Quality, gain and the shuffled control at the fixed cost fractions."""
    if not study.priced:
        return []
    full_cost = study.figures["experts"][study.most_expensive]["cost"]
    control = _control_at_fractions(study)
    rows = []
    for f, fraction in enumerate(FRACTIONS):
        at = study.figures["at_cost_fraction"][f"{fraction:g}"]
        rows.append(
            FractionRow(
                fraction=fraction,
                cost=fraction * full_cost,
                reachable=at["quality"] is not None,
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
    """Quality of the shuffled control and the router's gain over it, each (b, fractions)."""
    if study.control is None:
        return None
    fractions = np.array(FRACTIONS)
    quality, _ = curve_replicates(study.evaluation, study.weights, fractions)
    cost = metrics.mean(study.evaluation.outcomes.charges, study.weights)
    control = np.empty_like(quality)
    for b, (costs, qualities) in enumerate(zip(*study.control, strict=True)):
        order = np.lexsort((qualities, costs))
        control[b] = np.interp(fractions * np.nanmax(cost[b]), costs[order], qualities[order])
    return control, quality - control


class ExpertRow(NamedTuple):
    name: str
    colour: str
    quality: float
    cost: float | None
    half: float | None  # share of the queries that are sent to it at half cost
    whole: float | None  # at λ = 0
    auc: float | None
    brier: float
    ece: float


def expert_rows(study: Study) -> list[ExpertRow]:
    """Every expert, cheapest first, as in the picture of shares."""
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
                half=_or_none(study.at_half(study.shares[:, m])),
                whole=_or_none(study.shares[study.best, m]),
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
    """The domains, largest first; the best expert is chosen in hindsight."""
    e = study.evaluation
    domains = np.array([domain or "" for domain in e.outcomes.domains])
    facts_of = study.figures["experts"]
    rows = []
    for name, facts in study.figures["domains"].items():
        per_point = metrics.mean(e.scores[:, domains == name].T)
        scored = {m: q for m, q in facts["experts"].items() if q is not None}
        cost = {m: plots.or_zero(facts_of[m]["cost"]) for m in scored}
        best = max(scored, key=lambda m: (scored[m], -cost[m]), default="")
        rows.append(
            DomainRow(
                name=name,
                n=facts["n"],
                router=facts["router"],
                half=study.at_half(per_point) if study.priced else None,
                best=best,
                best_quality=scored.get(best),
                difference=facts["router"] - scored[best] if scored else None,
                small=facts["n"] < TOO_FEW,
            )
        )
    return sorted(rows, key=lambda row: (-row.n, row.name))


class RobustnessRow(NamedTuple):
    """One wording at one cost fraction; shares of the measured rows."""

    point: str
    wording: str
    changed: float
    changed_ci: Sequence[float] | None
    more_expensive: float | None
    cost: float | None  # US$ per query
    rise: float | None  # of the cost, as a share of that in the prompts' own words
    unfamiliar: float


def robustness_rows(facts: Mapping[str, Any] | None) -> list[RobustnessRow]:
    """The rewrites together, the one that changes most, and every suffix, of each point."""
    rows = []
    for point in facts["points"] if facts else ():
        fraction = point["cost_fraction"]
        name = "λ = 0" if fraction is None else f"{100 * fraction:.0f} %"
        rewrites = point["rewrites"]
        wordings = {
            "rewrites, mean": rewrites,
            f"rewrite: {rewrites['worst']}": rewrites["each"][rewrites["worst"]],
            **{f"suffix: {key}": one for key, one in point["suffixes"]["each"].items()},
        }
        for wording, one in wordings.items():
            rise = None
            if point["cost"] and one["cost"] is not None:
                rise = one["cost"] / point["cost"] - 1
            rows.append(
                RobustnessRow(
                    point=name,
                    wording=wording,
                    changed=one["changed"],
                    changed_ci=one.get("changed_ci"),
                    more_expensive=one["more_expensive"],
                    cost=one["cost"],
                    rise=rise,
                    unfamiliar=one["unfamiliar"],
                )
            )
    return rows


class Mistake(NamedTuple):
    id: str
    domain: str | None
    text: str
    asked: str
    score: float
    cost: float | None
    better: str
    better_score: float
    better_cost: float | None


def mistakes(study: Study) -> list[Mistake]:
    """The queries with the largest regret of what is served: points lost, then US$ overspent.

    Empty where it asks fixed experts, because no learned choice is wrong there.
    """
    e = study.served
    if e.points[0].strategy == "fixed":
        return []
    score, cost = e.outcomes.score, e.outcomes.charges
    better = metrics.oracle(score, cost)
    lost = policies.take(score, better) - e.scores[0]
    overspent = e.costs[0] - policies.take(cost, better)
    order = np.lexsort((-np.nan_to_num(overspent), -np.nan_to_num(lost, nan=-1.0)))
    worst = [int(i) for i in order[:MISTAKES_SHOWN] if lost[i] > 0]
    return [_mistake(study, i, int(better[i])) for i in worst]


def _mistake(study: Study, i: int, better: int) -> Mistake:
    e = study.served
    query, asked = e.outcomes.queries[i], e.runs[0].asked[i, : len(study.experts)]
    text = " ".join(query.text.split())
    return Mistake(
        id=query.id,
        domain=query.domain,
        text=text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…",
        asked=_asked(study.experts, asked),
        score=float(e.scores[0, i]),
        cost=_or_none(e.costs[0, i]) if study.priced else None,
        better=study.experts[better],
        better_score=float(e.outcomes.score[i, better]),
        better_cost=_or_none(e.outcomes.cost[i, better]) if study.priced else None,
    )


def _asked(experts: Sequence[str], asked: Array) -> str:
    """Who was asked: an expert, one of several by lot, or several."""
    names = [name for name, share in zip(experts, asked, strict=True) if share > 0]
    if asked.sum() <= MORE_THAN_ONE:
        return " or ".join(names)
    return " and ".join(names) if len(names) == 2 else f"several: {len(names)} experts"


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
