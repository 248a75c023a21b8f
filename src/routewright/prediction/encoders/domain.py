"""One column for each domain and tag of the training queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.prediction.stored import texts
from routewright.types import Array, Query

MIN_COUNT = 5  # queries that carry a label with a column


@dataclass
class Domain:
    """1 in the columns of the query's domain and tags; a query without known labels is all zeros.

    A label needs `min_count` training queries to get a column. Queries at the gateway seldom have a
    domain, so predictors must work without it.
    """

    labels: tuple[str, ...] = field(default=(), repr=False)

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"domain": slice(0, len(self.labels))}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        counts = Counter(label for query in queries for label in _labels(query))
        self.labels = tuple(sorted(k for k, n in counts.items() if n >= MIN_COUNT))
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        column = {label: i for i, label in enumerate(self.labels)}
        table = np.zeros((len(queries), len(self.labels)))
        for row, query in zip(table, queries, strict=True):
            row[[column[label] for label in _labels(query) if label in column]] = 1
        return table

    def options(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}

    def arrays(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(texts(options["labels"], "the labels of encoder 'domain'"))


def _labels(query: Query) -> set[str]:
    return {*query.tags, *([query.domain] if query.domain else [])}
