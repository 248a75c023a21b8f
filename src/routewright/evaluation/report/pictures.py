"""The pictures: cost and quality, who is asked, and whether forecasts hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routewright import metrics
from routewright.evaluation import plots
from routewright.evaluation.report.study import Study
from routewright.evaluation.report.words import rate
from routewright.types import Array

BINS = 10
BIN_ROWS = 20  # fewer bins rather than fewer rows in each


def cost_quality(study: Study) -> str:
    control = study.control
    if study.priced:
        line = None if control is None else np.array([control[0][0], control[1][0]])
        return plots.cost_quality(study.figures, line)
    return plots.quality_bars(
        study.figures, None if control is None else float(control[1][0, study.best])
    )


def shares(study: Study) -> str | None:
    """None where there is no curve to show shares along."""
    several = len(np.unique(study.mean_costs)) > 1
    if not (study.priced and several) or study.several:
        return None
    return plots.shares(study.mean_costs, study.shares[:, study.by_cost], study.colours)


def reliability(study: Study) -> str:
    """Of the experts that are asked most, if there are more than fit."""
    asked = study.shares.sum(axis=0)
    kept = sorted(range(len(study.experts)), key=lambda m: -asked[m])[: plots.PANELS]
    return plots.reliability([_panel(study, m) for m in sorted(kept, key=study.by_cost.index)])


def _panel(study: Study, m: int) -> plots.Panel:
    name = study.experts[m]
    forecast = study.chance[:, m]
    score = study.evaluation.outcomes.score[:, m]
    belief = study.figures["predictor"][name]
    return plots.Panel(
        plots.short(name, study.experts, 26),
        f"AUC {rate(belief['auc'])}   Brier {rate(metrics.brier(forecast, score))}"
        f"   ECE {rate(belief['ece'])}",
        *_bins(forecast, score),
    )


def _bins(forecast: Array, score: Array) -> tuple[Array, Array, Array]:
    """Mean forecast, mean score and the reach of its interval in equally filled bins."""
    known = np.isfinite(score) & np.isfinite(forecast)
    f, s = forecast[known], score[known]
    bins = int(np.clip(len(f) // BIN_ROWS, 1, BINS))
    parts = [part for part in np.array_split(np.argsort(f, kind="stable"), bins) if len(part)]
    forecasts = np.array([f[part].mean() for part in parts])
    scores = np.array([s[part].mean() for part in parts])
    return forecasts, scores, _wilson(scores, np.array([len(part) for part in parts]))


def _wilson(share: Array, n: NDArray[np.int_], z: float = 1.96) -> Array:
    """How far the 95 % interval reaches down and up from each share, (2, bins).

    Wilson (1927), which unlike the normal interval has a width where all scores agree.
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    width = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    reach: Array = np.clip(np.array([share - (middle - width), middle + width - share]), 0.0, None)
    return reach
