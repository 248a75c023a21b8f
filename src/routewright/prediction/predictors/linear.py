"""Ridge regression of the experts' level and differences on the query's vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from routewright.prediction.predictors import Belief, View, components, deviations, view
from routewright.types import Array

PENALTIES = np.geomspace(3, 3e4, 17)


@dataclass
class Linear:
    """score ≈ mean + (x − x̄) W, one penalty per component of expert space.

    The components are the experts' common level and the principal differences between them;
    each penalty is chosen by exact leave-one-out error. `width` bounds the columns taken from
    a text block, `domain` and `surface` weigh those blocks. The spread is the standard
    deviation of the signal that leave-one-out could not confirm.
    """

    width: PositiveInt = 128
    domain: NonNegativeFloat = 2.0
    surface: NonNegativeFloat = 0.3
    affine: Affine | None = field(default=None, repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        seen = view(
            blocks,
            text=10**0.5,
            domain=self.domain,
            surface=self.surface,
            width=self.width,
        )
        self.affine = fit_ridge(seen(x), scores).through(seen)
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
        return cls(**options, affine=Affine(**arrays))


class Affine(NamedTuple):
    """Scores of e experts as a straight line in the encoder's vector: one product per query."""

    weights: Array  # (columns, e) of the encoder's first columns
    offset: Array  # (e,) NaN where no score is known
    noise: Array  # (e,)

    def raw(self, x: Array) -> Array:
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
        """The same in the encoder's columns, for ones that `view` showed to the regression."""
        return Affine(view.unfold(self.weights), self.mean - self.centre @ self.weights, self.noise)


def fit_ridge(columns: Array, scores: Array) -> Ridge:
    """Ridge in component space, (n, width) and (n, e); one eigendecomposition for everything.

    Leave-one-out residuals are exact: r / (1 − h) with the leverage h (Allen's PRESS).
    """
    mean, deviation = deviations(scores)
    basis = components(deviation)
    centre = columns.mean(axis=0)
    a, targets = columns - centre, deviation @ basis
    values, vectors = np.linalg.eigh(a.T @ a)
    kept = values > 1e-8 * max(float(values[-1]) if len(values) else 0.0, 1e-12)
    values, vectors = values[kept], vectors[:, kept]
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
    leverage = rotated**2 @ (1 / (values + penalty)) + 1 / len(rotated)
    fitted = rotated @ (projected / (values[:, None] + penalty))
    residual = (targets - fitted) / (1 - np.minimum(leverage, 0.99))[:, None]
    return np.asarray((residual**2).mean(axis=0))
