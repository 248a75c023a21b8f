"""Writes the first sentences of the report: the quality and gain of the router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.config import PolicyConfig
from routewright.evaluation.figures import served
from routewright.evaluation.policies import in_words, point_at_half
from routewright.evaluation.report.study import HALF, Study
from routewright.evaluation.report.words import between, percent, points, signed, verdict_of


class Headline(NamedTuple):
    """The first sentences of the report; `verdict` is gain, unproven or loss."""

    verdict: str
    lead: str
    gain: str
    also: tuple[str, ...]


def headline(study: Study) -> Headline:
    return _priced_headline(study) if study.priced else _unpriced_headline(study)


def _priced_headline(study: Study) -> Headline:
    least, most = study.span
    always = f"the cost of always asking {study.most_expensive}"
    if least > HALF:
        at = _at_point(study, int(np.argmin(study.mean_costs)))
        lead = f"At {percent(least)} of {always}, the least it can spend"
    elif most < HALF:
        at = _at_point(study, int(np.argmax(study.mean_costs)))
        lead = f"At {percent(most)} of {always}, the most it can spend"
    else:
        at = study.figures["at_cost_fraction"][f"{HALF:g}"]
        lead = f"At half {always}"
    lead += f", this router reaches {points(at['quality'])} {between(at['quality_ci'])}"
    verdict = verdict_of(at["gain_ci"])
    gain = _gain(verdict, at["gain_over_zero_router"], at["gain_ci"])
    if _fixed(study):
        gain += "; the fit found no gain either, so the router serves a fixed mix here"
    return Headline(verdict, lead, gain + ".", _also(study))


def _at_point(study: Study, k: int) -> dict[str, Any]:
    """The figures of `at_cost_fraction`, at the cost of operating point k."""
    e = study.evaluation
    quality, costs = (metrics.mean(t[[k]].T, study.weights)[:, 0] for t in (e.scores, e.costs))
    single_quality = metrics.mean(e.outcomes.score, study.weights)
    single_cost = metrics.mean(e.outcomes.charges, study.weights)
    zero = [
        float(policies.hull_quality(policies.zero_router(q, c), cost))
        for q, c, cost in zip(single_quality, single_cost, costs, strict=True)
    ]
    gain = quality - np.array(zero)
    return {
        "quality": float(quality[0]),
        "quality_ci": metrics.interval(quality[1:]),
        "gain_over_zero_router": float(gain[0]),
        "gain_ci": metrics.interval(gain[1:]),
    }


def _fixed(study: Study) -> bool:
    """Whether a policy with `max_cost_fraction: 0.5` serves fixed experts; without such a point,
    whether the points next to half cost do."""
    k = point_at_half(study.evaluation)
    if k is not None:
        return study.evaluation.points[k].strategy == "fixed"
    return all(study.evaluation.points[k].strategy == "fixed" for k, _ in study.half)


def _gain(verdict: str, gain: float, interval: Sequence[float]) -> str:
    over = "mixing fixed experts at the same cost"
    if verdict == "gain":
        return f"{signed(gain)} points {between(interval, sign=True)} over {over}"
    if verdict == "loss":
        return f"{points(-gain)} points worse {between(interval, sign=True)} than {over}"
    return f"no proven gain over {over}: {signed(gain)} points {between(interval, sign=True)}"


def _unpriced_headline(study: Study) -> Headline:
    best = study.best_figures
    gain, interval = _gain_over_best_single(study)
    verdict = verdict_of(interval)
    text = _gain(verdict, gain, interval).replace(
        "mixing fixed experts at the same cost", "always asking the best single expert"
    )
    if _fixed(study):
        text += "; the fit found no gain either, so the router always asks one expert"
    free = any(expert["cost"] == 0 for expert in study.figures["experts"].values())
    reason = "Every expert is free" if free else "No costs are known"
    lead = (
        f"{reason}, so only quality is judged: this router reaches"
        f" {points(best['quality'])} {between(best['quality_ci'])}"
    )
    return Headline(verdict, lead, text + ".", (_best_single(study),))


def _gain_over_best_single(study: Study) -> tuple[float, tuple[float, float]]:
    """The gain and its interval, paired; each replicate has its own best single expert."""
    e = study.evaluation
    router = metrics.mean(e.scores[[study.best]].T, study.weights)[:, 0]
    gain = router - np.nanmax(metrics.mean(e.outcomes.score, study.weights), axis=1)
    return float(gain[0]), metrics.interval(gain[1:])


def _also(study: Study) -> tuple[str, ...]:
    best = study.best_figures
    whole = (
        f"With no limit on costs, the router reaches {points(best['quality'])}"
        f" {between(best['quality_ci'])} at {percent(best['cost_fraction'])} of the cost of"
        f" {study.most_expensive}."
    )
    return (*_served(study), _best_single(study), whole)


def _served(study: Study) -> tuple[str, ...]:
    """What a policy with `max_cost_fraction: 0.5` serves: one operating point, not a mix of two."""
    k = point_at_half(study.evaluation)
    if k is None:
        return ()
    policy = PolicyConfig(strategy=study.evaluation.points[k].strategy, max_cost_fraction=HALF)
    said = in_words(served(study.evaluation, k), policy, study.most_expensive)
    return (f"A policy with max_cost_fraction {HALF:g} serves {said}.",)


def _best_single(study: Study) -> str:
    best, oracle = (study.figures["references"][key] for key in ("best_single", "oracle"))
    return (
        f"The best single expert, {best['name']}, reaches {points(best['quality'])};"
        f" an oracle that knows every score in advance would reach {points(oracle['quality'])}."
    )
