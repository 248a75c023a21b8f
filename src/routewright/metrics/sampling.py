"""Computes means that leave out unknown values, and bootstrap intervals of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routewright.types import Array

LEAST_EXPERTS = 4  # whose means are drawn together
POINTWISE = 1.96  # standard errors of an interval that holds for one mean with 95 % confidence


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


def wilson(share: Array, n: Array) -> tuple[Array, Array]:
    """The ends of the 95 % interval of shares of n rows each, below and above.

    Wilson (1927): unlike the normal interval it has a width even if all rows agree.
    """
    z = POINTWISE
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    width = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(middle - width, 0.0), np.minimum(middle + width, 1.0)


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


def influence(table: Array) -> Array:
    """What each row adds to the means of a table (n, ...), less those means; 0 where unknown."""
    finite = np.isfinite(table)
    share = np.maximum(finite.mean(axis=0), 1e-300)
    return np.asarray(np.where(finite, table - mean(table), 0.0) / share)


def by_group(influences: Array, groups: Sequence[str | None] = ()) -> Array:
    """The sums of the rows of each group, (g, k), of influences (n, k); without groups, each row is
    one."""
    names = [str(group) for group in groups] if len(groups) else list(range(len(influences)))
    places, member = np.unique(names, return_inverse=True)
    sums = np.zeros((len(places), influences.shape[1]))
    np.add.at(sums, member, influences)
    return sums


def shrunk(scores: Array, costs: Array) -> Array:
    """Mean scores (e,) of experts, drawn towards their regression on the logarithm of `costs` (e,)
    as far as chance explains their distance from it (empirical Bayes; Efron and Morris 1975).

    The best mean of several is too high. Scores (n, e) are compared within rows, so that easy rows
    do not count as chance. Fewer than four experts say nothing of their spread, and keep their
    means.
    """
    means = mean(scores)
    use = np.isfinite(means)
    if use.sum() < LEAST_EXPERTS:
        return means
    known = np.where(use & np.isfinite(costs) & (costs > 0), costs, np.nan)
    level = np.log(known[use]) if np.isfinite(known[use]).all() else np.zeros(use.sum())
    _, same = np.unique(np.nan_to_num(scores[:, use], nan=-1.0), axis=1, return_inverse=True)
    same = same.ravel()
    level = np.array([level[same == one].min() for one in same])  # equal scores, equal means
    x = np.column_stack([np.ones(use.sum()), level - level.mean()])
    x = x if np.ptp(level) > 0 else x[:, :1]
    line = x @ np.linalg.lstsq(x, means[use], rcond=None)[0]
    distance = means[use] - line
    within = scores[:, use] - np.nan_to_num(mean(scores[:, use].T))[:, None]
    count = np.isfinite(within).sum(axis=0)
    chance = mean((within - mean(within)) ** 2) / np.maximum(count, 1)
    spread = max(0.0, (distance**2).sum() / (use.sum() - x.shape[1]) - chance.mean())
    result = means.copy()
    result[use] = line + distance * spread / np.maximum(spread + chance, 1e-300)
    return np.asarray(np.clip(result, 0.0, 1.0))


def margins(
    influences: Array,
    groups: Sequence[str | None] = (),
    *,
    replicates: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Array:
    """Margins of k means of values between −1 and 1, (k,), given their `influences` (n, k).

    All k means together are above (mean − margin) with probability `level`, and each one alone
    is within its margin at least as often. Rows of a group count as one. A group with a value of 1
    and one with −1 are added: where few rows differ from 0, failures that none of them shows are
    possible all the same (as Bonett and Price 2012 do for paired shares). The factor of the
    standard errors is a quantile of the largest studentised mean when the groups' signs are drawn
    at random (multiplier bootstrap; Chernozhukov, Chetverikov and Kato 2013).
    """
    sums = by_group(influences, groups)
    size = len(influences) / len(sums)
    sums = np.pad(sums, ((0, 2), (0, 0)))
    sums[-2:] = [[size], [-size]]
    errors = np.sqrt((sums**2).sum(axis=0))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(replicates, len(sums)))
    largest = ((signs @ sums) / errors).max(axis=1)
    factor = max(POINTWISE, float(np.quantile(largest, level)))
    return np.asarray(factor * errors / len(influences))
