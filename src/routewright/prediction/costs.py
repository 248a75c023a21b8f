"""What an answer will cost, per expert and query: the length of the input is known beforehand.

Cost is fitted by ridge regression on the query's length and vector, per expert, in US$. It is
worth as much as a better forecast of quality: a dear expert is best asked where it is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from routewright import metrics
from routewright.prediction.predictors import NOTHING, View, view
from routewright.types import Array, Query

PENALTY = 10.0


@dataclass
class CostModel:
    """Expected US$ per answer; zero where no cost was ever recorded.

    cost ≈ mean + w · (x − x̄), never below the least cost that was seen.
    """

    view: View = NOTHING
    unit: float = 1.0  # input tokens that weigh as much as one column
    centre: Array = field(default_factory=lambda: np.empty(0))
    weights: Array = field(default_factory=lambda: np.empty((0, 0)))  # (width, e)
    mean: Array = field(default_factory=lambda: np.empty(0))
    floor: Array = field(default_factory=lambda: np.empty(0))
    joined: Array = field(default_factory=lambda: np.empty((0, 0)))  # (newcomers, width)

    def fit(
        self, x: Array, blocks: Mapping[str, slice], queries: Sequence[Query], costs: Array
    ) -> Self:
        self.view = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=64)
        self.unit = float(_tokens(queries).std()) / 10 + 1e-9
        columns = self._columns(x, queries)
        self.centre = columns.mean(axis=0)
        self.mean = metrics.mean(costs)
        self.weights = np.zeros((columns.shape[1], costs.shape[1]))
        known = np.isfinite(costs)
        self.floor = np.where(known, costs, np.inf).min(axis=0, initial=np.inf)
        self.floor[~np.isfinite(self.floor)] = 0.0
        for pattern in np.unique(known, axis=1).T:
            experts = np.flatnonzero((known == pattern[:, None]).all(axis=0))
            if pattern.sum() >= 10:
                rows = columns[pattern] - self.centre
                gram = rows.T @ rows + PENALTY * np.eye(rows.shape[1])
                targets = costs[np.ix_(pattern, experts)] - self.mean[experts]
                self.weights[:, experts] = np.linalg.solve(gram, rows.T @ targets)
        return self

    def predict(self, x: Array, queries: Sequence[Query]) -> Array:
        """US$ per query and expert, (n, e); newcomers come last."""
        columns = self._columns(x, queries) - self.centre
        # One product each: a wider one would round the old experts' costs differently.
        moved = columns @ self.weights
        if len(self.joined):
            moved = np.column_stack([moved, *(columns @ w for w in self.joined)])
        mean = np.where(np.isfinite(self.mean), self.mean, 0.0)
        return np.asarray(np.maximum(mean + moved, self.floor))

    def join(self, x: Array, queries: Sequence[Query], costs: Array) -> CostModel:
        """One more expert, from a few of its costs (US$, NaN unknown).

        Its costs follow the mean relative cost of the others, α + β g in shares of its own
        mean, with a prior of α = β = 1 worth one answer that is off by all of g.
        """
        priced = np.nan_to_num(self.mean) > 0
        weights = np.column_stack([self.weights, self.joined.reshape(-1, len(self.weights)).T])
        common = (weights[:, priced] / self.mean[priced]).sum(axis=1) / max(priced.sum(), 1)
        known = np.isfinite(costs)
        relative = ((self._columns(x, queries) - self.centre) @ common)[known]
        share, slope, unit = 1.0, 1.0, float(metrics.mean(costs[:, None])[0])
        if unit > 0:
            a = np.column_stack([np.ones_like(relative), relative])
            gram = a.T @ a + np.diag([0.0, 1.0])
            share, slope = np.linalg.solve(gram, a.T @ costs[known] / unit + [0.0, 1.0])
        joined = np.nan_to_num(unit * slope) * common
        return replace(
            self,
            mean=np.append(self.mean, share * unit),
            floor=np.append(self.floor, costs[known].min(initial=np.inf) if known.any() else 0.0),
            joined=np.vstack([self.joined.reshape(-1, len(common)), joined]),
        )

    def options(self) -> dict[str, Any]:
        return {"view": self.view.to_json(), "unit": self.unit}

    def arrays(self) -> dict[str, Any]:
        names = ("centre", "weights", "mean", "floor", "joined")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(View.from_json(options["view"]), float(options["unit"]), **arrays)

    def _columns(self, x: Array, queries: Sequence[Query]) -> Array:
        return np.hstack([self.view(x), _tokens(queries)[:, None] / self.unit])


def _tokens(queries: Sequence[Query]) -> Array:
    return np.array([query.input_tokens for query in queries], dtype=np.float64)
