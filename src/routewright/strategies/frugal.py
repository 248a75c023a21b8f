"""A cascade with thresholds: climb until an answer is likely enough to be right (FrugalGPT)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routewright.answers import votes
from routewright.answers.equivalence import Kind
from routewright.answers.evidence import NOBODY, Evidence, RungState
from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.strategies._recorded import Recorded, Run
from routewright.strategies.single import likely, within_limits
from routewright.types import Answer, Array, Ask, Decision, Indices, Plan, Prediction, Query

Texts = np.ndarray[Any, np.dtype[Any]]  # (n, e) of str, None where there is no answer
Mask = NDArray[np.bool_]


class RouterWithMeans(Protocol):
    """A router that may weigh answers and knows the mean score of each expert."""

    @property
    def mean(self) -> Array: ...

    @property
    def evidence(self) -> Evidence | None: ...

    def predict(self, queries: Sequence[Query]) -> Prediction: ...


class Step(NamedTuple):
    """A rung, for n queries that climb to it: the experts asked there, and the best answer then."""

    new: Mask  # (n, e) experts asked; none where the ladder has ended
    best: Indices  # (n,) the expert with the likeliest answer; NOBODY where none is readable
    chance: Array  # (n,) that it is right


@dataclass(frozen=True)
class Frugal:
    """Climbs until the best answer is right with probability `trust`; above the top rung it asks
    the expert `last` (FrugalGPT, arXiv 2305.05176).

    The rungs are the committees of the router's evidence. Without evidence they are its single
    experts, cheapest first, up to the cost of `last`; a vote weighted by their forecasts gives the
    probabilities (`answers` is the kind of comparison). `trust` is one number or one per rung; a
    number above 1 is never reached. `last` is by default the expert with the best mean quality; if
    its answer is unreadable, the best answer so far is kept. A query's `min_quality` raises the
    thresholds.
    """

    router: RouterWithMeans
    trust: float | Annotated[tuple[float, ...], Field(min_length=1)] = 0.8
    last: str | None = None
    answers: Kind = "auto"

    def plan(self, query: Query) -> Plan:
        prediction = self.router.predict([query])
        admissible = within_limits(query, prediction.take(0))[None]
        asked = np.zeros_like(admissible)
        texts: Texts = np.full(admissible.shape, None, dtype=object)
        paid: list[Answer] = []
        best = NOBODY
        for r, joining in enumerate(self._rungs(prediction, admissible)):
            members = np.flatnonzero(joining[0]).tolist()
            if not members or not _affordable(members, prediction, query, paid):
                break
            try:
                replies = yield tuple(Ask(prediction.experts[m]) for m in members)
            except NotAdmissible:
                break
            paid += replies
            asked |= joining
            for m, answer in zip(members, replies, strict=True):
                texts[0, m] = answer.content if answer.status == "ok" else None
            leading, chances = self._weigh(r, texts, prediction)
            best, chance, threshold = int(leading[0]), float(chances[0]), self.threshold(r)
            if best != NOBODY and chance >= max(threshold, query.min_quality or 0.0):
                best_answer = next(a for a in paid if a.expert == prediction.experts[best])
                because = f"{likely(best_answer, chance)}, {threshold:.2f} is enough"
                return Decision(best_answer, because=because, prediction=prediction.take(0))
        if query.max_cost is not None:
            left = query.max_cost - sum(answer.cost for answer in paid)
            admissible &= prediction.cost <= left
        return (yield from self._close(prediction, admissible, asked, best, paid))

    def _close(
        self,
        prediction: Prediction,
        admissible: Mask,
        asked: Mask,
        best: int,
        paid: Sequence[Answer],
    ) -> Generator[Ask, Any, Decision]:
        """Asks the last expert; keeps the best answer if it fails or is unreadable."""
        failure: UpstreamError | NotAdmissible | None = None
        arrived = {prediction.experts.index(a.expert): a for a in paid if a.status == "ok"}
        fallback_answer = arrived.get(best if best != NOBODY else min(arrived, default=NOBODY))
        because = "no other expert may be asked"
        leading = np.array([best])
        while True:
            m = int(self._last_expert(asked, leading, prediction, admissible)[0])
            if m == NOBODY:
                break
            expert = prediction.experts[m]
            try:
                # Without a readable answer, whatever this expert answers is the final one.
                answer: Answer = yield Ask(expert, final=best == NOBODY)
            except (UpstreamError, NotAdmissible) as error:
                failure, because = failure or error, f"{expert} could not be asked; best effort"
                asked[0, m] = True
                if fallback_answer is None:
                    continue
                break
            if best == NOBODY or self._is_readable(answer.content):
                because = f"no answer before {expert}'s was likely enough to be right"
                return Decision(answer, because=because, prediction=prediction.take(0))
            assert fallback_answer is not None, "a readable answer has arrived"
            because = f"{expert} gave no readable answer; {fallback_answer.expert}'s is kept"
            break
        if fallback_answer is None:
            if paid:
                raise UpstreamError.of(*paid)
            assert failure is not None, "every admissible expert is asked before giving up"
            raise failure
        return Decision(fallback_answer, because=because, prediction=prediction.take(0))

    def threshold(self, rung: int) -> float:
        """The probability that is enough on a rung; the last number holds for all rungs above."""
        if not isinstance(self.trust, tuple):
            return self.trust
        return self.trust[min(rung, len(self.trust) - 1)]

    def _rungs(self, prediction: Prediction, admissible: Mask) -> Iterator[Mask]:
        """The experts newly asked on each rung, (n, e); none where a member may not be asked."""
        evidence = self.router.evidence
        if evidence is None:
            yield from self._one_by_one(prediction, admissible)
            return
        members: Sequence[int] = ()
        permitted = np.ones(len(admissible), bool)
        for rung in evidence.rungs:
            joining = [m for m in rung.members if m not in members]
            if joining:
                permitted = permitted & admissible[:, joining].all(axis=1)
                newly_asked = np.isin(np.arange(admissible.shape[1]), joining)
                yield permitted[:, None] & newly_asked
            members = rung.members

    def _one_by_one(self, prediction: Prediction, admissible: Mask) -> Iterator[Mask]:
        """One expert per rung, cheapest first, up to the cost of the last expert."""
        rows = np.arange(len(admissible))
        nobody = np.full(len(admissible), NOBODY)
        top = self._last_expert(np.zeros_like(admissible), nobody, prediction, admissible)
        limit = prediction.cost[rows, top][:, None]
        price = np.where(admissible & (prediction.cost <= limit), prediction.cost, np.inf)
        price[rows, top] = np.inf
        order = price.argsort(axis=1, kind="stable")
        for m in order.T:
            step = np.zeros_like(admissible)
            step[rows, m] = np.isfinite(price[rows, m])
            if not step.any():
                return
            yield step

    def _weigh(
        self,
        rung: int,
        texts: Texts,
        prediction: Prediction,
        states: Sequence[RungState] | None = None,
    ) -> tuple[Indices, Array]:
        """The expert with the likeliest answer and the chance that it is right, (n,) each."""
        evidence = self.router.evidence
        if evidence is not None:
            r = [r for r, step in enumerate(evidence.rungs) if step.members][rung]
            if states is not None:
                return states[r].best, states[r].chance
            replies = evidence.read(texts[:, list(evidence.rungs[r].members)])
            state = evidence.assess(r, replies, prediction)
            return state.best, state.chance
        labels = votes.labels(self.answers, texts)
        best, chance = votes.leader(votes.chances(labels, prediction.quality), labels >= 0)
        return best, np.maximum(chance, 0.0)

    def _last_expert(
        self, asked: Mask, best: Indices, prediction: Prediction, admissible: Mask
    ) -> Indices:
        """The expert to ask last, (n,): `last`; NOBODY where it has answered or may not be asked.
        Where no answer is readable, the expert of the rest with the best forecast."""
        last = self._last_column(prediction.experts)
        free = admissible & ~asked
        quality = np.where(free, prediction.quality, -np.inf)
        quality[:, last] = np.where(free[:, last], np.inf, -np.inf)
        none_left = ~np.where(best != NOBODY, free[:, last], free.any(axis=1))
        return np.where(none_left, NOBODY, quality.argmax(axis=1))

    def _last_column(self, experts: Sequence[str]) -> int:
        if self.last is None:
            return int(np.nanargmax(self.router.mean))
        if self.last not in experts:
            raise BadInput(f"no expert '{self.last}': the router has {', '.join(experts)}")
        return experts.index(self.last)

    def _is_readable(self, text: str) -> bool:
        if self.router.evidence is not None:
            return self.router.evidence.readable(text)
        return bool(votes.labels(self.answers, np.array([[text]], dtype=object))[0, 0] >= 0)

    # --- over recorded outcomes ------------------------------------------------------------

    def steps(self, rows: Recorded) -> list[Step]:
        """Every rung for n recorded queries if they climb the whole ladder."""
        inputs = (self.router.evidence, self.answers, self.last)
        return rows.cached("steps", inputs, lambda: self._steps(rows))

    def _steps(self, rows: Recorded) -> list[Step]:
        evidence, answers = self.router.evidence, votes.recorded(rows.pool)
        states = None if evidence is None else rows.states(evidence)
        asked = np.zeros(answers.shape, bool)
        steps = []
        for r, new in enumerate(self._rungs(rows.prediction, rows.answered)):
            asked |= new
            texts = answers.copy()
            texts[~asked] = None
            steps.append(Step(new, *self._weigh(r, texts, rows.prediction, states)))
        return steps

    def over(self, rows: Recorded) -> Run:
        """Runs the strategy on n recorded queries at once."""
        outcomes, admissible, n = rows.pool, rows.answered, len(rows.pool)
        row = np.arange(n)
        asked, kept, climbing = np.zeros_like(admissible), np.zeros(n, bool), np.ones(n, bool)
        best, rung = np.full(n, NOBODY), np.zeros(n, np.intp)
        for r, step in enumerate(self.steps(rows)):
            climbing = climbing & step.new.any(axis=1)
            asked |= step.new & climbing[:, None]
            best, rung = np.where(climbing, step.best, best), rung + climbing
            trusted = climbing & (step.best != NOBODY) & (step.chance >= self.threshold(r))
            kept, climbing = kept | trusted, climbing & ~trusted
        last = np.where(kept, NOBODY, self._last_expert(asked, best, rows.prediction, admissible))
        kept = (last == NOBODY) | ((best != NOBODY) & ~self._readable(rows)[row, last])
        fallback_answer = np.where(best == NOBODY, asked.argmax(axis=1), best)
        chosen = np.where(kept, fallback_answer, last)
        asked[row[last != NOBODY], last[last != NOBODY]] = True
        return Run(
            score=outcomes.score[row, chosen],
            cost=np.where(asked, outcomes.charges, 0.0).sum(axis=1),
            asked=rows.widen(asked, outcomes.experts),
            undecided=rows.limited,
            rung=rung,
            kept=kept,
        )

    def _readable(self, rows: Recorded) -> Mask:
        """(n, e): whether a readable answer is recorded."""
        if self.router.evidence is not None:
            return rows.readable(self.router.evidence)
        return np.asarray(rows.labels(self.answers) >= 0)


def _affordable(
    members: Sequence[int], prediction: Prediction, query: Query, paid: Sequence[Answer]
) -> bool:
    """Whether the predicted cost of a rung fits into the rest of the query's `max_cost`."""
    if query.max_cost is None:
        return True
    cost = float(prediction.cost[0, list(members)].sum())
    return sum(answer.cost for answer in paid) + cost <= query.max_cost
