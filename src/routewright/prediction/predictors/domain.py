"""Predicts the mean score of each expert in the query's domain, shrunk to its overall mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from pydantic import NonNegativeFloat

from routewright.prediction.predictors import Belief, deviations
from routewright.prediction.stored import WIDEST, Arrays, whole
from routewright.types import Array


@dataclass
class Domain:
    """The mean score of each expert in a domain; the overall mean for an unknown domain.

    `pull` is the strength of the shrinkage: a domain counts as if it had that many more queries
    with the expert's overall mean. It is a strong baseline, because the domain often predicts as
    much as an embedding.
    """

    pull: NonNegativeFloat = 20.0
    columns: tuple[int, int] = field(default=(0, 0), repr=False)
    table: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)  # (labels, e)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)
    error: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        block = blocks.get("domain", slice(0, 0))
        self.columns = (block.start, block.stop)
        labels = x[:, block]
        self.mean, deviation = deviations(scores)
        count = labels.sum(axis=0)[:, None] + self.pull
        self.table = labels.T @ deviation / count
        variance = (deviation**2).mean(axis=0)
        self.error = np.sqrt(np.vstack([variance / count, variance / (len(x) + 1.0)]))
        return self

    def predict(self, x: Array) -> Belief:
        labels = x[:, slice(*self.columns)]
        share = labels / np.maximum(labels.sum(axis=1, keepdims=True), 1.0)
        mean = (self.mean + share @ self.table).clip(0.0, 1.0)
        unlabelled = 1 - share.sum(axis=1, keepdims=True)
        spread = share @ self.error[:-1] + unlabelled * self.error[-1]
        return Belief(mean, np.where(np.isfinite(self.mean), spread, np.nan))

    def options(self) -> dict[str, Any]:
        return {"pull": self.pull, "columns": list(self.columns)}

    def arrays(self) -> dict[str, Any]:
        return {"table": self.table, "mean": self.mean, "error": self.error}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        start, stop = options["columns"]
        start = whole(start, "the first column of predictor 'domain'", 0, WIDEST)
        stop = whole(stop, "the last column of predictor 'domain'", start, WIDEST)
        part = Arrays("predictor 'domain'", arrays)
        mean = part.take("mean", "experts", unknown=True)
        table = part.take("table", stop - start, "experts")
        error = part.take("error", stop - start + 1, "experts", unknown=True)
        return cls(options["pull"], (start, stop), table, mean, error)
