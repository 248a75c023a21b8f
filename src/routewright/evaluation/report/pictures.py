"""Draws the pictures of the report: cost and quality, shares of the experts, and reliability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routewright import metrics
from routewright.evaluation import plots
from routewright.evaluation.report.study import Study
from routewright.evaluation.report.words import rate
from routewright.types import Array

BINS = 10
BIN_ROWS = 20  # least rows per bin; small tables have fewer bins


def cost_quality(study: Study) -> str:
    control = study.control
    if study.priced:
        line = None if control is None else np.array([control[0][0], control[1][0]])
        return plots.cost_quality(study.figures, line)
    return plots.quality_bars(
        study.figures, None if control is None else float(control[1][0, study.best])
    )


def shares(study: Study) -> str | None:
    """The shares of the experts along the curve; None if there is no curve of shares."""
    several = len(np.unique(study.mean_costs)) > 1
    if not (study.priced and several) or study.several:
        return None
    return plots.shares(study.mean_costs, study.shares[:, study.by_cost], study.colours)


def reliability(study: Study) -> str:
    """Reliability diagrams of the experts, at most of those that are asked most often."""
    total = study.shares.sum(axis=0)
    experts = sorted(range(len(study.experts)), key=lambda m: -total[m])[: plots.PANELS]
    return plots.reliability([_panel(study, m) for m in sorted(experts, key=study.by_cost.index)])


def _panel(study: Study, m: int) -> plots.Panel:
    name = study.experts[m]
    prediction = study.chance[:, m]
    score = study.evaluation.outcomes.score[:, m]
    belief = study.figures["predictor"][name]
    return plots.Panel(
        plots.short(name, study.experts, 26),
        f"AUC {rate(belief['auc'])}   Brier {rate(metrics.brier(prediction, score))}"
        f"   ECE {rate(belief['ece'])}",
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
    return predictions, scores, _wilson(scores, np.array([len(part) for part in parts]))


def _wilson(share: Array, n: NDArray[np.int_], z: float = 1.96) -> Array:
    """Distances from each share to the ends of its 95 % interval, below and above, (2, bins).

    Wilson (1927): unlike the normal interval it has a width even if all scores agree.
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    width = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    extent: Array = np.clip(np.array([share - (middle - width), middle + width - share]), 0.0, None)
    return extent
