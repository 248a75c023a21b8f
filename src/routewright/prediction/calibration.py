"""From a forecast to a chance that holds: of the answers forecast at 0.7, seven in ten are right.

Platt scaling per expert, in the logit, drawn towards one map that all experts share. It is for
what is reported and for limits on quality; choices are made before it. A map per expert adds its
own noise to the differences that decide, and that cost decision value on every table (dev/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from routewright.types import Array, Indices

PULLS = (1e3, 1e9)  # of the shared map on an expert's own; the second leaves the shared one
FIRMNESS = 20.0  # of the identity on the shared map
EDGE = 1e-3  # forecasts are kept this far from 0 and 1, where a logit has no end


@dataclass(frozen=True)
class Calibration:
    """chance = σ(slope · logit(forecast) + offset), per expert; experts beyond the arrays, who
    joined later, and experts that were never scored (a forecast below 0) stay as they are."""

    slope: Array = field(default_factory=lambda: np.empty(0))  # (e,)
    offset: Array = field(default_factory=lambda: np.empty(0))  # (e,)

    def __call__(self, forecast: Array) -> Array:
        """Forecasts (..., experts) ▶ chances."""
        chance = forecast.copy()
        mapped = forecast[..., : len(self.slope)]
        moved = _sigmoid(self.slope * _logit(mapped) + self.offset)
        chance[..., : len(self.slope)] = np.where(mapped >= 0, moved, mapped)
        return chance


def fit(forecast: Array, scores: Array, fold: Indices) -> tuple[Calibration, Array]:
    """Maps from held-out forecasts (n, e) to scores, NaN where unknown; also each row's chances
    by maps that did not see its fold.

    Of the PULLS the one with the least log loss of those chances; the identity, if the forecasts
    themselves have less.
    """
    trials = [(log_loss(forecast, scores), Calibration(), forecast)]
    for pull in PULLS:
        chance = forecast.copy()
        for k in np.unique(fold):
            inside, outside = fold != k, fold == k
            chance[outside] = _maps(forecast[inside], scores[inside], pull)(forecast[outside])
        trials.append((log_loss(chance, scores), _maps(forecast, scores, pull), chance))
    _, maps, chance = min(trials, key=lambda trial: trial[0])
    return maps, chance


def log_loss(chance: Array, scores: Array) -> float:
    """Mean cross-entropy of known scores (0..1) with their forecasts, in nats."""
    known = np.isfinite(scores) & (chance >= 0)
    p, s = chance[known].clip(EDGE, 1 - EDGE), scores[known]
    return float(-(s * np.log(p) + (1 - s) * np.log(1 - p)).mean())


def _maps(forecast: Array, scores: Array, pull: float) -> Calibration:
    shared = _platt(forecast, scores, np.array([1.0, 0.0]), FIRMNESS)
    own = [_platt(f, s, shared, pull) for f, s in zip(forecast.T, scores.T, strict=True)]
    slope, offset = np.array(own).T
    return Calibration(slope, offset)


def _platt(forecast: Array, scores: Array, around: Array, pull: float) -> Array:
    """Slope and offset of the least log loss, with a Gaussian prior `around` them."""
    from scipy.optimize import minimize

    known = np.isfinite(scores) & (forecast >= 0)
    z, s = _logit(forecast[known]), scores[known]

    def loss(at: Array) -> tuple[float, Array]:
        logit = at[0] * z + at[1]
        error, away = _sigmoid(logit) - s, at - around
        value = float((np.logaddexp(0, logit) - s * logit).sum() + pull / 2 * away @ away)
        return value, np.array([error @ z, error.sum()]) + pull * away

    return np.asarray(minimize(loss, around, jac=True, method="L-BFGS-B").x)


def _logit(chance: Array) -> Array:
    inside = chance.clip(EDGE, 1 - EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def _sigmoid(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logit.clip(-30, 30))))
