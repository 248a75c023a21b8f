"""The experts of a pool, foretold by a predictor that learnt from others' scores too."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np

from routewright.prediction.predictors import Belief, Folds, Predictor, fit_held_out
from routewright.prediction.predictors.linear import Linear
from routewright.registry import find, name_of
from routewright.types import Array


@dataclass
class Pool:
    """The base's beliefs about its first experts; what others find hard has taught it.

    `size` is how many experts the pool has (0: all that the base knows). `assumed` is the
    quality taken for granted of those that were never scored, NaN for the others; a spread of 0
    goes with it. `fit` takes the pool's scores and then those of the others, column by column.
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
        """Fits; also gives beliefs about each row's pool, (n, size), without its own fold."""
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
        base = options["base"]
        inner = {k.removeprefix("base."): v for k, v in arrays.items() if k.startswith("base.")}
        loaded = find("predictors", base["name"]).load(base["options"], inner)
        return cls(loaded, int(options["size"]), arrays["assumed"])

    def _narrow(self, belief: Belief) -> Belief:
        mean, spread = (table[:, : self.size or None] for table in belief)
        if not self.assumed.size:
            return Belief(mean, spread)
        learnt = np.isnan(self.assumed)
        return Belief(np.where(learnt, mean, self.assumed), np.where(learnt, spread, 0.0))
