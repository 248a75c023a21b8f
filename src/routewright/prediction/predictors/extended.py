"""Adds an expert to another predictor, by a regression on the predictions of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.errors import BadRouter
from routewright.prediction.predictors import Belief, Predictor
from routewright.prediction.predictors.linear import Linear
from routewright.prediction.stored import Arrays, load, under
from routewright.registry import name_of
from routewright.types import Array


@dataclass
class Extended:
    """The base's beliefs, unchanged, and the belief about one added expert.

    The added expert's score ≈ w₀ + w · (predictions of the base − centre). This cannot show what
    only the added expert is good at; a new fit can. A further expert is added by wrapping this
    predictor. `fit` learns all experts anew; none of them is an added expert afterwards.
    The spread is the standard deviation of the sum under the weights' covariance.
    """

    base: Predictor = field(default_factory=Linear, repr=False)
    centre: Array = field(default_factory=lambda: np.empty(0))  # (e,)
    weights: Array = field(
        default_factory=lambda: np.empty(0)
    )  # (1 + e,); empty if no expert was added
    covariance: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)

    @property
    def reads_text(self) -> bool:
        return bool(getattr(self.base, "reads_text", False))

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.base = self.base.fit(x, scores, blocks=blocks, seed=seed)
        self.centre, self.weights, self.covariance = np.empty(0), np.empty(0), np.empty((0, 0))
        return self

    def predict(self, x: Array) -> Belief:
        return self.extend(self.base.predict(x))

    def extend(self, belief: Belief) -> Belief:
        """Beliefs about the base's experts (n, e) ▶ the same with the added expert's (n, e + 1)."""
        if not len(self.weights):
            return belief
        deviation = np.nan_to_num(belief.mean - self.centre)
        columns = np.column_stack([np.ones(len(deviation)), deviation])
        mean = np.clip(columns @ self.weights, 0.0, 1.0)
        spread = np.sqrt(np.einsum("ni,ij,nj->n", columns, self.covariance, columns))
        return Belief(
            np.column_stack([belief.mean, mean]), np.column_stack([belief.spread, spread])
        )

    def options(self) -> dict[str, Any]:
        name = name_of("predictors", self.base)
        return {"base": {"name": name, "options": self.base.options()}}

    def arrays(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("centre", "weights", "covariance")}
        return {**own, **{f"base.{k}": v for k, v in self.base.arrays().items()}}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        base = load("predictors", options["base"], under(arrays, "base."))
        part = Arrays("predictor 'extended'", arrays)
        centre = part.take("centre", "experts", unknown=True)
        weights = part.take("weights", "terms")
        if len(weights) != (1 + len(centre) if len(centre) else 0):
            raise BadRouter("predictor 'extended' needs one weight per expert, and one more")
        return cls(base, centre, weights, part.take("covariance", "terms", "terms"))
