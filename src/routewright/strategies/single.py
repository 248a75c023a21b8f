"""Predict, then ask the one expert with the best trade-off of quality and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from routewright.answers.evidence import NOBODY
from routewright.errors import NoAdmissibleExpert
from routewright.policies import choose
from routewright.strategies import Predicts
from routewright.strategies._fixed_mix import KnowsMeans, by_fixed_mix, fixed_asks, unfamiliar
from routewright.types import Answer, Ask, Decision, Indices, Plan, Prediction, Query, Unlike


@dataclass(frozen=True)
class Single:
    """One call per query: argmax of predicted quality − λ cost − μ latency.

    `price` is λ in quality per US$, `latency_price` μ in quality per second; a query's own prices
    take precedence. A query with `min_quality` gets the cheapest expert that is expected to reach
    it, or the best expert if none is.

    With a `budget` (US$ per query), the fixed mix of that cost decides about queries that are
    unlike the training rows, unless they have `min_quality` or a `latency_price` of their own.
    """

    router: Predicts
    price: NonNegativeFloat = 0.0
    latency_price: NonNegativeFloat = 0.0
    budget: NonNegativeFloat | None = None

    @property
    def light(self) -> bool:
        """Whether the router has predicted the query already."""
        return bool(getattr(self.router, "light", False))

    def plan(self, query: Query) -> Plan:
        prediction = self.router.predict([query])
        best = int(self.choose([query], prediction)[0])
        expert, belief = prediction.experts[best], prediction.take(0)
        unlike: Unlike = "query" if self._unlike([query], prediction)[0] else ""
        answer = yield Ask(expert, final=True, unlike=unlike)
        because = (
            f"{expert} is expected to score {100 * belief.chance[best]:.0f} %"
            f" for ${belief.cost[best]:.6f}"
        )
        decision = Decision(answer, because=because, prediction=belief)
        return by_fixed_mix(decision, unlike) if unlike else decision

    def choose(self, queries: Sequence[Query], prediction: Prediction) -> Indices:
        if not any(has_limits(query) for query in queries):
            choice = choose(prediction, self.price, latency_price=self.latency_price)
        else:
            choice = np.array(
                [self._choose_one(query, prediction.take(i)) for i, query in enumerate(queries)]
            )
        unlike = self._unlike(queries, prediction)
        if unlike.any():
            assert self.budget is not None
            rows = np.flatnonzero(unlike)
            allowed = [within_limits(queries[i], prediction.take(i)) for i in rows.tolist()]
            lot = np.array([queries[i].lot for i in rows.tolist()])
            scored = prediction.quality[rows] >= 0
            asks = fixed_asks(
                cast(KnowsMeans, self.router), self.budget, lot, np.array(allowed) & scored
            )
            choice[rows] = np.where(asks == NOBODY, choice[rows], asks)
        return choice

    def _unlike(self, queries: Sequence[Query], prediction: Prediction) -> NDArray[np.bool_]:
        """Whether the fixed mix decides about the queries, (n,)."""
        if self.budget is None or prediction.trust is None:
            return np.zeros(len(queries), bool)
        own = [q.min_quality is not None or q.latency_price is not None for q in queries]
        return np.asarray(unfamiliar(prediction.trust) & ~np.array(own, bool))

    def _choose_one(self, query: Query, prediction: Prediction) -> int:
        admissible = within_limits(query, prediction)
        price = self.price if query.price is None else query.price
        latency_price = self.latency_price if query.latency_price is None else query.latency_price
        if query.min_quality is not None:
            sufficient = admissible & (prediction.chance >= query.min_quality)
            price, admissible = (np.inf, sufficient) if sufficient.any() else (0.0, admissible)
        if np.isinf(price):
            prediction, price = replace(prediction, quality=prediction.quality * 0), 1.0
        return int(choose(prediction, price, latency_price=latency_price, admissible=admissible))


def likely(answer: Answer, chance: float) -> str:
    """The reason to keep an answer that is right with a probability of `chance`."""
    return f"{answer.expert}'s answer is right with probability {100 * chance:.0f} %"


def has_limits(query: Query) -> bool:
    """Whether the query has prices or limits of its own."""
    prices = (query.price, query.latency_price)
    limits = (query.min_quality, query.max_cost, query.max_latency, query.allowed)
    return any(value is not None for value in (*prices, *limits))


def within_limits(query: Query, prediction: Prediction) -> NDArray[np.bool_]:
    """The experts that are allowed and predicted to stay within cost and latency, as a mask (e,).

    Raises NoAdmissibleExpert with the reason for each expert if none is left.
    """
    rejected: dict[str, str] = {}
    for m, name in enumerate(prediction.experts):
        cost, latency = prediction.cost[m], prediction.latency[m]
        if not query.permits(name):
            rejected[name] = "is not admissible for this query"
        elif query.max_cost is not None and cost > query.max_cost:
            rejected[name] = f"is expected to cost ${cost:.2g}, over ${query.max_cost:.2g}"
        elif query.max_latency is not None and latency > query.max_latency:
            rejected[name] = f"is expected to take {latency:.2g} s, over {query.max_latency:g} s"
    if len(rejected) == len(prediction.experts):
        raise NoAdmissibleExpert(rejected)
    return np.array([name not in rejected for name in prediction.experts])


def in_time(query: Query, prediction: Prediction, elapsed: float) -> NDArray[np.bool_]:
    """The experts that are predicted to answer before the query's deadline, `elapsed` seconds after
    its start, as a mask (e,); those of unknown latency are among them."""
    if query.max_latency is None:
        return np.ones(len(prediction.experts), bool)
    return np.asarray(~(elapsed + prediction.latency > query.max_latency))
