"""Ridge regression on similarities to landmark queries, beside the vector itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.prediction.predictors import NOTHING, Belief, View, view
from routewright.prediction.predictors.linear import Affine, fit_ridge
from routewright.types import Array


@dataclass
class Kernel:
    """Nyström features of a Gaussian kernel (Williams & Seeger 2000) joined to the vector.

    Finds what is true of a neighbourhood only, where `linear` sees directions. `landmarks` is
    how many training queries the others are compared with.
    """

    landmarks: int = 400
    near: View = NOTHING  # what similarity looks at
    marks: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    weights: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)  # (marks, e)
    affine: Affine | None = field(default=None, repr=False)  # what the vector itself says
    halves: Array = field(default_factory=lambda: np.empty(0), repr=False)  # |mark|² / 2

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.near = view(blocks, domain=0.5, surface=0.1, width=128, unit=True)
        wide = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=128)
        close = self.near(x)
        rng = np.random.default_rng(seed)
        picked = rng.choice(len(close), min(self.landmarks, len(close)), replace=False)
        self.marks = close[picked]
        self.halves = _halves(self.marks)
        values, vectors = np.linalg.eigh(self._similar(self.marks))
        kept = values > 1e-4
        whiten = 3 * vectors[:, kept] / np.sqrt(values[kept])
        columns = np.hstack([wide(x), self._similar(close) @ whiten])
        ridge = fit_ridge(columns, scores)
        # Folded: one weight per expert and landmark, one per expert and column of the vector.
        split = columns.shape[1] - whiten.shape[1]
        self.weights = whiten @ ridge.weights[split:]
        offset = ridge.mean - ridge.centre @ ridge.weights
        self.affine = Affine(wide.unfold(ridge.weights[:split]), offset, ridge.noise)
        return self

    def predict(self, x: Array) -> Belief:
        assert self.affine is not None, "fit first"
        similar = self._similar(self.near(x))
        mean = (self.affine.raw(x) + similar @ self.weights).clip(0.0, 1.0)
        return Belief(mean, np.zeros_like(mean) + self.affine.noise)

    def options(self) -> dict[str, Any]:
        return {"landmarks": self.landmarks, "near": self.near.to_json()}

    def arrays(self) -> dict[str, Any]:
        assert self.affine is not None, "fit first"
        linear = {f"affine.{name}": array for name, array in self.affine._asdict().items()}
        own = {name: getattr(self, name) for name in ("marks", "weights", "halves")}
        return {**own, **linear}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        affine = Affine(**{name: arrays[f"affine.{name}"] for name in Affine._fields})
        own = {name: arrays[name] for name in ("marks", "weights", "halves")}
        return cls(options["landmarks"], View.from_json(options["near"]), affine=affine, **own)

    def _similar(self, close: Array) -> Array:
        """exp(−|a − b|² / 2) with every landmark, (n, landmarks)."""
        exponent = close @ self.marks.T - _halves(close)[:, None] - self.halves
        return np.asarray(np.exp(np.minimum(exponent, 0.0, out=exponent), out=exponent))


def _halves(rows: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", rows, rows) / 2)
