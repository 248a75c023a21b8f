"""Predicts each expert's mean score for every query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright import metrics
from routewright.prediction.predictors import Belief
from routewright.prediction.stored import Arrays
from routewright.types import Array


@dataclass
class Prior:
    """The mean score per expert; a router that uses it is a point of the zero router."""

    mean: Array = field(default_factory=lambda: np.empty(0))
    error: Array = field(default_factory=lambda: np.empty(0))  # standard error of the mean

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.mean = metrics.mean(scores)
        variance = metrics.mean((scores - self.mean) ** 2)
        self.error = np.sqrt(variance / np.maximum(np.isfinite(scores).sum(axis=0), 1))
        return self

    def predict(self, x: Array) -> Belief:
        shape = (len(x), len(self.mean))
        return Belief(
            np.broadcast_to(self.mean, shape).copy(), np.broadcast_to(self.error, shape).copy()
        )

    def options(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, "error": self.error}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        part = Arrays("predictor 'prior'", arrays)
        mean = part.take("mean", "experts", unknown=True)
        return cls(mean, part.take("error", "experts", unknown=True))
