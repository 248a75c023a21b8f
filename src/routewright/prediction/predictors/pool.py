"""Predicts the experts of a pool with a base that also learns from other experts' scores."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np

from routewright.prediction.predictors import Belief, Folds, Predictor, fit_held_out
from routewright.prediction.predictors.linear import Linear
from routewright.prediction.stored import WIDEST, Arrays, load, under, whole
from routewright.registry import name_of
from routewright.types import Array


@dataclass
class Pool:
    """The base's beliefs about its first experts, which are the pool.

    The scores of the auxiliary experts help the base to learn which queries are hard. `size` is the
    number of experts in the pool (0: all experts of the base). `assumed` is the quality that is
    assumed of experts without any score, with a spread of 0; it is NaN for the others. `fit` takes
    scores (n, e) with the pool's columns first.
    """

    base: Predictor = field(default_factory=Linear, repr=False)
    size: int = field(default=0, repr=False)
    assumed: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (size,)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.base = self.base.fit(x, scores, blocks=blocks, seed=seed)
        return self

    def fit_held_out(
        self, x: Array, scores: Array, *, blocks: Mapping[str, slice], fold: Folds, seed: int = 0
    ) -> Belief:
        """Fits; also returns beliefs (n, size) about each row from a fit without its fold."""
        make = partial(deepcopy, self.base)
        self.base, belief = fit_held_out(make, x, scores, blocks=blocks, fold=fold, seed=seed)
        return self._narrow(belief)

    def predict(self, x: Array) -> Belief:
        return self._narrow(self.base.predict(x))

    def options(self) -> dict[str, Any]:
        name = name_of("predictors", self.base)
        return {"base": {"name": name, "options": self.base.options()}, "size": self.size}

    def arrays(self) -> dict[str, Any]:
        return {"assumed": self.assumed, **{f"base.{k}": v for k, v in self.base.arrays().items()}}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        base = load("predictors", options["base"], under(arrays, "base."))
        size = whole(options["size"], "the size of predictor 'pool'", 0, WIDEST)
        assumed = Arrays("predictor 'pool'", arrays).take("assumed", "experts", unknown=True)
        return cls(base, size, assumed)

    def _narrow(self, belief: Belief) -> Belief:
        mean, spread = (table[:, : self.size or None] for table in belief)
        if not self.assumed.size:
            return Belief(mean, spread)
        scored = np.isnan(self.assumed)
        return Belief(np.where(scored, mean, self.assumed), np.where(scored, spread, 0.0))
