"""Computes means that leave out unknown values, and bootstrap intervals of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routewright.types import Array


def mean(table: Array, weights: Array | None = None) -> Array:
    """Mean over rows that leaves out NaN; NaN where no row has a value.

    A table (n, ...) gives (...). With `weights` (b, n), a table (n, k) gives one mean per
    replicate, (b, k).
    """
    finite = np.isfinite(table)
    filled = np.where(finite, table, 0.0)
    if weights is None:
        total, count = filled.sum(axis=0), finite.sum(axis=0)
    else:
        total, count = weights @ filled, weights @ finite.astype(np.float64)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1e-300), np.nan))


def resample(
    n: int, replicates: int = 1000, seed: int = 0, groups: Sequence[str | None] = ()
) -> Array:
    """Bootstrap weights (b, n): how often each row is drawn in each replicate.

    With `groups` (n,), whole groups are drawn, because rows of one source are not independent.
    """
    rng = np.random.default_rng(seed)
    if not len(groups):
        return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float64)
    _, member = np.unique([str(group) for group in groups], return_inverse=True)
    count = int(member.max()) + 1
    draws = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return np.asarray(draws[:, member], dtype=np.float64)


def interval(replicates: Array, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap replicates (b,); NaN if none is finite."""
    if not np.isfinite(replicates).any():
        return float("nan"), float("nan")
    tail = (1 - level) / 2 * 100
    low, high = np.nanpercentile(replicates, [tail, 100 - tail])
    return float(low), float(high)
