"""What did each expert score on the most similar training queries?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.predictors import Belief, folds, means
from routewright.types import Array

CANDIDATES = (10, 20, 40, 80, 160)
BATCH = 512  # queries compared at once: bounds memory to BATCH × training rows


@dataclass
class Knn:
    """The mean score of the `k` nearest queries, drawn towards each expert's mean.

    `k` None chooses among CANDIDATES by squared error on held-out folds. Distance is Euclidean
    over the encoder's blocks with each block scaled to the same mean length. `pull` counts as
    that many neighbours with the expert's mean score.
    """

    k: int | None = None
    pull: float = 5.0
    scale: Array = field(default_factory=lambda: np.empty(0), repr=False)
    x: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    scores: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.scale = _equal_blocks(x, blocks)
        self._remember(x, scores)
        if self.k is None:
            self.k = self._tune(x, scores, seed)
        return self

    def predict(self, x: Array) -> Belief:
        assert self.k is not None, "fit first"
        mean = np.empty((len(x), len(self.mean)))
        spread = np.empty_like(mean)
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            near = self._nearest(x[rows], self.k)
            mean[rows], spread[rows] = self._average(near)
        return Belief(mean, spread)

    def options(self) -> dict[str, Any]:
        return {"k": self.k, "pull": self.pull}

    def arrays(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "x": self.x.astype(np.float32),
            "scores": self.scores.astype(np.float32),
            "mean": self.mean,
        }

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(**options, **arrays)

    def _remember(self, x: Array, scores: Array) -> None:
        # Rounded as they are stored, so that a loaded router repeats the fitted one exactly.
        self.x = (x * self.scale).astype(np.float32)
        self.scores = scores.astype(np.float32)
        self.mean = means(scores)

    def _nearest(self, x: Array, k: int) -> Any:
        """Indices of the k nearest training rows, (n, k), nearest first."""
        scaled = (x * self.scale).astype(np.float32)
        squares = np.einsum("ij,ij->i", self.x, self.x)
        # Row by row: a product of one row must equal the same row of a larger product.
        distance = np.stack([squares - 2 * (self.x @ row) for row in scaled])
        k = min(k, len(self.x))
        part = np.argpartition(distance, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distance, part, axis=1), axis=1, kind="stable")
        return np.take_along_axis(part, order, axis=1)

    def _average(self, near: Any) -> Belief:
        scores = self.scores[near].astype(np.float64)  # (n, k, e)
        known = np.isfinite(scores)
        count = known.sum(axis=1) + self.pull
        total = np.where(known, scores, 0.0).sum(axis=1) + self.pull * self.mean
        mean = total / count
        variance = np.clip(mean * (1 - mean), 0.01, None)
        return Belief(mean, np.sqrt(variance / count))

    def _tune(self, x: Array, scores: Array, seed: int) -> int:
        """The candidate with the least squared error over three folds."""
        fold = folds(len(x), 3, seed)
        errors = dict.fromkeys((k for k in CANDIDATES if k < len(x)), 0.0)
        for held_out in range(3) if errors else ():
            inside, outside = fold != held_out, fold == held_out
            trial = Knn(1, self.pull, self.scale)
            trial._remember(x[inside], scores[inside])
            for start in range(0, int(outside.sum()), BATCH):
                rows = np.flatnonzero(outside)[start : start + BATCH]
                near = trial._nearest(x[rows], max(errors))
                for k in errors:
                    miss = trial._average(near[:, :k]).mean - scores[rows]
                    errors[k] += float(np.nansum(miss**2))
        return min(errors, key=lambda k: errors[k]) if errors else len(x)


def _equal_blocks(x: Array, blocks: Mapping[str, slice]) -> Array:
    """A factor per column that gives every block a mean row length of one."""
    scale = np.ones(x.shape[1])
    for block in blocks.values():
        length = float(np.linalg.norm(x[:, block], axis=1).mean()) if len(x) else 0.0
        scale[block] = 1 / length if length > 0 else 0.0
    return scale
