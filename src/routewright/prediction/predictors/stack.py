"""The others together, weighed by what each foresaw of rows that it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np

from routewright.prediction.predictors import (
    Belief,
    Folds,
    Predictor,
    components,
    deviations,
    fit_held_out,
    folds,
)
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
    """A weighted sum of the bases' forecasts per component of expert space.

    Components are the experts' common level and the principal differences between them. The
    weights are the mean of three stacks: non-negative ridge regression per component, one
    weight vector shared by all differences and shrunk per component, and equal weights. The
    first is best on large tables, the others on small ones, and their mean is near the best on
    each. The spread is the bases' disagreement.
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
        """Fits; also gives beliefs about each row from bases and weights that did not see it."""
        self.models, forecasts = [], []
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
            forecasts.append(belief.mean)
        table = np.stack(forecasts)  # (bases, n, e)
        mean, spread = np.empty_like(scores), np.empty_like(scores)
        for k in np.unique(fold):
            inside, outside = fold != k, fold == k
            self._weigh(table[:, inside], scores[inside])
            mean[outside], spread[outside] = self._combine(table[:, outside])
        self._weigh(table, scores)
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
        models = []
        for i, base in enumerate(options["bases"]):
            mine = {k.removeprefix(f"{i}."): v for k, v in arrays.items() if k.startswith(f"{i}.")}
            models.append(find("predictors", base["name"]).load(base["options"], mine))
        bases = [(base["name"], base["options"]) for base in options["bases"]]
        return cls(bases, models, arrays["mean"], arrays["mixing"])

    def _combine(self, table: Array) -> Belief:
        """Forecasts (bases, n, e) ▶ one."""
        moved = table - self.mean
        moved[np.isnan(moved)] = 0.0
        side_by_side = moved.transpose(1, 0, 2).reshape(table.shape[1], -1)
        mean = self.mean + side_by_side @ self.mixing.reshape(side_by_side.shape[1], -1)
        centre = moved.mean(axis=0)
        spread = np.sqrt(((moved - centre) ** 2).mean(axis=0))
        return Belief(mean.clip(0.0, 1.0), np.where(np.isfinite(self.mean), spread, np.nan))

    def _weigh(self, table: Array, scores: Array) -> None:
        self.mean, deviation = deviations(scores)
        basis = components(deviation)
        moved = np.nan_to_num(table - self.mean)
        weights = blend(np.einsum("bne,ec->bnc", moved, basis), deviation @ basis)
        # Folded into one matrix per base: into the components, weighed, and back.
        self.mixing = np.einsum("ec,bc,fc->bef", basis, weights, basis)


def blend(forecasts: Array, targets: Array) -> Array:
    """Weights (bases, components) for forecasts (bases, n, components) of targets (n, components).

    The mean of three stacks (see `Stack`). Ridge pulls towards equal weights of sum 0.9.
    """
    bases, _, count = forecasts.shape
    scale = targets.std(axis=0) + 1e-9
    f, t = forecasts / scale, targets / scale
    own = np.column_stack([_solve(f[:, :, c].T, t[:, c], 0.2) for c in range(count)])
    tied = np.zeros_like(own)
    for part in (slice(0, 1), slice(1, count)):
        if count <= part.start:
            continue
        rows = forecasts[:, :, part].reshape(bases, -1).T / scale.mean()
        shared = _solve(rows, targets[:, part].ravel() / scale.mean(), 0.1)
        for c in range(*part.indices(count)):
            guess = f[:, :, c].T @ shared
            trust = (guess @ t[:, c] + 30.0) / (guess @ guess + 30.0)
            tied[:, c] = shared * np.clip(trust, 0.0, 1.0)
    return np.asarray((own + tied + 1 / bases) / 3)


def _solve(columns: Array, target: Array, width: float) -> Array:
    """Non-negative least squares with a Gaussian prior of that width around equal weights."""
    from scipy.optimize import nnls

    count = columns.shape[1]
    prior = np.full(count, 0.9 / count / width)
    stacked = np.vstack([columns, np.eye(count) / width])
    weights = nnls(stacked, np.concatenate([target, prior]))[0]
    return np.asarray(weights / max(float(weights.sum()), 1.0))
