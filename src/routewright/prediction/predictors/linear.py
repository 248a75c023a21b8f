"""Ridge regression of the experts' common level and their differences on the query's vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from routewright.prediction.predictors import Belief, View, components, deviations, view
from routewright.prediction.stored import Arrays
from routewright.types import Array

PENALTIES = np.geomspace(3, 3e4, 17)


@dataclass
class Linear:
    """score ≈ mean + (x − x̄) W, one penalty per component of expert space.

    The components are the experts' common level and the principal differences between them. Each
    penalty is chosen by the exact leave-one-out error. `width` is the maximum number of columns of
    a text block; `domain` and `surface` are the weights of those blocks. The spread is the standard
    deviation of the signal that leave-one-out does not confirm.
    """

    width: PositiveInt = 128
    domain: NonNegativeFloat = 2.0
    surface: NonNegativeFloat = 0.3
    affine: Affine | None = field(default=None, repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        weighted = view(
            blocks,
            text=10**0.5,
            domain=self.domain,
            surface=self.surface,
            width=self.width,
        )
        self.affine = fit_ridge(weighted(x), scores).through(weighted)
        return self

    def predict(self, x: Array) -> Belief:
        assert self.affine is not None, "fit first"
        return self.affine.predict(x)

    def options(self) -> dict[str, Any]:
        return {"width": self.width, "domain": self.domain, "surface": self.surface}

    def arrays(self) -> dict[str, Any]:
        assert self.affine is not None, "fit first"
        return self.affine._asdict()

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        part = Arrays("predictor 'linear'", arrays)
        affine = Affine(
            part.take("weights", "columns", "experts"),
            part.take("offset", "experts", unknown=True),
            part.take("noise", "experts", unknown=True),
        )
        return cls(**options, affine=affine)


class Affine(NamedTuple):
    """The scores of e experts as a linear function of the encoder's vector."""

    weights: Array  # (columns, e), for the encoder's first columns
    offset: Array  # (e,), NaN if no score is known
    noise: Array  # (e,)

    def raw(self, x: Array) -> Array:
        """Predicted scores (n, e), which may lie outside 0..1."""
        return np.asarray(x[:, : len(self.weights)] @ self.weights + self.offset)

    def predict(self, x: Array) -> Belief:
        mean = self.raw(x).clip(0.0, 1.0)
        return Belief(mean, np.zeros_like(mean) + self.noise)


class Ridge(NamedTuple):
    """A fitted ridge regression of e scores on `width` columns."""

    centre: Array  # (width,)
    weights: Array  # (width, e)
    mean: Array  # (e,)
    noise: Array  # (e,)

    def predict(self, columns: Array) -> Belief:
        mean = (self.mean + (columns - self.centre) @ self.weights).clip(0.0, 1.0)
        return Belief(mean, np.zeros_like(mean) + self.noise)

    def through(self, view: View) -> Affine:
        """The same function of the encoder's columns, if the regression's columns are `view`(x)."""
        return Affine(view.unfold(self.weights), self.mean - self.centre @ self.weights, self.noise)


def fit_ridge(columns: Array, scores: Array) -> Ridge:
    """Ridge regression of scores (n, e), NaN if unknown, on columns (n, width), by component.

    One eigendecomposition serves all penalties. Leave-one-out residuals are exact: r / (1 − h) with
    the leverage h (Allen's PRESS).
    """
    mean, deviation = deviations(scores)
    basis = components(deviation)
    centre = columns.mean(axis=0)
    a, targets = columns - centre, deviation @ basis
    values, vectors = np.linalg.eigh(a.T @ a)
    positive = values > 1e-8 * max(float(values[-1]) if len(values) else 0.0, 1e-12)
    values, vectors = values[positive], vectors[:, positive]
    rotated = a @ vectors
    projected = rotated.T @ targets
    errors = np.array([_press(rotated, projected, targets, values, p) for p in PENALTIES])
    best = PENALTIES[errors.argmin(axis=0)]
    weights = vectors @ (projected / (values[:, None] + best)) @ basis.T
    signal = np.maximum((targets**2).mean(axis=0) - errors.min(axis=0), 0.0)
    noise = np.sqrt(np.maximum(basis**2 @ signal, 1e-6))
    return Ridge(centre, weights, mean, np.where(np.isfinite(mean), noise, np.nan))


def _press(
    rotated: Array, projected: Array, targets: Array, values: Array, penalty: float
) -> Array:
    """The mean squared leave-one-out residual of each component, (e,)."""
    leverage = rotated**2 @ (1 / (values + penalty)) + 1 / len(rotated)
    predictions = rotated @ (projected / (values[:, None] + penalty))
    residual = (targets - predictions) / (1 - np.minimum(leverage, 0.99))[:, None]
    return np.asarray((residual**2).mean(axis=0))
