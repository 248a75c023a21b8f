"""Predicts the cost of an answer for each expert and query, in US$.

Cost is fitted by ridge regression on the query's length and vector, for each expert. A good
prediction of cost is worth as much as a better prediction of quality, because an expensive expert
pays most on the queries that it answers cheaply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from routewright import metrics
from routewright.errors import BadRouter
from routewright.prediction.predictors import NOTHING, View, view
from routewright.prediction.stored import Arrays, number
from routewright.types import Array, Query

PENALTY = 10.0
LEAST_UNIT = 1e-9


@dataclass
class CostModel:
    """Expected US$ per answer: cost ≈ mean + w · (x − x̄).

    A prediction is never below the lowest recorded cost of the expert. It is zero for an expert
    without any recorded cost.
    """

    view: View = NOTHING
    unit: float = 1.0  # the number of input tokens that counts as 1 in the regression
    centre: Array = field(default_factory=lambda: np.empty(0))
    weights: Array = field(default_factory=lambda: np.empty((0, 0)))  # (width, e)
    mean: Array = field(default_factory=lambda: np.empty(0))
    floor: Array = field(default_factory=lambda: np.empty(0))
    joined: Array = field(default_factory=lambda: np.empty((0, 0)))  # (added experts, width)

    def fit(
        self, x: Array, blocks: Mapping[str, slice], queries: Sequence[Query], costs: Array
    ) -> Self:
        """Fits to vectors (n, width), n queries and costs (n, e) in US$, NaN where unknown."""
        self.view = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=64)
        self.unit = float(_tokens(queries).std()) / 10 + LEAST_UNIT
        columns = self._columns(x, queries)
        self.centre = columns.mean(axis=0)
        self.mean = metrics.mean(costs)
        self.weights = np.zeros((columns.shape[1], costs.shape[1]))
        mask = np.isfinite(costs)
        self.floor = np.where(mask, costs, np.inf).min(axis=0, initial=np.inf)
        self.floor[~np.isfinite(self.floor)] = 0.0
        for pattern in np.unique(mask, axis=1).T:  # experts with the same known rows
            experts = np.flatnonzero((mask == pattern[:, None]).all(axis=0))
            if pattern.sum() >= 10:
                rows = columns[pattern] - self.centre
                gram = rows.T @ rows + PENALTY * np.eye(rows.shape[1])
                targets = costs[np.ix_(pattern, experts)] - self.mean[experts]
                self.weights[:, experts] = np.linalg.solve(gram, rows.T @ targets)
        return self

    def predict(self, x: Array, queries: Sequence[Query]) -> Array:
        """Expected US$ (n, e) per query and expert; added experts come last."""
        columns = self._columns(x, queries) - self.centre
        # One product for each added expert: a wider one would round the others' costs differently.
        deviation = columns @ self.weights
        if len(self.joined):
            deviation = np.column_stack([deviation, *(columns @ w for w in self.joined)])
        mean = np.where(np.isfinite(self.mean), self.mean, 0.0)
        return np.asarray(np.maximum(mean + deviation, self.floor))

    def join(self, x: Array, queries: Sequence[Query], costs: Array) -> CostModel:
        """Returns a model with one more expert, from a few of its costs (n,) in US$ (or NaN).

        With g the mean relative cost of the other experts on a query, the new expert's cost is
        α + β g in units of its own mean. The fit is a ridge regression whose penalty (β − 1)²
        draws β to 1.
        """
        priced = np.nan_to_num(self.mean) > 0
        weights = np.column_stack([self.weights, self.joined.reshape(-1, len(self.weights)).T])
        common = (weights[:, priced] / self.mean[priced]).sum(axis=1) / max(priced.sum(), 1)
        mask = np.isfinite(costs)
        relative = ((self._columns(x, queries) - self.centre) @ common)[mask]
        share, slope, unit = 1.0, 1.0, float(metrics.mean(costs[:, None])[0])
        if unit > 0:
            a = np.column_stack([np.ones_like(relative), relative])
            gram = a.T @ a + np.diag([0.0, 1.0])
            share, slope = np.linalg.solve(gram, a.T @ costs[mask] / unit + [0.0, 1.0])
        joined = np.nan_to_num(unit * slope) * common
        return replace(
            self,
            mean=np.append(self.mean, share * unit),
            floor=np.append(self.floor, costs[mask].min(initial=np.inf) if mask.any() else 0.0),
            joined=np.vstack([self.joined.reshape(-1, len(common)), joined]),
        )

    def options(self) -> dict[str, Any]:
        return {"view": self.view.to_json(), "unit": self.unit}

    def arrays(self) -> dict[str, Any]:
        names = ("centre", "weights", "mean", "floor", "joined")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        view = View.from_json(options["view"])
        unit = number(options["unit"], "the unit of the costs", LEAST_UNIT)
        part = Arrays("the cost model", arrays)
        width = view.width + 1
        centre = part.take("centre", width)
        weights = part.take("weights", width, "experts")
        joined = part.take("joined", "added", "added width")
        if joined.size and joined.shape[1] != width:
            raise BadRouter("the cost model has an added expert of another width")
        count = part.size("experts") + (len(joined) if joined.size else 0)
        mean = part.take("mean", count, unknown=True)
        return cls(view, unit, centre, weights, mean, part.take("floor", count), joined)

    def _columns(self, x: Array, queries: Sequence[Query]) -> Array:
        return np.hstack([self.view(x), _tokens(queries)[:, None] / self.unit])


def _tokens(queries: Sequence[Query]) -> Array:
    return np.array([query.input_tokens for query in queries], dtype=np.float64)
