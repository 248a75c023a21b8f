"""Extremely randomised trees over vector, surface features and domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from pydantic import PositiveInt

from routewright.prediction.forest import BATCH, Forest
from routewright.prediction.predictors import (
    NOTHING,
    Belief,
    View,
    components,
    deviations,
    in_batches,
    view,
)
from routewright.prediction.stored import Arrays
from routewright.types import Array


@dataclass
class Trees:
    """One forest for the experts' level and all differences between them (Geurts et al. 2006).

    scikit-learn grows it; the trees are stored as arrays and walked with NumPy.
    """

    trees: PositiveInt = 80
    leaf: PositiveInt = 8  # training queries in a leaf, at least
    width: PositiveInt = 48
    view: View = NOTHING
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)
    forest: Forest = field(default_factory=Forest, repr=False)  # of the differences from the mean

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.view = view(blocks, width=self.width)
        self.mean, deviation = deviations(scores)
        basis = components(deviation)
        self.forest = Forest.grow(
            self.view(x),
            deviation @ basis,
            trees=self.trees,
            leaf=self.leaf,
            share=0.3,
            seed=seed,
            back=basis.T,
        )
        return self

    def predict(self, x: Array) -> Belief:
        return in_batches(self._believe, x, BATCH, len(self.mean))

    def options(self) -> dict[str, Any]:
        return {
            "trees": self.trees,
            "leaf": self.leaf,
            "width": self.width,
            "view": self.view.to_json(),
            "depth": int(self.forest.depth),
        }

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, **self.forest.nodes}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        chosen = {name: value for name, value in options.items() if name != "depth"}
        chosen["view"] = View.from_json(options["view"])
        mean = Arrays("predictor 'trees'", arrays).take("mean", "experts", unknown=True)
        forest = Forest.load(options["depth"], arrays, chosen["view"].width, len(mean))
        return cls(**chosen, mean=mean, forest=forest)

    def _believe(self, x: Array) -> Belief:
        told = self.forest.leaves(self.view(x)).astype(np.float64)  # (n, trees, e)
        centre = told.mean(axis=1)
        error = np.sqrt(((told - centre[:, None]) ** 2).mean(axis=1) / told.shape[1])
        mean = (self.mean + centre).clip(0.0, 1.0)
        return Belief(mean, np.where(np.isfinite(self.mean), error, np.nan))
