"""Cascade routing: ask further while the best answer of a larger set is worth its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat

from routewright.answers import votes
from routewright.answers.equivalence import Kind
from routewright.answers.evidence import NOBODY
from routewright.errors import NotAdmissible, UpstreamError
from routewright.policies import TIE
from routewright.strategies import Predicts
from routewright.strategies._recorded import Recorded, Run
from routewright.strategies.single import Single, likely, within_limits
from routewright.types import Answer, Array, Ask, Decision, Indices, Plan, Prediction, Query

NODES, WEIGHTS = (half / 2 for half in np.polynomial.legendre.leggauss(48))
NODES = NODES + 0.5  # of the quadrature over 0..1
ERFC = np.frompyfunc(math.erfc, 1, 1)  # SciPy's is faster, and serving does without SciPy
MOST_AHEAD = 5  # there are some 100,000 sets of five among 30 experts
LEAST_SPREAD = 0.02  # with a smaller spread, the nodes miss the step


@dataclass(frozen=True)
class CascadeRouting:
    """Finds the set of further experts with the greatest E[best quality] − λ cost, asks the
    cheapest of them, and repeats; stops when no expert is worth asking (arXiv 2410.10347).

    The quality of an expert that has answered is the chance that its answer is right, by a vote
    weighted with the forecasts (`answers` is the kind of comparison). The quality of any other
    expert has a normal distribution around the forecast; `stretch` scales its spread. A set has at
    most `ahead` further experts. `price` is λ in quality per US$; a query's own price takes
    precedence. A query with `min_quality` is decided as `single` does.
    """

    router: Predicts
    price: NonNegativeFloat = 0.0
    answers: Kind = "auto"
    stretch: NonNegativeFloat = 1.0
    ahead: Annotated[int, Field(ge=1, le=MOST_AHEAD)] = 3

    def plan(self, query: Query) -> Plan:
        if query.min_quality is not None:
            return (yield from Single(self.router, self.price).plan(query))
        prediction = self.router.predict([query])
        admissible = within_limits(query, prediction.take(0))[None]
        price = self.price if query.price is None else query.price
        texts = np.full(admissible.shape, None, dtype=object)
        asked = np.zeros_like(admissible)
        answers: dict[int, Answer] = {}
        failure: UpstreamError | NotAdmissible | None = None
        best, reached, spent = np.array([NOBODY]), np.array([-1.0]), 0.0
        while True:
            left = np.inf if query.max_cost is None else query.max_cost - spent
            expert = int(self.decide(asked[0], reached, prediction, price, admissible, left)[0])
            if expert == NOBODY:
                break
            asked[0, expert] = True
            # Streamed if no expert is worth asking afterwards, even if the answer is unreadable.
            next_expert = self.decide(asked[0], np.zeros(1), prediction, price, admissible, left)
            final = not answers and int(next_expert[0]) == NOBODY
            try:
                answer = yield Ask(prediction.experts[expert], final=final)
            except (UpstreamError, NotAdmissible) as error:
                failure = failure or error
                spent += error.cost if isinstance(error, UpstreamError) else 0.0
                continue
            answers[expert], texts[0, expert] = answer, answer.content
            spent += answer.cost
            chance = votes.chances(votes.labels(self.answers, texts), prediction.quality)
            best, reached = votes.leader(
                chance, np.isin(np.arange(admissible.shape[1]), list(answers))[None]
            )
            if final:
                break
        if not answers:
            assert failure is not None, "every admissible expert is asked before giving up"
            raise failure
        best_answer = answers[int(best[0])]
        because = likely(best_answer, float(reached[0]))
        if not (asked | ~admissible).all():
            because += ", and no other expert is worth asking"
        return Decision(best_answer, because=because, prediction=prediction.take(0))

    def decide(
        self,
        asked: NDArray[np.bool_],
        reached: Array,
        prediction: Prediction,
        price: float,
        admissible: NDArray[np.bool_],
        left: float = np.inf,
    ) -> Indices:
        """The next expert to ask, for n queries whose experts `asked` (e,) have been asked; NOBODY
        to stop; (n,). `reached` (n,) is the chance of the best answer, −1 where there is none,
        `admissible` (n, e) marks the experts that may be asked, `left` is the US$ left to spend.

        Larger sets are tried only where their last member adds more than it costs (lemma 1): the
        expected maximum is submodular, so no better set is missed.
        """
        n, floor = len(reached), np.maximum(reached, 0.0)
        further = [m for m in range(len(asked)) if not asked[m] and admissible[:, m].any()]
        below = _below(prediction, floor, self.stretch)
        best, choice = np.where(reached < 0, -np.inf, floor), np.full(n, NOBODY)  # stop
        layer: dict[tuple[int, ...], _Set] = {}
        layer[()] = _Set(floor, np.ones((n, len(NODES))), np.zeros(n), np.ones(n, bool))
        for _ in range(self.ahead):
            grown: dict[tuple[int, ...], _Set] = {}
            for members, (parent, under, cost, allowed) in layer.items():
                for m in further[further.index(members[-1]) + 1 :] if members else further:
                    lower = under * below[:, :, m]
                    dollars = cost + prediction.cost[:, m]
                    value = floor + (1 - floor) * ((1 - lower) @ WEIGHTS) - price * dollars
                    fits = allowed & admissible[:, m] & (dollars <= left)
                    better = fits & (value > best + TIE)
                    cheapest = _cheapest((*members, m), prediction)
                    best, choice = np.where(better, value, best), np.where(better, cheapest, choice)
                    if (fits & (value >= parent)).any():
                        grown[*members, m] = _Set(value, lower, dollars, fits)
            layer = grown
        return choice

    def over(self, rows: Recorded) -> Run:
        """Runs the strategy on n recorded queries at once."""
        outcomes, prediction, admissible = rows.pool, rows.prediction, rows.answered
        labels = rows.labels(self.answers)
        asked = np.zeros_like(admissible)
        best, reached = np.full(len(admissible), NOBODY), np.full(len(admissible), -1.0)
        active = np.arange(len(admissible))
        while len(active):
            still_active = []
            sets, set_index = np.unique(asked[active], axis=0, return_inverse=True)
            for s, members in enumerate(sets):
                rows_of_set = active[set_index.ravel() == s]
                choice = self.decide(
                    members,
                    reached[rows_of_set],
                    prediction.take(rows_of_set),
                    self.price,
                    admissible[rows_of_set],
                )
                rows_of_set, choice = rows_of_set[choice != NOBODY], choice[choice != NOBODY]
                asked[rows_of_set, choice] = True
                still_active.append(rows_of_set)
            active = np.sort(np.concatenate(still_active))
            answers_so_far = np.where(asked[active], labels[active], -1)
            chance = votes.chances(answers_so_far, prediction.quality[active])
            best[active], reached[active] = votes.leader(chance, asked[active])
        return Run(
            score=outcomes.score[np.arange(len(admissible)), best],
            cost=np.where(asked, outcomes.charges, 0.0).sum(axis=1),
            asked=rows.widen(asked, outcomes.experts),
            undecided=rows.limited,
        )


class _Set(NamedTuple):
    """Further experts, for n queries."""

    value: Array  # (n,) τ: expected best quality of them and of those asked, less λ cost
    below: Array  # (n, nodes) probability that all of them are below a node
    cost: Array  # (n,) US$
    fits: NDArray[np.bool_]  # (n,) whether all of them may be asked


def _below(prediction: Prediction, floor: Array, stretch: float) -> Array:
    """The probability that the quality of each expert is below the quadrature's nodes, which lie
    between the quality reached so far and 1; (n, nodes, e)."""
    at = floor[:, None] + (1 - floor)[:, None] * NODES
    quality = np.maximum(prediction.quality, 0.0)  # −1: never scored
    spread = np.maximum(stretch * np.nan_to_num(prediction.spread), LEAST_SPREAD)
    away = (at[:, :, None] - quality[:, None, :]) / spread[:, None, :]
    return 0.5 * np.asarray(ERFC(-away / math.sqrt(2)), dtype=np.float64)


def _cheapest(members: tuple[int, ...], prediction: Prediction) -> Indices:
    columns = list(members)
    return np.asarray(np.array(columns)[prediction.cost[:, columns].argmin(axis=1)])
