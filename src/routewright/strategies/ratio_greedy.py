"""Predict, then ask the expert with the best ratio of expected score to average cost (Routoo)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import NonNegativeFloat

from routewright.policies import best_ratio
from routewright.strategies import Predicts
from routewright.strategies.single import Single, within_limits
from routewright.types import Array, Ask, Decision, Indices, Plan, Prediction, Query


class RouterWithCosts(Predicts, Protocol):
    """A router that knows the mean cost of each expert."""

    @property
    def average_cost(self) -> Array: ...


@dataclass(frozen=True)
class RatioGreedy:
    """The published decoding of Routoo (arXiv 2401.13979, section 3), for comparison with `single`.

    Among the experts with an expected cost of at most `budget` US$ (none: any cost) it asks the one
    with the best ratio of expected score to average cost; if none fits, it asks the cheapest. The
    paper spends one budget on a batch of queries in order; here every query has the same budget,
    and what a query leaves over does not go to the next, so the order of queries does not matter.
    It does not use a query's price of quality. It decides a query with `min_quality` as `single`
    does.
    """

    router: RouterWithCosts
    budget: NonNegativeFloat | None = None

    def plan(self, query: Query) -> Plan:
        prediction = self.router.predict([query])
        best = int(self.choose([query], prediction)[0])
        expert, belief = prediction.experts[best], prediction.take(0)
        answer = yield Ask(expert, final=True)
        average = self.router.average_cost[best]
        price = f"${average:.2g}" if np.isfinite(average) else "an unknown amount"
        because = f"{expert}, expected to score {belief.chance[best]:.2f}, costs {price} on"
        because += " average, the best ratio within the budget"
        return Decision(answer, because=because, prediction=belief)

    def choose(self, queries: Sequence[Query], prediction: Prediction) -> Indices:
        choice = np.empty(len(queries), np.intp)
        budget = np.inf if self.budget is None else self.budget
        for i, query in enumerate(queries):
            belief = prediction.take(i)
            if query.min_quality is not None:
                choice[i] = Single(self.router).choose([query], prediction.take([i]))[0]
                continue
            admissible = within_limits(query, belief)
            choice[i] = best_ratio(belief, self.router.average_cost, budget, admissible)
        return choice
