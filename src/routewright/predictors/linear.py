"""Ridge regression of each expert's score on the query's vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.predictors import Belief, means
from routewright.types import Array

PENALTIES = tuple(10.0**p for p in np.arange(-1, 4.01, 0.5))


@dataclass
class Linear:
    """score ≈ mean + (x − x̄) w, the penalty chosen per expert by leave-one-out error.

    Columns are centred, not scaled: rare directions of the encoder stay small. The spread is
    the leave-one-out residual's share that the coefficients leave uncertain (Bayesian ridge
    with the penalty as prior precision).
    """

    penalty: float | None = None  # None: chosen
    centre: Array = field(default_factory=lambda: np.empty(0), repr=False)
    weights: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)  # (width, e)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)
    noise: Array = field(default_factory=lambda: np.empty(0), repr=False)  # residual sd per expert

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.centre = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        self.mean = means(scores)
        self.weights = np.zeros((x.shape[1], scores.shape[1]))
        self.noise = np.full(scores.shape[1], np.nan)
        known = np.isfinite(scores)
        for pattern in np.unique(known, axis=1).T:
            experts = np.flatnonzero((known == pattern[:, None]).all(axis=0))
            if pattern.any():
                self._fit_group(x[pattern] - self.centre, scores[pattern], experts)
        return self

    def predict(self, x: Array) -> Belief:
        centred = x - self.centre
        # Row by row: one query alone must give what it gives within a batch.
        mean = np.array([self.mean + row @ self.weights for row in centred])
        mean = mean.reshape(len(x), len(self.mean))
        spread = np.broadcast_to(self.noise, mean.shape).copy()
        return Belief(np.clip(mean, 0.0, 1.0), spread)

    def options(self) -> dict[str, Any]:
        return {"penalty": self.penalty}

    def arrays(self) -> dict[str, Any]:
        names = ("centre", "weights", "mean", "noise")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(**options, **arrays)

    def _fit_group(self, x: Array, scores: Array, experts: Any) -> None:
        """Experts that are known on the same rows share one eigendecomposition."""
        y = scores[:, experts] - self.mean[experts]
        values, vectors = np.linalg.eigh(x.T @ x)
        values = np.maximum(values, 0.0)
        rotated = x @ vectors
        projected = rotated.T @ y
        penalties = PENALTIES if self.penalty is None else (self.penalty,)
        errors, fits = [], []
        for penalty in penalties:
            inverse = 1 / (values + penalty)
            leverage = (rotated**2) @ inverse
            residual = (y - rotated @ (projected * inverse[:, None])) / (
                1 - np.minimum(leverage, 0.99)[:, None]
            )
            errors.append((residual**2).mean(axis=0))
            fits.append(projected * inverse[:, None])
        best = np.argmin(np.array(errors), axis=0)
        for column, expert in enumerate(experts):
            self.weights[:, expert] = vectors @ fits[best[column]][:, column]
            gain = (y[:, column] ** 2).mean() - errors[best[column]][column]
            self.noise[expert] = np.sqrt(max(float(gain), 0.0) + 1e-6)
