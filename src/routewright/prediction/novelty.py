"""How far is a query from everything the router was fitted on? Far away it believes the means.

A forecast about a text unlike any training query is an extrapolation. Its likeness to the
nearest of a sample of training queries decides how much of the forecast is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright.prediction.predictors import NOTHING, View, view
from routewright.types import Array

LANDMARKS = 1000
UNUSUAL = 0.5  # per cent of the training queries that count as unusual


@dataclass
class Novelty:
    """Trust in forecasts, 1 for the familiar, falling to 0 for texts like none that was seen.

    Likeness is the largest product with the direction of a training query, over the text
    blocks. A text whose n-grams are unknown has a short vector, and so is like nothing. `usual`
    is the likeness that all but 0.5 % of the training queries have to another one.
    """

    view: View = NOTHING
    usual: float = 0.0
    landmarks: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), repr=False
    )

    def fit(self, x: Array, blocks: Mapping[str, slice], *, seed: int = 0) -> Self:
        text = {name: block for name, block in blocks.items() if name not in ("domain", "surface")}
        self.view = view(text, width=128)
        rows = self.view(x)
        rng = np.random.default_rng(seed)
        picked = rng.choice(len(rows), min(LANDMARKS, len(rows)), replace=False)
        length = np.linalg.norm(rows[picked], axis=1, keepdims=True)
        directions = rows[picked] / np.maximum(length, 1e-9)
        self.landmarks = directions.astype(np.float32)
        likeness = rows @ self.landmarks.T.astype(np.float64)
        likeness[picked, np.arange(len(picked))] = -1.0  # no query is its own neighbour
        self.usual = max(float(np.percentile(likeness.max(axis=1), UNUSUAL)), 0.0)
        return self

    def trust(self, x: Array) -> Array:
        """How much of each forecast to keep, (n,), 0..1."""
        if not self.landmarks.size or self.usual <= 0:
            return np.ones(len(x))
        rows = self.view(x)
        likeness = (rows.astype(np.float32) @ self.landmarks.T).max(axis=1).astype(np.float64)
        # Single precision is enough to see that a query is familiar, as most are.
        near = likeness < self.usual + 1e-4
        if near.any():
            likeness[near] = (rows[near] @ self.landmarks.T.astype(np.float64)).max(axis=1)
        return np.asarray((likeness / self.usual).clip(0.0, 1.0))

    def options(self) -> dict[str, Any]:
        return {"view": self.view.to_json(), "usual": self.usual}

    def arrays(self) -> dict[str, Any]:
        return {"landmarks": self.landmarks}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(View.from_json(options["view"]), float(options["usual"]), arrays["landmarks"])
