"""What a router must beat to have shown anything: its own choices shuffled, and a plain table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routewright.metrics.curves import quality_at
from routewright.metrics.sampling import mean
from routewright.policies import choose, take
from routewright.types import Array, Indices, Prediction

PRIOR = 10.0  # rows that a domain's mean is drawn towards the overall mean with


def shuffled(table: Array, asked: Array, weights: Array | None = None) -> Array:
    """The mean of `table` (score or cost) had the choices been dealt to the rows at random.

    Exact mean over all permutations: every expert keeps its share of the rows and is measured
    on all of them. `table` is (n, e); `asked` (k, n, e) says how often k operating points ask each
    expert about each row, which for a row adds up to 1. Gives (k,), with bootstrap weights (b, n)
    one per replicate, (b, k).
    """
    everyone = np.ones((1, len(table))) if weights is None else weights
    dealt = np.zeros((len(everyone), len(asked)))
    for m, column in enumerate(mean(table, everyone).T):
        share = mean(asked[:, :, m].T, everyone)  # (b, k)
        dealt += np.where(share > 0, share * column[:, None], 0.0)
    return dealt if weights is not None else dealt[0]


def over_shuffled(score: Array, cost: Array, choices: Indices) -> Array:
    """Quality over the shuffled control at equal cost, per operating point (k,).

    Shuffling moves the cost (dear experts may have been asked the short queries), so the
    control is read off at the router's own cost, by straight lines between its points.
    """
    asked = (choices[:, :, None] == np.arange(score.shape[1])).astype(np.float64)
    control_cost, control_quality = shuffled(cost, asked), shuffled(score, asked)
    reached = [
        (float(mean(take(cost, choice))), float(mean(take(score, choice)))) for choice in choices
    ]
    return np.array([q - quality_at(control_cost, control_quality, c) for c, q in reached])


def domain_means(
    table: Array,
    domains: Sequence[str | None],
    wanted: Sequence[str | None],
    prior: float = PRIOR,
) -> Array:
    """Each expert's mean in each wanted domain, (wanted, e), from `table` (n, e) and `domains`.

    Drawn towards the expert's overall mean as if `prior` more rows had shown it, which is also
    what a domain without rows gets.
    """
    overall = mean(table)
    known = np.array([str(domain) for domain in domains])
    rows = {name: _drawn(table[known == name], overall, prior) for name in np.unique(known)}
    return np.array([rows.get(str(domain), overall) for domain in wanted])


def _drawn(table: Array, overall: Array, prior: float) -> Array:
    known = np.isfinite(table)
    total = np.where(known, table, 0.0).sum(axis=0) + prior * overall
    count = known.sum(axis=0) + prior
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1e-300), overall))


def domain_table(
    score: Array,
    cost: Array,
    domains: Sequence[str | None],
    wanted: Sequence[str | None],
    price: float = 0.0,
    prior: float = PRIOR,
) -> Indices:
    """The choices of a router that knows a query's domain and nothing else, (wanted,).

    argmax of mean score − λ · mean cost within the domain, λ (`price`) in quality per US$. A
    hard baseline: learn it from rows (`score`, `cost`, `domains`) other than those it is
    measured on.
    """
    quality = np.nan_to_num(domain_means(score, domains, wanted, prior), nan=-1.0)
    dollars = np.nan_to_num(domain_means(cost, domains, wanted, prior))
    unknown = np.full_like(quality, np.nan)
    names = tuple(str(m) for m in range(score.shape[1]))
    return choose(Prediction(names, quality, unknown, dollars, unknown), price)
