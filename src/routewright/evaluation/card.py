"""The card of a router: what it was fitted on, where it holds, how sure it is, and what it cost.

Everything is read from the router's folder; the rows that it was fitted on are not needed. Facts
that an earlier version of `fit` did not record are None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from routewright import policies
from routewright.data import text
from routewright.data.outcomes import Outcomes, fingerprints
from routewright.evaluation.figures import FRACTIONS
from routewright.router.router import Router, finite

CHANCE = 0.5  # the AUC of forecasts that know nothing
FEW_ROWS = 400  # below, a plain vote is hard to beat


def facts(router: Router, tables: Sequence[Outcomes] = ()) -> dict[str, Any]:
    """What `card --json` writes; `overlap` has an entry for each of the tables.

    Gains and qualities are those of the cross-validation of the fit, in 0..1; costs are US$ per
    query, but `data.cost`, which is what all recorded answers of the fit took.
    """
    card = router.card
    data = {
        name: card.get("data", {}).get(name)
        for name in ("sources", "sha256", "split", "rows", "prompts", "domains", "cost")
    }
    learned = [point for point in router.frontier if point.gain > 0]
    content: dict[str, Any] = finite(
        {
            "data": data,
            "method": {
                "predictor": card.get("predictor"),
                "encoder": card.get("encoder"),
                "seed": card.get("seed"),
                "fit_seconds": card.get("fit_seconds"),
                "option_style": card.get("option_style"),
                "weighs_answers": router.evidence is not None,
                "knows_latency": router.knows_latency,
                "prices": dict(router.prices) or None,
                "newcomers": [entry["expert"] for entry in card.get("newcomers", [])],
            },
            "experts": dict(card.get("experts", {})),
            "references": _references(router),
            "curve": [_point(point) for point in router.frontier],
            "at_cost_fraction": {f"{f:g}": _at(router, f) for f in FRACTIONS},
            "learned": {"points": len(learned), "of": len(router.frontier)},
            "gain_over_zero_router": card.get("gain_over_zero_router"),
            "left_out": card.get("left_out"),
            "unlike": {"experts": list(router.steady) or None},
            "unproven": card.get("unproven"),
            "overlap": [_overlap(router, rows) for rows in tables],
        }
    )
    return content


def _point(point: Any) -> dict[str, Any]:
    names = ("cost", "cost_fraction", "quality", "quality_ci", "gain", "gain_ci", "plan", "shares")
    return {
        "lambda": point.price,
        "strategy": point.strategy,
        **{name: getattr(point, name) for name in names},
    }


def _at(router: Router, fraction: float) -> dict[str, Any] | None:
    """What a policy with that `max_cost_fraction` serves; None if no point is as cheap."""
    reachable = [point.cost_fraction for point in router.frontier]
    if not reachable or not min(reachable) <= fraction * (1 + 1e-9):
        return None
    return _point(router.within(max_cost_fraction=fraction))


def _references(router: Router) -> dict[str, Any]:
    """The best and the cheapest expert, and the zero router, from the means of the fit."""
    quality, cost = router.mean, np.nan_to_num(router.average_cost)
    best, cheapest = int(np.nanargmax(quality)), int(np.argmin(cost))
    hull = policies.zero_router(quality, cost)

    def one(m: int) -> dict[str, Any]:
        name = router.experts[m]
        return {"name": name, "quality": float(quality[m]), "cost": float(cost[m])}

    return {
        "best_single": one(best),
        "cheapest": one(cheapest),
        "oracle": {"quality": None, "cost": None},
        "zero_router": [[vertex.cost, vertex.quality] for vertex in hull],
    }


def _overlap(router: Router, rows: Outcomes) -> dict[str, Any]:
    """How many prompts of a table were fitted on; None where the router cannot tell."""
    prompts = np.unique(fingerprints(rows.queries))
    shared = int(np.isin(prompts, router.seen).sum()) if router.seen.size else None
    return {
        "sources": list(rows.sources),
        "split": rows.split,
        "prompts": len(prompts),
        "shared": shared,
    }


def in_words(card: Mapping[str, Any]) -> Iterator[str]:
    """The card in sentences, the most important ones first."""
    yield _gain(card)
    yield _where(card)
    if card["unproven"]:
        yield f"Nothing of this is proven by labels: {card['unproven']}."
    yield from _data(card)
    yield from _limits(card)
    for one in card["overlap"]:
        yield overlap_in_words(one)


def _gain(card: Mapping[str, Any]) -> str:
    learned, half = card["learned"], card["at_cost_fraction"]["0.5"]
    served = (
        f"It serves a learned choice at {learned['points']} of {learned['of']} operating points"
    )
    if half is None:
        return f"{served}, and a mix of fixed experts elsewhere."
    return (
        f"{served}. At half of the most expensive expert's cost it reaches"
        f" {text.percent(half['quality'])} in cross-validation,"
        f" {text.points(half['gain'])} points {text.between(half['gain_ci'], True)} over mixing"
        " fixed experts at the same cost."
    )


def _where(card: Mapping[str, Any]) -> str:
    outside = card["left_out"]
    if outside is None:
        return (
            "Whether it holds on other topics was not measured: the table has too few topics, or an"
            " earlier version fitted the router."
        )
    gain = f"{text.points(outside['gain'])} points {text.between(outside['gain_ci'], True)}"
    held = "it is served there too" if outside["pays"] else "such queries get the fixed mix"
    return (
        f"On {outside['topics']} {outside['by']}s that were left out of the fit, its mean gain is"
        f" {gain}: {held}."
    )


def _data(card: Mapping[str, Any]) -> Iterator[str]:
    data, seconds = card["data"], card["method"]["fit_seconds"]
    if data["rows"] is None:
        yield "It does not record what it was fitted on."
        return
    prompts = "" if data["prompts"] is None else f" with {data['prompts']:,} different prompts"
    spent = "" if data["cost"] is None else f"; the recorded answers took US$ {data['cost']:.4g}"
    time = "" if seconds is None else f" in {seconds:.0f} s"
    rows = f"{data['rows']:,} rows{prompts} of split '{data['split']}'"
    yield f"It was fitted on {rows}{time}{spent}."


def _limits(card: Mapping[str, Any]) -> Iterator[str]:
    method, rows, experts = card["method"], card["data"]["rows"], card["experts"]
    if rows is not None and rows < FEW_ROWS:
        yield f"{rows} rows are few: {text.provable(rows)}."
    if method["option_style"]:
        yield "It reads how multiple-choice options are written, which may mislead elsewhere."
    aucs = {name: one["auc"] for name, one in experts.items() if one["auc"] is not None}
    if names := [name for name, auc in aucs.items() if auc <= CHANCE]:
        yield f"Its forecasts of {text.listed(names)} are no better than chance (AUC)."
    if method["prices"]:
        yield f"Prices of {text.listed(list(method['prices']))} replaced the recorded costs."
    if not method["knows_latency"]:
        yield "It knows no latencies, so it cannot keep deadlines."
    mix = card["unlike"]["experts"]
    if mix:
        yield f"Queries unlike its rows get a fixed mix of {text.listed(mix)}."


def overlap_in_words(one: Mapping[str, Any]) -> str:
    """Whether an evaluation on these rows can be trusted."""
    rows = (
        f"the {one['prompts']:,} prompts of {text.listed(one['sources'])}, split '{one['split']}'"
    )
    if one["shared"] is None:
        return f"It has no fingerprints, so it cannot tell whether {rows}, were fitted on."
    if not one["shared"]:
        return f"None of {rows}, was fitted on."
    return f"{one['shared']:,} of {rows}, were fitted on: do not judge the router by these."
