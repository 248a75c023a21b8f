"""From vectors to believed quality per expert: one file per predictor, found by its name.

A predictor is fitted on vectors (n, width) and scores (n, e) with NaN where unknown, and gives
the mean and the spread of its belief, both (n, e). An expert whose scores are all unknown has
mean and spread NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from routewright.types import Array


class Belief(NamedTuple):
    """Expected score in 0..1 and the standard deviation of our belief about it."""

    mean: Array
    spread: Array


class Predictor(Protocol):
    """Predicts each expert's score without running it."""

    def fit(
        self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0
    ) -> Self: ...

    def predict(self, x: Array) -> Belief: ...

    def options(self) -> dict[str, Any]: ...

    def arrays(self) -> dict[str, Any]: ...

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self: ...


def means(scores: Array) -> Array:
    """Mean known score per expert, NaN where there is none; (n, e) gives (e,)."""
    known = np.isfinite(scores)
    counts = known.sum(axis=0)
    sums = np.where(known, scores, 0.0).sum(axis=0)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def folds(n: int, k: int, seed: int, groups: tuple[str, ...] = ()) -> np.ndarray[Any, Any]:
    """A fold number 0..k-1 per row; rows of the same group stay together."""
    rng = np.random.default_rng(seed)
    if not groups:
        return rng.permutation(np.arange(n) % k)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    return np.asarray(rng.permutation(np.arange(count) % k)[member])
