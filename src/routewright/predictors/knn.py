"""What did each expert score on the most similar training queries?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.predictors import NOTHING, Belief, View, deviations, folds, view
from routewright.types import Array

CANDIDATES = (15, 30, 60, 100, 150, 250)
BATCH = 512  # queries compared at once: bounds memory to BATCH × training rows


@dataclass
class Knn:
    """The mean score of the `k` nearest queries, weighted by nearness.

    Nearness is cosine over the blocks; weights fall to zero at the k-th neighbour
    (Epanechnikov). `k` None chooses among CANDIDATES, `domain` and `surface` None among a few
    weights of those blocks, by squared error on held-out folds.
    """

    k: int | None = None
    domain: float | None = None
    surface: float = 0.02
    view: View = NOTHING
    x: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    deviation: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        if self.k is None or self.domain is None:
            self.k, self.domain = self._tune(x, scores, blocks, seed)
        return self._remember(x, scores, blocks)

    def predict(self, x: Array) -> Belief:
        assert self.k is not None, "fit first"
        parts = [self._about(x[i : i + BATCH], (self.k,)) for i in range(0, len(x), BATCH)]
        shape = (0, len(self.mean))
        mean = np.vstack([np.empty(shape), *(part[0].mean for part in parts)])
        spread = np.vstack([np.empty(shape), *(part[0].spread for part in parts)])
        return Belief(mean, spread)

    def options(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "domain": self.domain,
            "surface": self.surface,
            "view": self.view.to_json(),
        }

    def arrays(self) -> dict[str, Any]:
        return {
            "x": self.x.astype(np.float32),
            "deviation": self.deviation.astype(np.float32),
            "mean": self.mean,
        }

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        wide: dict[str, Any] = {k: np.asarray(v, np.float64) for k, v in arrays.items()}
        return cls(**{**options, "view": View.from_json(options["view"])}, **wide)

    def _remember(self, x: Array, scores: Array, blocks: Mapping[str, slice]) -> Self:
        assert self.domain is not None
        self.view = view(blocks, domain=self.domain, surface=self.surface, width=128, unit=True)
        # Rounded as they are stored, so that a loaded router repeats the fitted one exactly.
        self.x = _unit(self.view(x)).astype(np.float32).astype(np.float64)
        self.mean, deviation = deviations(scores)
        self.deviation = deviation.astype(np.float32).astype(np.float64)
        return self

    def _about(self, x: Array, ks: tuple[int, ...]) -> list[Belief]:
        """Beliefs for several k at the price of the largest."""
        k = min(max(ks), len(self.x) - 1) if len(self.x) > 1 else 1
        nearness = np.round(_unit(self.view(x)) @ self.x.T, 9)
        # Ties in order of the rows: how many queries come at once must not matter.
        nearness = nearness - np.arange(len(self.x)) * 1e-13
        part = np.argpartition(-nearness, min(k, len(self.x) - 1), axis=1)[:, : k + 1]
        close = np.take_along_axis(nearness, part, axis=1)
        order = np.argsort(-close, axis=1)
        rows = np.take_along_axis(part, order, axis=1)
        far = 1 - np.take_along_axis(close, order, axis=1)  # (n, k + 1), nearest first
        return [self._average(rows, far, min(each, k)) for each in ks]

    def _average(self, rows: Any, far: Array, k: int) -> Belief:
        edge = far[:, min(k, far.shape[1] - 1), None]
        weight = np.maximum(1 - (far[:, :k] / (edge + 1e-9)) ** 2, 1e-3)
        weight = weight / weight.sum(axis=1, keepdims=True)
        table = self.deviation[rows[:, :k]]  # (n, k, e)
        mean = np.clip(self.mean + np.einsum("ij,ije->ie", weight, table), 0.0, 1.0)
        count = 1 / (weight**2).sum(axis=1, keepdims=True)  # effective number of neighbours
        return Belief(mean, np.sqrt(np.maximum(mean * (1 - mean), 0.01) / count))

    def _tune(
        self, x: Array, scores: Array, blocks: Mapping[str, slice], seed: int
    ) -> tuple[int, float]:
        """The k and the weight of the domain with the least squared error over three folds."""
        ks = (self.k,) if self.k else tuple(k for k in CANDIDATES if k < len(x) / 2) or (5,)
        weights = (0.0, 0.5, 1.0) if self.domain is None else (self.domain,)
        fold = folds(len(x), 3, seed)
        errors: dict[tuple[int, float], float] = {}
        for weight in weights if "domain" in blocks else weights[:1]:
            total = np.zeros(len(ks))
            for held_out in range(3):
                inside, outside = fold != held_out, np.flatnonzero(fold == held_out)
                trial = Knn(1, weight, self.surface)._remember(x[inside], scores[inside], blocks)
                for i in range(0, len(outside), BATCH):
                    rows = outside[i : i + BATCH]
                    beliefs = trial._about(x[rows], ks)
                    total += [float(np.nansum((b.mean - scores[rows]) ** 2)) for b in beliefs]
            errors |= {(k, weight): error for k, error in zip(ks, total, strict=True)}
        return min(errors, key=lambda choice: errors[choice])


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9))
