"""How similar is a query to the training queries? Far away from them, a router uses the means.

A prediction for a text unlike every training query is an extrapolation. The similarity of the text
to the nearest of a sample of training queries decides how much of the prediction is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright.errors import BadRouter
from routewright.prediction.predictors import NOTHING, View, view
from routewright.prediction.stored import Arrays, number
from routewright.types import Array

LANDMARKS = 1000
UNUSUAL = 0.5  # percentage of the training queries that count as unusual


@dataclass
class Novelty:
    """The familiarity of queries: 1 near the training queries, falling to 0 far away from them.

    The similarity of a query is the largest product of its vector, in the text blocks, with the
    direction of a training query. A text of unknown n-grams has a short vector and therefore a low
    similarity. `usual` is the similarity that all but 0.5 % of the training queries exceed.
    """

    view: View = NOTHING
    usual: float = 0.0
    landmarks: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), repr=False
    )

    def fit(self, x: Array, blocks: Mapping[str, slice], *, seed: int = 0) -> Self:
        """Takes a sample of the vectors (n, width) as landmarks."""
        text = {name: block for name, block in blocks.items() if name not in ("domain", "surface")}
        self.view = view(text, width=128)
        rows = self.view(x)
        rng = np.random.default_rng(seed)
        sample = rng.choice(len(rows), min(LANDMARKS, len(rows)), replace=False)
        length = np.linalg.norm(rows[sample], axis=1, keepdims=True)
        directions = rows[sample] / np.maximum(length, 1e-9)
        self.landmarks = directions.astype(np.float32)
        similarity = rows @ self.landmarks.T.astype(np.float64)
        similarity[sample, np.arange(len(sample))] = -1.0  # no query is its own neighbour
        self.usual = max(float(np.percentile(similarity.max(axis=1), UNUSUAL)), 0.0)
        return self

    def trust(self, x: Array) -> Array:
        """The familiarity (n,) of each query, 0..1: the share of its prediction to use."""
        if not self.landmarks.size or self.usual <= 0:
            return np.ones(len(x))
        rows = self.view(x)
        similarity = (rows.astype(np.float32) @ self.landmarks.T).max(axis=1).astype(np.float64)
        # Single precision suffices for most queries, which are clearly familiar.
        unclear = similarity < self.usual + 1e-4
        if unclear.any():
            similarity[unclear] = (rows[unclear] @ self.landmarks.T.astype(np.float64)).max(axis=1)
        return np.asarray((similarity / self.usual).clip(0.0, 1.0))

    def options(self) -> dict[str, Any]:
        return {"view": self.view.to_json(), "usual": self.usual}

    def arrays(self) -> dict[str, Any]:
        return {"landmarks": self.landmarks}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        view = View.from_json(options["view"])
        usual = number(options["usual"], "the usual similarity", 0.0)
        landmarks = Arrays("the novelty", arrays).take("landmarks", "landmarks", "columns")
        if landmarks.size and landmarks.shape[1] != view.width:
            raise BadRouter("the novelty has landmarks of another width than its view")
        return cls(view, usual, landmarks)
