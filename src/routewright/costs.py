"""What an answer will cost, per expert and query: the length of the input is known beforehand.

cost ≈ a_m + b_m · tokens(query) + the part that follows from the query's vector, fitted by
ridge regression per expert on the recorded costs (US$).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.predictors import means
from routewright.types import Array, Query


@dataclass
class CostModel:
    """Expected US$ per answer; zero where no cost was ever recorded (`known` says which)."""

    mean: Array = field(default_factory=lambda: np.empty(0))
    slope: Array = field(default_factory=lambda: np.empty(0))  # US$ per input token above mean
    tokens: float = 0.0  # mean input tokens of the training queries
    floor: Array = field(default_factory=lambda: np.empty(0))  # the least cost ever seen

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.mean).any())

    def fit(self, queries: Sequence[Query], costs: Array) -> Self:
        tokens = input_tokens(queries)
        self.tokens = float(tokens.mean())
        self.mean = means(costs)
        self.slope = np.zeros(costs.shape[1])
        self.floor = np.zeros(costs.shape[1])
        for m in range(costs.shape[1]):
            rows = np.isfinite(costs[:, m])
            if rows.sum() >= 10 and tokens[rows].std() > 0:
                centred = tokens[rows] - self.tokens
                self.slope[m] = max(0.0, float(centred @ costs[rows, m] / (centred @ centred)))
            if rows.any():
                self.floor[m] = costs[rows, m].min()
        return self

    def predict(self, queries: Sequence[Query]) -> Array:
        """US$ per query and expert, (n, e)."""
        tokens = input_tokens(queries)
        mean = np.nan_to_num(self.mean)
        return np.maximum(mean + (tokens - self.tokens)[:, None] * self.slope, self.floor)

    def arrays(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "slope": self.slope,
            "floor": self.floor,
            "tokens": np.array([self.tokens]),
        }

    @classmethod
    def load(cls, arrays: Mapping[str, Any]) -> Self:
        tokens = float(arrays["tokens"][0])
        return cls(arrays["mean"], arrays["slope"], tokens, arrays["floor"])


def input_tokens(queries: Sequence[Query]) -> Array:
    return np.array([query.input_tokens for query in queries], dtype=np.float64)
