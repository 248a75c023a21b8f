"""Item response theory: the logit of a score is a product of a query and an expert vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from routewright import metrics
from routewright.prediction.predictors import Belief, view
from routewright.prediction.stored import Arrays
from routewright.types import Array

PENALTIES = (3.0, 10.0, 30.0, 100.0)
HELD_OUT = 5  # one row in five is held out to choose the penalty
STEPS = 60  # of the optimiser, at most


@dataclass
class Factor:
    """P(expert e is right on q) = σ(a_e + d(q) + z(q) · v_e), with d and z linear in the vector.

    Multidimensional two-parameter IRT (Reckase 2009) over encoded queries. `rank` is the length
    of z and v; 0 is the Rasch model, which ranks the experts alike for every query, as the head
    of arXiv 2401.13979 does. The `penalty` on z, d and v is chosen on held-out rows if it is None.
    Soft scores are soft targets of the cross-entropy. The spread is the part of the signal that
    held-out scores do not confirm.
    """

    rank: NonNegativeInt = 4
    penalty: NonNegativeFloat | None = None
    queries: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)  # (width, 1 + k)
    origin: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (1 + k,)
    experts: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)  # (1 + k, e)
    ability: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (e,)
    noise: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (e,)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        weighted = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=128)
        columns = weighted(x)
        centre = columns.mean(axis=0)
        columns = columns - centre
        held_out = np.random.default_rng(seed).permutation(len(x)) % HELD_OUT == 0
        train = columns[~held_out], scores[~held_out]
        test = columns[held_out], scores[held_out]
        candidates = PENALTIES if self.penalty is None else (self.penalty,)
        trials = [self._solve(*train, penalty, seed) for penalty in candidates]
        predictions = [_probability(trial, test[0]) for trial in trials]
        losses = [_entropy(prediction, test[1]) for prediction in predictions]
        best = int(np.argmin(losses))
        self.penalty = candidates[best]
        self.noise = unconfirmed_signal(predictions[best], test[1])
        parts = self._solve(columns, scores, self.penalty, seed)
        # The weights refer to the encoder's own columns, so that a prediction is only products.
        self.queries, self.experts, self.ability = (weighted.unfold(parts.queries), *parts[1:])
        self.origin = -centre @ parts.queries
        return self

    def predict(self, x: Array) -> Belief:
        hidden = x[:, : len(self.queries)] @ self.queries + self.origin
        mean = _sigmoid(self.ability + hidden @ self.experts)
        return Belief(mean, np.zeros_like(mean) + self.noise)

    def options(self) -> dict[str, Any]:
        return {"rank": self.rank, "penalty": self.penalty}

    def arrays(self) -> dict[str, Any]:
        names = ("queries", "origin", "experts", "ability", "noise")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        part = Arrays("predictor 'factor'", arrays)
        return cls(
            **options,
            queries=part.take("queries", "columns", "factors"),
            origin=part.take("origin", "factors"),
            experts=part.take("experts", "factors", "experts"),
            ability=part.take("ability", "experts", unknown=True),
            noise=part.take("noise", "experts", unknown=True),
        )

    def _solve(self, columns: Array, scores: Array, penalty: float, seed: int) -> Parts:
        """Penalised maximum likelihood by L-BFGS; the ability of experts never scored is NaN."""
        from scipy.optimize import minimize

        mask = np.isfinite(scores)
        target = np.where(mask, scores, 0.0)
        mean = metrics.mean(scores)
        width, count = columns.shape[1], scores.shape[1]
        rng = np.random.default_rng(seed)
        start = Parts(
            rng.normal(0, 0.01, (width, 1 + self.rank)),
            np.vstack([np.ones(count), rng.normal(0, 0.3, (self.rank, count))]),
            np.nan_to_num(_logit(mean)),
        )

        def loss(flat: Array) -> tuple[float, Array]:
            parts = _unpack(flat, start)
            hidden = columns @ parts.queries
            probability = _sigmoid(parts.ability + hidden @ parts.experts)
            error = np.where(mask, probability - target, 0.0)
            value = _entropy_sum(probability, target, mask)
            value += penalty / 2 * float((parts.queries**2).sum())
            value += penalty / 2 * float((parts.experts[1:] ** 2).sum())
            gradient_experts = hidden.T @ error + penalty * parts.experts
            gradient_experts[0] = 0.0  # difficulty has the weight 1 for every expert
            gradient = Parts(
                columns.T @ (error @ parts.experts.T) + penalty * parts.queries,
                gradient_experts,
                error.sum(axis=0),
            )
            return value, np.concatenate([part.ravel() for part in gradient])

        flat = np.concatenate([part.ravel() for part in start])
        result = minimize(loss, flat, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
        parts = _unpack(result.x, start)
        return parts._replace(ability=np.where(np.isfinite(mean), parts.ability, np.nan))


class Parts(NamedTuple):
    """The parameters: queries (width, 1 + k), experts (1 + k, e), ability (e,)."""

    queries: Array
    experts: Array
    ability: Array


def _unpack(flat: Array, like: Parts) -> Parts:
    ends = np.cumsum([part.size for part in like])[:-1]
    pieces = np.split(flat, ends)
    return Parts(*(piece.reshape(part.shape) for piece, part in zip(pieces, like, strict=True)))


def _probability(parts: Parts, columns: Array) -> Array:
    return _sigmoid(parts.ability + columns @ parts.queries @ parts.experts)


def _sigmoid(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logit.clip(-30, 30))))


def _logit(probability: Array) -> Array:
    p = np.clip(probability, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(p / (1 - p)))


def _entropy_sum(probability: Array, target: Array, mask: Any) -> float:
    """The sum of the cross-entropies where `mask` is true, in nats."""
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    terms = target * np.log(p) + (1 - target) * np.log(1 - p)
    return -float(np.where(mask, terms, 0.0).sum())


def _entropy(probability: Array, scores: Array) -> float:
    mask = np.isfinite(scores) & np.isfinite(probability)
    return _entropy_sum(np.nan_to_num(probability), np.where(mask, scores, 0.0), mask)


def unconfirmed_signal(predictions: Array, scores: Array) -> Array:
    """Standard deviation (e,) of the part of the predictions that held-out scores do not confirm.

    With b the slope of scores (n, e) regressed on predictions (n, e), the part (1 − b) is noise.
    """
    deviation = predictions - metrics.mean(predictions)
    variance = metrics.mean(deviation**2)
    slope = metrics.mean(deviation * (scores - metrics.mean(scores))) / np.maximum(variance, 1e-12)
    return np.asarray(np.sqrt(variance) * np.clip(1 - slope, 0.05, 1.0))
