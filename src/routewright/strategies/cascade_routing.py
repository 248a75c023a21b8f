"""Cascade routing: ask on while the best answer of a larger set is worth more than it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from routewright.answers import votes
from routewright.answers.equivalence import Kind
from routewright.answers.evidence import NOBODY
from routewright.errors import NotAdmissible, UpstreamError
from routewright.policies import TIE
from routewright.strategies import Predicts
from routewright.strategies._recorded import Recorded, Run
from routewright.strategies.single import Single, within_limits
from routewright.types import Answer, Array, Ask, Decision, Indices, Plan, Prediction, Query

NODES, WEIGHTS = (half / 2 for half in np.polynomial.legendre.leggauss(48))
NODES = NODES + 0.5  # of the quadrature over 0..1
ERFC = np.frompyfunc(math.erfc, 1, 1)  # SciPy's is faster, and serving does without SciPy
LEAST_SPREAD = 0.02  # steeper beliefs fall between the nodes


@dataclass(frozen=True)
class CascadeRouting:
    """Looks for the set of further experts with the greatest E[best quality] − λ cost, asks the
    cheapest of them, and looks again; stops where nobody is worth asking (arXiv 2410.10347).

    The quality of those asked is the chance that their answer is right, by a vote weighted with
    the forecasts (`answers` says how answers are compared); that of the others is believed to be
    normal around the forecast. Sets grow by at most `ahead` experts. `price` is λ in quality per
    US$; a query's own price takes precedence. A query with `min_quality` is decided as `single`
    does.
    """

    router: Predicts
    price: NonNegativeFloat = 0.0
    answers: Kind = "auto"
    stretch: float = 1.0
    ahead: int = 3

    def plan(self, query: Query) -> Plan:
        if query.min_quality is not None:
            return (yield from Single(self.router, self.price).plan(query))
        prediction = self.router.predict([query])
        can = within_limits(query, prediction.take(0))[None]
        price = self.price if query.price is None else query.price
        texts = np.full(can.shape, None, dtype=object)
        asked = np.zeros_like(can)
        said: dict[int, Answer] = {}
        failure: UpstreamError | NotAdmissible | None = None
        best, reached, spent = np.array([NOBODY]), np.array([-1.0]), 0.0
        while True:
            left = np.inf if query.max_cost is None else query.max_cost - spent
            m = int(self.decide(asked[0], reached, prediction, price, can, left)[0])
            if m == NOBODY:
                break
            asked[0, m] = True
            # Streamed if nobody could be worth asking afterwards, even if it cannot be read.
            then = self.decide(asked[0], np.zeros(1), prediction, price, can, left)
            final = not said and int(then[0]) == NOBODY
            try:
                answer = yield Ask(prediction.experts[m], final=final)
            except (UpstreamError, NotAdmissible) as error:
                failure = failure or error
                spent += error.cost if isinstance(error, UpstreamError) else 0.0
                continue
            said[m], texts[0, m] = answer, answer.text
            spent += answer.cost
            chance = votes.chances(votes.labels(self.answers, texts), prediction.quality)
            best, reached = votes.leader(chance, np.isin(np.arange(can.shape[1]), list(said))[None])
            if final:
                break
        if not said:
            assert failure is not None, "whoever is admissible is asked before giving up"
            raise failure
        kept = said[int(best[0])]
        because = f"{kept.expert}'s answer is right with probability {reached[0]:.2f}"
        if not (asked | ~can).all():
            because += ", and nobody else is worth asking"
        return Decision(kept, because=because, prediction=prediction.take(0))

    def decide(
        self,
        asked: NDArray[np.bool_],
        reached: Array,
        prediction: Prediction,
        price: float,
        can: NDArray[np.bool_],
        left: float = np.inf,
    ) -> Indices:
        """Whom to ask next for n queries whose experts `asked` (e,) have been asked, NOBODY to
        stop; (n,). `reached` (n,) is the chance of their best answer, −1 where they have none,
        `can` (n, e) says who may be asked, `left` how many US$ may still be spent.

        Larger sets are looked at only where their last member adds more than it costs (lemma 1):
        the expected maximum is submodular, so no better set is missed.
        """
        n, floor = len(reached), np.maximum(reached, 0.0)
        further = [m for m in range(len(asked)) if not asked[m] and can[:, m].any()]
        below = _below(prediction, floor, self.stretch)
        best, whom = np.where(reached < 0, -np.inf, floor), np.full(n, NOBODY)  # stop
        layer: dict[tuple[int, ...], _Set] = {}
        layer[()] = _Set(floor, np.ones((n, len(NODES))), np.zeros(n), np.ones(n, bool))
        for _ in range(self.ahead):
            grown: dict[tuple[int, ...], _Set] = {}
            for members, (parent, under, cost, allowed) in layer.items():
                for m in further[further.index(members[-1]) + 1 :] if members else further:
                    lower = under * below[:, :, m]
                    dollars = cost + prediction.cost[:, m]
                    value = floor + (1 - floor) * ((1 - lower) @ WEIGHTS) - price * dollars
                    fits = allowed & can[:, m] & (dollars <= left)
                    better = fits & (value > best + TIE)
                    cheapest = _cheapest((*members, m), prediction)
                    best, whom = np.where(better, value, best), np.where(better, cheapest, whom)
                    if (fits & (value >= parent)).any():
                        grown[*members, m] = _Set(value, lower, dollars, fits)
            layer = grown
        return whom

    def over(self, rows: Recorded) -> Run:
        """The same for n recorded queries at once."""
        outcomes, prediction, can = rows.pool, rows.prediction, rows.answered
        labels = rows.labels(self.answers)
        asked = np.zeros_like(can)
        best, reached = np.full(len(can), NOBODY), np.full(len(can), -1.0)
        going = np.arange(len(can))
        while len(going):
            on = []
            ways, way = np.unique(asked[going], axis=0, return_inverse=True)
            for w, members in enumerate(ways):
                here = going[way.ravel() == w]
                whom = self.decide(
                    members, reached[here], prediction.take(here), self.price, can[here]
                )
                here, whom = here[whom != NOBODY], whom[whom != NOBODY]
                asked[here, whom] = True
                on.append(here)
            going = np.sort(np.concatenate(on))
            heard = np.where(asked[going], labels[going], -1)
            chance = votes.chances(heard, prediction.quality[going])
            best[going], reached[going] = votes.leader(chance, asked[going])
        return Run(
            score=outcomes.score[np.arange(len(can)), best],
            cost=np.where(asked, outcomes.charges, 0.0).sum(axis=1),
            asked=rows.spread(asked, outcomes.experts),
            undecided=rows.limited,
        )


class _Set(NamedTuple):
    """Further experts, for n queries."""

    value: Array  # (n,) τ: the best quality expected of them and of those asked, less λ cost
    below: Array  # (n, nodes) probability that all of them stay below a node
    cost: Array  # (n,) US$
    fits: NDArray[np.bool_]  # (n,) all of them may be asked


def _below(prediction: Prediction, floor: Array, stretch: float) -> Array:
    """The probability that each expert stays below the quadrature's nodes, which lie between
    what is reached already and 1; (n, nodes, e)."""
    at = floor[:, None] + (1 - floor)[:, None] * NODES
    quality = np.maximum(prediction.quality, 0.0)  # −1: never scored
    spread = np.maximum(stretch * np.nan_to_num(prediction.spread), LEAST_SPREAD)
    away = (at[:, :, None] - quality[:, None, :]) / spread[:, None, :]
    return 0.5 * np.asarray(ERFC(-away / math.sqrt(2)), dtype=np.float64)


def _cheapest(members: tuple[int, ...], prediction: Prediction) -> Indices:
    columns = list(members)
    return np.asarray(np.array(columns)[prediction.cost[:, columns].argmin(axis=1)])
