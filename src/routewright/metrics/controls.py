"""Baselines that a useful router must beat: its own choices shuffled, and a table by domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routewright.metrics.curves import quality_at
from routewright.metrics.sampling import mean
from routewright.policies import choose, take
from routewright.types import Array, Indices, Prediction

PRIOR = 10.0  # rows of the overall mean that are added to each domain


def shuffled(table: Array, asked: Array, weights: Array | None = None) -> Array:
    """The mean of `table` (score or cost) if the same choices went to random rows.

    This is the exact mean over all permutations: every expert keeps its share of the rows and is
    measured on all of them. `table` is (n, e); `asked` (k, n, e) says how often k operating points
    ask each expert about each row, which adds up to 1 for a row. Returns (k,), or one row per
    bootstrap replicate, (b, k), if `weights` (b, n) are given.
    """
    draws = np.ones((1, len(table))) if weights is None else weights
    means = np.zeros((len(draws), len(asked)))
    for m, column in enumerate(mean(table, draws).T):
        share = mean(asked[:, :, m].T, draws)  # (b, k)
        means += np.where(share > 0, share * column[:, None], 0.0)
    return means if weights is not None else means[0]


def over_shuffled(score: Array, cost: Array, choices: Indices) -> Array:
    """Gain in quality over the shuffled control at equal cost, per operating point (k,).

    Shuffling changes the cost, for example if expensive experts were asked the short queries.
    The control's quality is therefore taken at the router's own cost, on straight lines between
    the control's points.
    """
    asked = (choices[:, :, None] == np.arange(score.shape[1])).astype(np.float64)
    control_cost, control_quality = shuffled(cost, asked), shuffled(score, asked)
    points = [
        (float(mean(take(cost, choice))), float(mean(take(score, choice)))) for choice in choices
    ]
    return np.array([q - quality_at(control_cost, control_quality, c) for c, q in points])


def domain_means(
    table: Array,
    domains: Sequence[str | None],
    requested: Sequence[str | None],
    prior: float = PRIOR,
) -> Array:
    """Each expert's mean in each requested domain, (requested, e), from `table` (n, e).

    `domains` (n,) are the domains of the rows. Each mean is shrunk towards the expert's overall
    mean, as if `prior` more rows had shown it. A domain without rows gets the overall mean.
    """
    overall = mean(table)
    names = np.array([str(domain) for domain in domains])
    rows = {name: _shrunk(table[names == name], overall, prior) for name in np.unique(names)}
    return np.array([rows.get(str(domain), overall) for domain in requested])


def _shrunk(table: Array, overall: Array, prior: float) -> Array:
    finite = np.isfinite(table)
    total = np.where(finite, table, 0.0).sum(axis=0) + prior * overall
    count = finite.sum(axis=0) + prior
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1e-300), overall))


def domain_table(
    score: Array,
    cost: Array,
    domains: Sequence[str | None],
    requested: Sequence[str | None],
    price: float = 0.0,
    prior: float = PRIOR,
) -> Indices:
    """The choices of a router that knows only the domain of a query, (requested,).

    It takes the argmax of mean score − λ · mean cost within the domain; λ (`price`) is in quality
    per US$. This baseline is hard to beat. Fit it on other rows (`score`, `cost`, `domains`) than
    those it is measured on.
    """
    quality = np.nan_to_num(domain_means(score, domains, requested, prior), nan=-1.0)
    dollars = np.nan_to_num(domain_means(cost, domains, requested, prior))
    nan = np.full_like(quality, np.nan)
    names = tuple(str(m) for m in range(score.shape[1]))
    return choose(Prediction(names, quality, nan, dollars, nan), price)
