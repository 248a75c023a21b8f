"""Ridge regression on similarities to landmark queries, beside the vector itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.predictors import NOTHING, Belief, View, view
from routewright.predictors.linear import Ridge, fit_ridge
from routewright.types import Array


@dataclass
class Kernel:
    """Nyström features of a Gaussian kernel (Williams & Seeger 2000) joined to the vector.

    Finds what is true of a neighbourhood only, where `linear` sees directions. `landmarks` is
    how many training queries the others are compared with.
    """

    landmarks: int = 400
    near: View = NOTHING  # what similarity looks at
    wide: View = NOTHING  # what the linear part looks at
    marks: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    whiten: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    ridge: Ridge | None = field(default=None, repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        self.near = view(blocks, domain=0.5, surface=0.1, width=128, unit=True)
        self.wide = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=128)
        close = self.near(x)
        rng = np.random.default_rng(seed)
        picked = rng.choice(len(close), min(self.landmarks, len(close)), replace=False)
        self.marks = close[picked]
        values, vectors = np.linalg.eigh(self._similar(self.marks))
        kept = values > 1e-4
        self.whiten = 3 * vectors[:, kept] / np.sqrt(values[kept])
        self.ridge = fit_ridge(self._columns(x), scores)
        return self

    def predict(self, x: Array) -> Belief:
        assert self.ridge is not None, "fit first"
        return self.ridge.predict(self._columns(x))

    def options(self) -> dict[str, Any]:
        return {
            "landmarks": self.landmarks,
            "near": self.near.to_json(),
            "wide": self.wide.to_json(),
        }

    def arrays(self) -> dict[str, Any]:
        assert self.ridge is not None, "fit first"
        return {"marks": self.marks, "whiten": self.whiten, **self.ridge._asdict()}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        ridge = Ridge(**{name: arrays[name] for name in Ridge._fields})
        views = {name: View.from_json(options[name]) for name in ("near", "wide")}
        return cls(
            options["landmarks"],
            **views,
            marks=arrays["marks"],
            whiten=arrays["whiten"],
            ridge=ridge,
        )

    def _columns(self, x: Array) -> Array:
        return np.hstack([self.wide(x), self._similar(self.near(x)) @ self.whiten])

    def _similar(self, close: Array) -> Array:
        """exp(−|a − b|² / 2) with every landmark, (n, landmarks)."""
        squares = np.einsum("ij,ij->i", close, close)[:, None]
        squares = squares + np.einsum("ij,ij->i", self.marks, self.marks)
        distance = squares - 2 * close @ self.marks.T
        return np.asarray(np.exp(-np.maximum(distance, 0.0) / 2))
