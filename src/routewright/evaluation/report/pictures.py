"""Draws the pictures of the report: cost and quality, shares of the experts, and reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from routewright.config import PolicyConfig
from routewright.evaluation import figures as measures
from routewright.evaluation import plots
from routewright.evaluation.canvas import Drawing
from routewright.evaluation.compare import Comparison
from routewright.evaluation.figures import HALF, Evaluation, served
from routewright.evaluation.labels import short
from routewright.evaluation.policies import Judged
from routewright.evaluation.report.headline import served_policy
from routewright.evaluation.report.study import Study
from routewright.evaluation.report.words import percent, rate
from routewright.metrics.sampling import wilson
from routewright.types import Array

NO_GAIN = {"gain_over_zero_router": None, "gain_ci": None}  # of a choice that is not learned
BINS = 10
BIN_ROWS = 20  # least rows per bin; small tables have fewer bins


class Picture(NamedTuple):
    """A picture as SVG, for wide pages and for telephones."""

    wide: Drawing
    narrow: Drawing


def _both(draw: Callable[[bool], Drawing]) -> Picture:
    return Picture(draw(False), draw(True))


def of_rounds(rounds: Sequence[Mapping[str, Any]], kept: int) -> Picture | None:
    """The quality of every round of a self-play; None where fewer than two were measured."""
    measured = [one for one in rounds if one["quality"] is not None]
    if len(measured) < 2:
        return None
    numbers = [int(one["number"]) for one in measured]
    quality = np.array([one["quality"] for one in measured])
    interval = np.array([one["quality_ci"] or 2 * [one["quality"]] for one in measured]).T
    return _both(lambda narrow: plots.rounds(numbers, quality, interval, kept, narrow=narrow))


def cost_quality(study: Study) -> Picture:
    control = study.control
    if not study.priced:
        shuffled = None if control is None else float(control[1][0, study.best])
        return _both(lambda narrow: plots.quality_bars(study.figures, shuffled, narrow=narrow))
    line = None if control is None else np.array([control[0][0], control[1][0]])
    policy = served_policy(study)
    name = f"served: at most {percent(HALF)}" if policy.max_cost_fraction else "served"
    facts = served(study.served)
    marks = [mark(name, facts, policy, study.figures["experts"][study.most_expensive]["cost"])]
    return _both(
        lambda narrow: plots.cost_quality(study.figures, line, marks, study.gains, narrow=narrow)
    )


def of_policies(
    judged: Sequence[Judged],
    figures: Mapping[str, Any],
    most_expensive: str,
    curve: Evaluation | None,
) -> Picture:
    """The policies of a config beside what was asked of them, and a router's operating points."""
    if not plots.priced(figures):
        return _both(lambda narrow: plots.quality_bars(figures, narrow=narrow))
    dearest = figures["experts"][most_expensive]["cost"]
    marks = [
        mark(one.name, one.facts if one.learned else one.facts | NO_GAIN, one.config, dearest)
        for one in judged
    ]
    # The gain of the curve is over mixes of its own experts, so it is not drawn.
    points = [] if curve is None else measures.curve(curve)
    shown = {**figures, "curve": points}
    return _both(lambda narrow: plots.cost_quality(shown, None, marks, narrow=narrow))


def of_comparison(comparison: Comparison, figures: Mapping[str, Any]) -> Picture | None:
    """Both sides over cost; None in a table without costs."""
    if not comparison.priced:
        return None
    sides = [comparison.means(side) for side in (comparison.a, comparison.b)]
    curves = [np.array([costs[0], qualities[0]]) for costs, qualities in sides]
    return _both(lambda narrow: plots.comparison(figures, curves, narrow=narrow))


def of_card(card: Mapping[str, Any]) -> Picture | None:
    """A router's operating points as its fit measured them; None without costs or points."""
    if not (plots.priced(card) and card["curve"]):
        return None
    gains = np.array([[point["gain"], *point["gain_ci"]] for point in card["curve"]], float).T
    return _both(lambda narrow: plots.cost_quality(card, gains=gains, narrow=narrow))


def mark(
    name: str, facts: Mapping[str, Any], policy: PolicyConfig, most_expensive: float
) -> plots.Mark:
    """A policy in the picture; `most_expensive` is the cost that fractions refer to, in US$."""
    most = policy.max_cost
    if policy.max_cost_fraction is not None:
        most = policy.max_cost_fraction * most_expensive
    return plots.Mark(
        name,
        facts["cost"],
        facts["quality"],
        facts["gain_over_zero_router"],
        facts["gain_ci"],
        most,
        policy.min_quality,
    )


def shares(study: Study) -> Picture | None:
    """The shares of the experts along the curve; None if there is no curve of shares."""
    several = len(np.unique(study.mean_costs)) > 1
    if not (study.priced and several) or study.several:
        return None
    parts = study.shares[:, study.by_cost]
    return _both(lambda narrow: plots.shares(study.mean_costs, parts, study.colours, narrow=narrow))


def reliability(study: Study) -> Picture:
    """Reliability diagrams of the experts, at most of those that are asked most often."""
    total = study.shares.sum(axis=0)
    experts = sorted(range(len(study.experts)), key=lambda m: -total[m])[: plots.PANELS]
    panels = [_panel(study, m) for m in sorted(experts, key=study.by_cost.index)]
    return _both(lambda narrow: plots.reliability(panels, narrow=narrow))


def _panel(study: Study, m: int) -> plots.Panel:
    name = study.experts[m]
    prediction = study.chance[:, m]
    score = study.evaluation.outcomes.score[:, m]
    belief = study.figures["predictor"][name]
    return plots.Panel(
        short(name, study.experts),
        f"AUC {rate(belief['auc'])} · ECE {rate(belief['ece'])}",
        *_bins(prediction, score),
    )


def _bins(prediction: Array, score: Array) -> tuple[Array, Array, Array]:
    """Mean prediction, mean score and the extent of its interval in equally filled bins."""
    finite = np.isfinite(score) & np.isfinite(prediction)
    p, s = prediction[finite], score[finite]
    bins = int(np.clip(len(p) // BIN_ROWS, 1, BINS))
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    predictions = np.array([p[part].mean() for part in parts])
    scores = np.array([s[part].mean() for part in parts])
    low, high = wilson(scores, np.array([len(part) for part in parts], np.float64))
    extent: Array = np.clip(np.array([scores - low, high - scores]), 0.0, None)
    return predictions, scores, extent
