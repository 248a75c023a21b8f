"""Predicts the mean score of each expert on the most similar training queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from routewright.errors import BadRouter
from routewright.prediction.predictors import (
    NOTHING,
    Belief,
    View,
    deviations,
    folds,
    in_batches,
    view,
)
from routewright.prediction.stored import Arrays
from routewright.types import Array

CANDIDATES = (15, 30, 60, 100, 150, 250)
BATCH = 128  # queries compared at a time, which bounds memory
SPARE = 16  # extra candidates, because single precision cannot separate close ones


@dataclass
class Knn:
    """The mean score of the `k` nearest queries, weighted by similarity.

    Similarity is the cosine over the blocks, with the weights `domain` and `surface` of those
    blocks; the weight of a neighbour falls to zero at the k-th one (Epanechnikov). A `k` or
    `domain` of None is chosen by squared error on held-out folds.
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
        return self._store(x, scores, blocks)

    def predict(self, x: Array) -> Belief:
        assert self.k is not None, "fit first"
        ks = (self.k,)
        return in_batches(lambda rows: self._beliefs(rows, ks)[0], x, BATCH, len(self.mean))

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
        view = View.from_json(options["view"])
        part = Arrays("predictor 'knn'", arrays)
        x = part.take("x", "rows", view.width)
        deviation = part.take("deviation", "rows", "experts").astype(np.float64)
        mean = part.take("mean", "experts", unknown=True)
        if not len(x) or options["k"] is None:
            raise BadRouter("predictor 'knn' has no rows, or no k")
        return cls(**{**options, "view": view}, x=x, deviation=deviation, mean=mean)

    def _store(self, x: Array, scores: Array, blocks: Mapping[str, slice]) -> Self:
        assert self.domain is not None
        self.view = view(
            blocks, domain=self.domain, surface=self.surface, width=self.width, unit=True
        )
        # Round to the stored precision, so that a loaded router repeats the fitted one exactly.
        self.x = _unit(self.view(x)).astype(np.float32)
        self.mean, deviation = deviations(scores)
        self.deviation = deviation.astype(np.float32).astype(np.float64)
        return self

    def _beliefs(self, x: Array, ks: tuple[int, ...]) -> list[Belief]:
        """Beliefs for several k, from one search for the largest."""
        k = max(1, min(max(ks), len(self.x) - 1))
        rows, cosines = self._nearest(_unit(self.view(x)), min(k + 1, len(self.x)))
        return [self._average(rows, 1 - cosines, min(each, k)) for each in ks]

    def _nearest(self, x: Array, count: int) -> tuple[Any, Array]:
        """The `count` nearest training rows and their cosines, each (n, count), nearest first."""
        approximate = x.astype(np.float32) @ self.x.T
        spare = min(count + SPARE, len(self.x))
        part = np.argpartition(approximate, len(self.x) - spare, axis=1)[:, len(self.x) - spare :]
        # Single precision finds the candidates. Their order and weights are computed in double
        # precision, so that the result does not depend on the size of the batch.
        part.sort(axis=1)
        exact = np.einsum("ij,icj->ic", x, self.x.take(part, axis=0).astype(np.float64))
        order = np.argsort(-exact, axis=1, kind="stable")[:, :count]
        order += np.arange(len(x))[:, None] * spare
        return part.take(order), exact.take(order)

    def _average(self, rows: Any, distance: Array, k: int) -> Belief:
        edge = distance[:, min(k, distance.shape[1] - 1), None]
        weight = np.maximum(1 - (distance[:, :k] / (edge + 1e-9)) ** 2, 1e-3)
        weight = weight / weight.sum(axis=1, keepdims=True)
        table = self.deviation.take(rows[:, :k], axis=0)  # (n, k, e)
        mean = (self.mean + np.einsum("ij,ije->ie", weight, table)).clip(0.0, 1.0)
        count = 1 / (weight**2).sum(axis=1, keepdims=True)  # effective number of neighbours
        return Belief(mean, np.sqrt(np.maximum(mean * (1 - mean), 0.01) / count))

    def _tune(
        self, x: Array, scores: Array, blocks: Mapping[str, slice], seed: int
    ) -> tuple[int, float]:
        """The k and the weight of the domain block with the least squared error on three folds."""
        ks = (self.k,) if self.k else tuple(k for k in CANDIDATES if k < len(x) / 2) or (5,)
        weights = (0.0, 0.5, 1.0) if self.domain is None else (self.domain,)
        fold = folds(len(x), 3, seed)
        errors: dict[tuple[int, float], float] = {}
        for weight in weights if "domain" in blocks else weights[:1]:
            total = np.zeros(len(ks))
            for held_out in range(3):
                train, test = fold != held_out, np.flatnonzero(fold == held_out)
                trial = Knn(1, weight, self.surface)._store(x[train], scores[train], blocks)
                for i in range(0, len(test), BATCH):
                    rows = test[i : i + BATCH]
                    beliefs = trial._beliefs(x[rows], ks)
                    total += [float(np.nansum((b.mean - scores[rows]) ** 2)) for b in beliefs]
            errors |= {(k, weight): error for k, error in zip(ks, total, strict=True)}
        return min(errors, key=lambda choice: errors[choice])


def _unit(x: Array) -> Array:
    length = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return np.asarray(x / np.maximum(length, 1e-9))
