"""What is seen of an answer before it is kept: the verifier's share, and the evidence around it.

Arrays only: one query at serving time, a table when fitting, and the two are the same code.
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
RIDGES = tuple(float(r) for r in np.geomspace(10, 10_000, 7))  # penalties that are tried


@dataclass(frozen=True)
class About:
    """What is read off the queries themselves: domain, listed options, log of the length, (n,)."""

    domain: np.ndarray[Any, np.dtype[Any]]  # of str, empty where unknown
    options: Array
    length: Array

    @classmethod
    def of(cls, queries: Sequence[Query]) -> Self:
        texts = [query.text for query in queries]
        return cls(
            np.array([query.domain or "" for query in queries], dtype=object),
            np.array([min(len(marks(text)), MOST_OPTIONS) for text in texts], dtype=np.float64),
            np.log1p(np.array([len(text) for text in texts], dtype=np.float64)),
        )

    def rows(self, index: Any) -> About:
        return About(self.domain[index], self.options[index], self.length[index])


@dataclass(frozen=True)
class Observations:
    """What was seen of one model's answers, and of the queries."""

    share: Array  # (n,) verdicts, or others, that say it is right; 0..1
    query: About
    agree: Array | None = None  # (n, k) 1 where another one agrees with it, 0 where not
    labels: Indices | None = None  # (n, 1 + k) whose answers are the same; −1: unreadable
    arrived: NDArray[np.bool_] | None = None  # (n, k)

    def rows(self, index: Any) -> Observations:
        def some(table: Any) -> Any:
            return None if table is None else table[index]

        return Observations(
            self.share[index],
            self.query.rows(index),
            some(self.agree),
            some(self.labels),
            some(self.arrived),
        )


def agreement(labels: Indices, arrived: NDArray[np.bool_], query: About) -> Observations:
    """The share of others that agree with the first answer; `labels` (n, 1 + k) as
    `equivalence.labels` gives them, `arrived` (n, k) which of the others answered at all.

    0 where nobody did: then nothing speaks for the answer.
    """
    agree = (labels[:, 1:] == labels[:, :1]) & (labels[:, 1:] >= 0) & arrived
    share = agree.sum(axis=1) / np.maximum(arrived.sum(axis=1), 1)
    return Observations(share, query, agree.astype(np.float64), labels, arrived)


def features(observations: Observations, names: Sequence[str], shares: Array) -> Array:
    """What a linear model reads, (n, F): the share, who agrees, what the others say instead,
    how many options the query lists and how long it is, and its domain, each with the share.

    A domain that is not among `names` counts as the mixture of them all (`shares`).
    """
    v = observations.share
    columns = [v, v**2]
    if (
        observations.agree is not None
        and observations.labels is not None
        and observations.arrived is not None
    ):
        columns += [*observations.agree.T, *_others(observations.labels, observations.arrived, v)]
    about = observations.query
    columns += [about.options, np.sign(about.options), about.length]
    place = {name: i for i, name in enumerate(names)}
    eye = np.vstack([np.eye(len(names)), shares[None]])
    domain = eye[[place.get(name, len(names)) for name in about.domain.tolist()]]
    columns += [*domain.T, *(domain * v[:, None]).T]
    return np.column_stack(columns).astype(np.float64)


def _others(labels: Indices, arrived: NDArray[np.bool_], v: Array) -> list[Array]:
    """The largest group that says something else, alone and with the share; how many such
    groups there are; who cannot be read."""
    others, k = labels[:, 1:], max(labels.shape[1] - 1, 1)
    readable = arrived & (others >= 0)
    contrary = readable & (others != labels[:, :1])
    alike = (others[:, :, None] == others[:, None, :]) & readable[:, None, :]
    size = np.where(contrary, alike.sum(axis=2), 0)  # (n, k) of each one's own group
    largest = size.max(axis=1, initial=0) / k
    groups = np.where(contrary, 1 / np.maximum(size, 1), 0.0).sum(axis=1) / k
    unread = (arrived & ~readable).sum(axis=1) / k
    return [largest, largest * v, largest**2, groups, unread, labels[:, 0] < 0]


@dataclass(frozen=True)
class Linear:
    """Expected gain of asking the last model instead, linear in the features; shrunk by ridge.

    The penalty is chosen by generalised cross-validation, so with few labels little is believed
    beyond the mean.
    """

    domains: tuple[str, ...]
    shares: Array  # (d,) of the rows in each domain
    weights: Array  # (F,)
    bias: float

    @classmethod
    def fit(cls, observations: Observations, gain: Array) -> Self:
        """`gain` is P_last − P_this per row, (n,)."""
        known = observations.query.domain[observations.query.domain != ""].tolist()
        names = tuple(sorted(set(known)))
        counts = np.array([float(known.count(name)) for name in names])
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
    """Weights on x as it is, fitted on standardised columns; columns that never vary get none."""
    middle, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-9, spread, np.inf)
    z, level = (x - middle) / scale, float(y.mean())
    values, vectors = np.linalg.eigh(z.T @ z)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (z.T @ (y - level))
    total = float(((y - level) ** 2).sum())

    def criterion(penalty: float) -> float:
        fitted = turned / (values + penalty)
        error = total - 2 * float(fitted @ turned) + float(fitted**2 @ values)
        freedom = 1.0 + float((values / (values + penalty)).sum())
        return error / max(len(y) - freedom, 1e-9) ** 2

    penalty = min(RIDGES, key=criterion)
    weights = vectors @ (turned / (values + penalty)) / scale
    return np.asarray(weights), level - float(middle @ weights)
