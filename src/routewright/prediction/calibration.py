"""Turns predicted quality into probabilities that hold: of the answers predicted at 0.7, 70 % are
right.

The method is Platt scaling per expert, on the logit, with the shared map of all experts as prior.
The probabilities are for reports and for limits on quality; choices are made with the predictions
before calibration, because a map per expert adds noise to the differences between experts, which
cost decision value on every table (dev/LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.errors import BadRouter
from routewright.prediction.stored import Arrays
from routewright.types import Array, Indices

STRENGTHS = (1e3, 1e9)  # of the shared map as prior; the second gives every expert the shared map
SHARED_STRENGTH = 20.0  # of the identity as prior of the shared map
EDGE = 1e-3  # predictions are clipped to this distance from 0 and 1, where the logit is infinite


@dataclass(frozen=True)
class Calibration:
    """probability = σ(slope · logit(prediction) + offset), for each expert.

    Two kinds of experts keep their predictions: those beyond the arrays, which were added later,
    and those that were never scored, whose prediction is below 0.
    """

    slope: Array = field(default_factory=lambda: np.empty(0))  # (e,)
    offset: Array = field(default_factory=lambda: np.empty(0))  # (e,)

    @classmethod
    def load(cls, arrays: Mapping[str, Any], experts: int) -> Self:
        """The stored maps, at most one per expert. Raises BadRouter."""
        part = Arrays("the calibration", arrays)
        slope = part.take("slope", "experts")
        if len(slope) > experts:
            raise BadRouter(f"the calibration is of {len(slope)} experts, and there are {experts}")
        return cls(slope, part.take("offset", "experts"))

    def __call__(self, predictions: Array) -> Array:
        """Predictions (..., experts) ▶ probabilities of the same shape."""
        probabilities = predictions.copy()
        inputs = predictions[..., : len(self.slope)]
        outputs = _sigmoid(self.slope * _logit(inputs) + self.offset)
        probabilities[..., : len(self.slope)] = np.where(inputs >= 0, outputs, inputs)
        return probabilities


def fit(predictions: Array, scores: Array, fold: Indices) -> tuple[Calibration, Array]:
    """Fits maps from held-out predictions (n, e) to scores (n, e), NaN where unknown.

    Also returns the probabilities (n, e) of each row by maps that were fitted without its fold.
    Among the STRENGTHS and the identity, the choice is the one whose held-out probabilities have
    the least log loss.
    """
    trials = [(log_loss(predictions, scores), Calibration(), predictions)]
    for strength in STRENGTHS:
        held_out = predictions.copy()
        for k in np.unique(fold):
            train, test = fold != k, fold == k
            maps = _maps(predictions[train], scores[train], strength)
            held_out[test] = maps(predictions[test])
        maps = _maps(predictions, scores, strength)
        trials.append((log_loss(held_out, scores), maps, held_out))
    _, maps, probabilities = min(trials, key=lambda trial: trial[0])
    return maps, probabilities


def log_loss(probabilities: Array, scores: Array) -> float:
    """The mean cross-entropy of the known scores (0..1) with their probabilities, in nats."""
    mask = np.isfinite(scores) & (probabilities >= 0)
    p, s = probabilities[mask].clip(EDGE, 1 - EDGE), scores[mask]
    return float(-(s * np.log(p) + (1 - s) * np.log(1 - p)).mean())


def _maps(predictions: Array, scores: Array, strength: float) -> Calibration:
    shared = _platt(predictions, scores, np.array([1.0, 0.0]), SHARED_STRENGTH)
    columns = zip(predictions.T, scores.T, strict=True)
    slope, offset = np.array([_platt(p, s, shared, strength) for p, s in columns]).T
    return Calibration(slope, offset)


def _platt(predictions: Array, scores: Array, prior: Array, strength: float) -> Array:
    """Slope and offset with the least log loss under a Gaussian prior with mean `prior` (2,)."""
    from scipy.optimize import minimize

    mask = np.isfinite(scores) & (predictions >= 0)
    z, s = _logit(predictions[mask]), scores[mask]

    def loss(parameters: Array) -> tuple[float, Array]:
        logit = parameters[0] * z + parameters[1]
        error, distance = _sigmoid(logit) - s, parameters - prior
        penalty = strength / 2 * distance @ distance
        value = float((np.logaddexp(0, logit) - s * logit).sum() + penalty)
        return value, np.array([error @ z, error.sum()]) + strength * distance

    return np.asarray(minimize(loss, prior, jac=True, method="L-BFGS-B").x)


def _logit(probabilities: Array) -> Array:
    p = probabilities.clip(EDGE, 1 - EDGE)
    return np.asarray(np.log(p / (1 - p)))


def _sigmoid(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logit.clip(-30, 30))))
