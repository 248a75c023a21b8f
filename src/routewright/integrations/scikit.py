"""Routewright's predictors as an estimator of scikit-learn, for pipelines and cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from routewright.data.outcomes import Outcomes
from routewright.errors import BadInput, needs
from routewright.fitting.fit import fit
from routewright.router.router import Router
from routewright.types import Array, Indices, Query

with needs("the estimator"):
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import check_is_fitted


class QualityRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts the score of every expert for a text.

    X is n texts, y the scores (n, e) in 0..1, NaN where unknown. `predictor` and `encoder` are
    names as `routewright fit` takes them. After `fit`, `router_` is the fitted router.
    """

    def __init__(
        self, *, encoder: str = "auto", predictor: str = "auto", random_state: int = 0
    ) -> None:
        self.encoder, self.predictor, self.random_state = encoder, predictor, random_state

    def fit(self, X: Sequence[str], y: Any, cost: Any = None) -> Self:
        """Learns from scores; `cost` (n, e) in US$ is needed for `choose` only.

        Raises BadInput for shapes that do not fit, BadTable for too few rows.
        """
        scores = np.asarray(y, float)
        if scores.ndim != 2 or len(scores) != len(X):
            raise BadInput(f"y must be (n, e) scores of {len(X)} texts, not {scores.shape}")
        known = np.nan if cost is None else np.asarray(cost, float)
        columns = {"score": scores, "cost": np.broadcast_to(known, scores.shape)}
        names = tuple(str(m) for m in range(scores.shape[1]))
        rows = Outcomes(names, tuple(map(Query.of, X)), columns)
        self.router_: Router = fit(
            rows,
            encoder=self.encoder,
            predictor=self.predictor,
            strategy="single",
            seed=self.random_state,
        )
        self.n_outputs_ = scores.shape[1]
        return self

    def predict(self, X: Sequence[str]) -> Array:
        """The expected scores, (n, e)."""
        check_is_fitted(self, "router_")
        return np.asarray(self.router_.predict([Query.of(text) for text in X]).quality)

    def choose(self, X: Sequence[str], **goal: float) -> Indices:
        """The index of the expert to ask for each text, (n,), within `max_cost` (US$ per query) or
        `max_cost_fraction`, or at a `min_quality`; None of them: the best expert."""
        from routewright.policies import choose

        check_is_fitted(self, "router_")
        price = self.router_.within(**goal).price if goal else 0.0
        return choose(self.router_.predict([Query.of(text) for text in X]), price)
