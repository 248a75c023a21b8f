"""A weighted sum of the other predictors, with weights fitted on held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np

from routewright.errors import BadRouter
from routewright.prediction.predictors import (
    Belief,
    Folds,
    Predictor,
    components,
    deviations,
    fit_held_out,
    folds,
)
from routewright.prediction.stored import Arrays, load, under
from routewright.registry import find
from routewright.types import Array

BASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear", {"width": 128}),
    ("linear", {"width": 256}),
    ("linear", {"width": 128, "domain": 3.0, "surface": 0.1}),
    ("factor", {"penalty": 50.0}),
    ("knn", {"k": 100, "domain": 0.5, "width": 64}),
    ("domain", {}),
    ("trees", {}),
)
FOLDS = 5


@dataclass
class Stack:
    """A weighted sum of the bases' predictions, for each component of expert space.

    The components are the experts' common level and the principal differences between them. The
    weights are the mean of three stacks: non-negative ridge regression per component; one weight
    vector for all differences, shrunk per component; and equal weights. The first is best on large
    tables and the others on small ones; their mean is near the best on each. The spread is the
    standard deviation between the bases.
    """

    bases: Sequence[tuple[str, dict[str, Any]]] = field(default=BASES, repr=False)
    models: list[Predictor] = field(default_factory=list, repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)
    mixing: Array = field(default_factory=lambda: np.empty((0, 0, 0)), repr=False)  # (bases, e, e)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        fold = folds(len(x), FOLDS, seed)
        self.fit_held_out(x, scores, blocks=blocks, fold=fold, seed=seed)
        return self

    def fit_held_out(
        self, x: Array, scores: Array, *, blocks: Mapping[str, slice], fold: Folds, seed: int = 0
    ) -> Belief:
        """Fits; also returns beliefs about each row from a fit without its fold."""
        self.models, predictions = [], []
        for name, options in self.bases:
            model, belief = fit_held_out(
                partial(find("predictors", name), **options),
                x,
                scores,
                blocks=blocks,
                fold=fold,
                seed=seed,
            )
            self.models.append(model)
            predictions.append(belief.mean)
        table = np.stack(predictions)  # (bases, n, e)
        mean, spread = np.empty_like(scores), np.empty_like(scores)
        for k in np.unique(fold):
            train, test = fold != k, fold == k
            self._fit_weights(table[:, train], scores[train])
            mean[test], spread[test] = self._combine(table[:, test])
        self._fit_weights(table, scores)
        return Belief(mean, spread)

    def predict(self, x: Array) -> Belief:
        return self._combine(np.stack([model.predict(x).mean for model in self.models]))

    def options(self) -> dict[str, Any]:
        return {
            "bases": [
                {"name": name, "options": model.options()}
                for (name, _), model in zip(self.bases, self.models, strict=True)
            ]
        }

    def arrays(self) -> dict[str, Any]:
        parts = {
            f"{i}.{name}": array
            for i, model in enumerate(self.models)
            for name, array in model.arrays().items()
        }
        return {"mean": self.mean, "mixing": self.mixing, **parts}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        models = [
            load("predictors", base, under(arrays, f"{i}."))
            for i, base in enumerate(options["bases"])
        ]
        if not models:
            raise BadRouter("predictor 'stack' has no bases")
        bases = [(base["name"], base["options"]) for base in options["bases"]]
        part = Arrays("predictor 'stack'", arrays)
        mean = part.take("mean", "experts", unknown=True)
        return cls(bases, models, mean, part.take("mixing", len(models), "experts", "experts"))

    def _combine(self, table: Array) -> Belief:
        """The bases' predictions (bases, n, e) ▶ one belief (n, e)."""
        deviation = table - self.mean
        deviation[np.isnan(deviation)] = 0.0
        rows = deviation.transpose(1, 0, 2).reshape(table.shape[1], -1)
        mean = self.mean + rows @ self.mixing.reshape(rows.shape[1], -1)
        centre = deviation.mean(axis=0)
        spread = np.sqrt(((deviation - centre) ** 2).mean(axis=0))
        return Belief(mean.clip(0.0, 1.0), np.where(np.isfinite(self.mean), spread, np.nan))

    def _fit_weights(self, table: Array, scores: Array) -> None:
        self.mean, deviation = deviations(scores)
        basis = components(deviation)
        predictions = np.nan_to_num(table - self.mean)
        weights = blend(np.einsum("bne,ec->bnc", predictions, basis), deviation @ basis)
        # One matrix per base: into the components, times the weights, and back.
        self.mixing = np.einsum("ec,bc,fc->bef", basis, weights, basis)


def blend(predictions: Array, targets: Array) -> Array:
    """Weights (bases, components) for predictions (bases, n, components) of targets (n,
    components): the mean of three stacks (see `Stack`).

    The prior of the ridge regressions is equal weights with a sum of 0.9.
    """
    bases, _, count = predictions.shape
    scale = targets.std(axis=0) + 1e-9
    p, t = predictions / scale, targets / scale
    own = np.column_stack([_solve(p[:, :, c].T, t[:, c], 0.2) for c in range(count)])
    shared = np.zeros_like(own)
    for part in (slice(0, 1), slice(1, count)):
        if count <= part.start:
            continue
        rows = predictions[:, :, part].reshape(bases, -1).T / scale.mean()
        weights = _solve(rows, targets[:, part].ravel() / scale.mean(), 0.1)
        for c in range(*part.indices(count)):
            sums = p[:, :, c].T @ weights
            shrinkage = (sums @ t[:, c] + 30.0) / (sums @ sums + 30.0)
            shared[:, c] = weights * np.clip(shrinkage, 0.0, 1.0)
    return np.asarray((own + shared + 1 / bases) / 3)


def _solve(columns: Array, target: Array, width: float) -> Array:
    """Non-negative least squares with a Gaussian prior of that width around equal weights."""
    from scipy.optimize import nnls

    count = columns.shape[1]
    prior = np.full(count, 0.9 / count / width)
    stacked = np.vstack([columns, np.eye(count) / width])
    weights = nnls(stacked, np.concatenate([target, prior]))[0]
    return np.asarray(weights / max(float(weights.sum()), 1.0))
