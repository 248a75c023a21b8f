"""What did each expert score on the most similar training queries?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from routewright.prediction.predictors import (
    NOTHING,
    Belief,
    View,
    deviations,
    folds,
    in_batches,
    view,
)
from routewright.types import Array

CANDIDATES = (15, 30, 60, 100, 150, 250)
BATCH = 128  # queries compared at once: bounds memory
SPARE = 16  # more candidates than needed, for those that single precision cannot tell apart


@dataclass
class Knn:
    """The mean score of the `k` nearest queries, weighted by nearness.

    Nearness is cosine over the blocks; weights fall to zero at the k-th neighbour
    (Epanechnikov). `k` None chooses among CANDIDATES, `domain` and `surface` None among a few
    weights of those blocks, by squared error on held-out folds.
    """

    k: PositiveInt | None = None
    domain: NonNegativeFloat | None = None
    surface: NonNegativeFloat = 0.02
    width: PositiveInt = 128  # columns of each text block
    view: View = NOTHING
    x: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    deviation: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        if self.k is None or self.domain is None:
            self.k, self.domain = self._tune(x, scores, blocks, seed)
        return self._remember(x, scores, blocks)

    def predict(self, x: Array) -> Belief:
        assert self.k is not None, "fit first"
        ks = (self.k,)
        return in_batches(lambda rows: self._about(rows, ks)[0], x, BATCH, len(self.mean))

    def options(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "domain": self.domain,
            "surface": self.surface,
            "width": self.width,
            "view": self.view.to_json(),
        }

    def arrays(self) -> dict[str, Any]:
        return {
            "x": self.x,
            "deviation": self.deviation.astype(np.float32),
            "mean": self.mean,
        }

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        chosen = {**options, "view": View.from_json(options["view"])}
        deviation = np.asarray(arrays["deviation"], np.float64)
        return cls(**chosen, x=arrays["x"], deviation=deviation, mean=arrays["mean"])

    def _remember(self, x: Array, scores: Array, blocks: Mapping[str, slice]) -> Self:
        assert self.domain is not None
        self.view = view(
            blocks, domain=self.domain, surface=self.surface, width=self.width, unit=True
        )
        # Rounded as they are stored, so that a loaded router repeats the fitted one exactly.
        self.x = _unit(self.view(x)).astype(np.float32)
        self.mean, deviation = deviations(scores)
        self.deviation = deviation.astype(np.float32).astype(np.float64)
        return self

    def _about(self, x: Array, ks: tuple[int, ...]) -> list[Belief]:
        """Beliefs for several k at the price of the largest."""
        k = max(1, min(max(ks), len(self.x) - 1))
        rows, nearness = self._nearest(_unit(self.view(x)), min(k + 1, len(self.x)))
        return [self._average(rows, 1 - nearness, min(each, k)) for each in ks]

    def _nearest(self, x: Array, count: int) -> tuple[Any, Array]:
        """The `count` nearest training rows and their cosines, nearest first, each (n, count)."""
        rough = x.astype(np.float32) @ self.x.T
        spare = min(count + SPARE, len(self.x))
        part = np.argpartition(rough, len(self.x) - spare, axis=1)[:, len(self.x) - spare :]
        # Single precision finds the candidates; their order and weights are worked out exactly,
        # so that how many queries come at once does not matter.
        part.sort(axis=1)
        exact = np.einsum("ij,icj->ic", x, self.x.take(part, axis=0).astype(np.float64))
        order = np.argsort(-exact, axis=1, kind="stable")[:, :count]
        order += np.arange(len(x))[:, None] * spare
        return part.take(order), exact.take(order)

    def _average(self, rows: Any, far: Array, k: int) -> Belief:
        edge = far[:, min(k, far.shape[1] - 1), None]
        weight = np.maximum(1 - (far[:, :k] / (edge + 1e-9)) ** 2, 1e-3)
        weight = weight / weight.sum(axis=1, keepdims=True)
        table = self.deviation.take(rows[:, :k], axis=0)  # (n, k, e)
        mean = (self.mean + np.einsum("ij,ije->ie", weight, table)).clip(0.0, 1.0)
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
    length = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return np.asarray(x / np.maximum(length, 1e-9))
