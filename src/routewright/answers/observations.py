"""Observations of an answer: the share of verdicts for it, and features of its query.

Everything is an array: one query when serving and a table when fitting run the same code.
Shapes: n rows, k others whose answers are compared, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright.data.choices import marks
from routewright.types import Array, Indices, Query

MOST_OPTIONS = 12
RIDGES = tuple(float(r) for r in np.geomspace(10, 10_000, 7))  # penalties to choose from


@dataclass(frozen=True)
class About:
    """Features of the queries: domain, number of listed options, log-length, (n,) each."""

    domain: np.ndarray[Any, np.dtype[Any]]  # of str, empty where unknown
    options: Array
    length: Array

    @classmethod
    def of(cls, queries: Sequence[Query]) -> Self:
        texts = [query.excerpt for query in queries]
        return cls(
            np.array([query.domain or "" for query in queries], dtype=object),
            np.array([min(len(marks(text)), MOST_OPTIONS) for text in texts], dtype=np.float64),
            np.log1p(np.array([len(text) for text in texts], dtype=np.float64)),
        )

    def rows(self, index: Any) -> About:
        return About(self.domain[index], self.options[index], self.length[index])


@dataclass(frozen=True)
class Observations:
    """Observations of one model's answers, and features of the queries."""

    share: Array  # (n,) of verdicts, or of other experts, for the answer; 0..1
    query: About
    agree: Array | None = None  # (n, k) 1 if the other expert agrees with it, else 0
    labels: Indices | None = None  # (n, 1 + k) equal for equivalent answers; −1: unreadable
    arrived: NDArray[np.bool_] | None = None  # (n, k) whether the other expert answered

    def rows(self, index: Any) -> Observations:
        def select(table: Any) -> Any:
            return None if table is None else table[index]

        return Observations(
            self.share[index],
            self.query.rows(index),
            select(self.agree),
            select(self.labels),
            select(self.arrived),
        )


def agreement(labels: Indices, arrived: NDArray[np.bool_], query: About) -> Observations:
    """The share of the other experts that agree with the first answer; 0 if none answered.

    `labels` (n, 1 + k) are those of `equivalence.labels`; `arrived` (n, k) says which of the
    others answered at all.
    """
    agree = (labels[:, 1:] == labels[:, :1]) & (labels[:, 1:] >= 0) & arrived
    share = agree.sum(axis=1) / np.maximum(arrived.sum(axis=1), 1)
    return Observations(share, query, agree.astype(np.float64), labels, arrived)


def features(observations: Observations, names: Sequence[str], shares: Array) -> Array:
    """Inputs of the linear model, (n, F): the share, the experts that agree, the answers of the
    others, the number of listed options and the length of the query, and its domain, alone and
    times the share.

    A domain that is not among `names` counts as the mixture of all domains (`shares`).
    """
    share = observations.share
    columns = [share, share**2]
    if (
        observations.agree is not None
        and observations.labels is not None
        and observations.arrived is not None
    ):
        columns += [
            *observations.agree.T,
            *_others(observations.labels, observations.arrived, share),
        ]
    query = observations.query
    columns += [query.options, np.sign(query.options), query.length]
    place = {name: i for i, name in enumerate(names)}
    eye = np.vstack([np.eye(len(names)), shares[None]])
    domain = eye[[place.get(name, len(names)) for name in query.domain.tolist()]]
    columns += [*domain.T, *(domain * share[:, None]).T]
    return np.column_stack(columns).astype(np.float64)


def _others(labels: Indices, arrived: NDArray[np.bool_], share: Array) -> list[Array]:
    """The size of the largest group with another answer, alone and times the share; the number of
    such groups; the unreadable answers."""
    others, k = labels[:, 1:], max(labels.shape[1] - 1, 1)
    readable = arrived & (others >= 0)
    contrary = readable & (others != labels[:, :1])
    alike = (others[:, :, None] == others[:, None, :]) & readable[:, None, :]
    size = np.where(contrary, alike.sum(axis=2), 0)  # (n, k) of the group of each expert
    largest = size.max(axis=1, initial=0) / k
    groups = np.where(contrary, 1 / np.maximum(size, 1), 0.0).sum(axis=1) / k
    unreadable = (arrived & ~readable).sum(axis=1) / k
    return [largest, largest * share, largest**2, groups, unreadable, labels[:, 0] < 0]


@dataclass(frozen=True)
class Linear:
    """Expected gain of asking the last model instead, linear in the features; shrunk by ridge.

    The penalty is chosen by generalised cross-validation, so with few labels the prediction stays
    close to the mean.
    """

    domains: tuple[str, ...]
    shares: Array  # (d,) of the rows in each domain
    weights: Array  # (F,)
    bias: float

    @classmethod
    def fit(cls, observations: Observations, gain: Array) -> Self:
        """`gain` is P_last − P_this per row, (n,)."""
        domains = observations.query.domain[observations.query.domain != ""].tolist()
        names = tuple(sorted(set(domains)))
        counts = np.array([float(domains.count(name)) for name in names])
        shares = counts / max(counts.sum(), 1.0)
        x = features(observations, names, shares)
        weights, bias = _ridge(x, gain)
        return cls(names, shares, weights, bias)

    def predict(self, observations: Observations) -> Array:
        x = features(observations, self.domains, self.shares)
        return np.asarray(x @ self.weights + self.bias)

    def to_json(self) -> dict[str, Any]:
        return {
            "domains": list(self.domains),
            "shares": self.shares.tolist(),
            "weights": self.weights.tolist(),
            "bias": self.bias,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        return cls(
            tuple(stored["domains"]),
            np.array(stored["shares"], dtype=np.float64),
            np.array(stored["weights"], dtype=np.float64),
            float(stored["bias"]),
        )


def _ridge(x: Array, y: Array) -> tuple[Array, float]:
    """Weights on the unscaled x, fitted on standardised columns; constant columns get 0."""
    middle, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-9, spread, np.inf)
    z, level = (x - middle) / scale, float(y.mean())
    values, vectors = np.linalg.eigh(z.T @ z)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ (z.T @ (y - level))
    total = float(((y - level) ** 2).sum())

    def criterion(penalty: float) -> float:
        fitted = projected / (values + penalty)
        error = total - 2 * float(fitted @ projected) + float(fitted**2 @ values)
        freedom = 1.0 + float((values / (values + penalty)).sum())
        return error / max(len(y) - freedom, 1e-9) ** 2

    penalty = min(RIDGES, key=criterion)
    weights = vectors @ (projected / (values + penalty)) / scale
    return np.asarray(weights), level - float(middle @ weights)
