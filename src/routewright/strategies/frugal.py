"""A cascade with thresholds: climb until an answer is likely enough to be right (FrugalGPT)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from routewright.answers import votes
from routewright.answers.equivalence import Kind
from routewright.answers.evidence import NOBODY, Evidence, RungState
from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.strategies._recorded import Recorded, Run
from routewright.strategies.single import within_limits
from routewright.types import Answer, Array, Ask, Decision, Indices, Plan, Prediction, Query

Texts = np.ndarray[Any, np.dtype[Any]]  # (n, e) of str, None where nothing has been said
Mask = NDArray[np.bool_]


class Ranks(Protocol):
    """A router that may weigh answers, and knows how good its experts are on average."""

    @property
    def mean(self) -> Array: ...

    @property
    def evidence(self) -> Evidence | None: ...

    def predict(self, queries: Sequence[Query]) -> Prediction: ...


class Step(NamedTuple):
    """A rung, for n queries that climb to it: who is asked there, and what is known then."""

    new: Mask  # (n, e); nobody where the ladder has ended
    best: Indices  # (n,) whose answer is the likeliest to be right; NOBODY where none can be read
    chance: Array  # (n,) that it is right


@dataclass(frozen=True)
class Frugal:
    """Climbs until the best answer is right with probability `trust`; above the top rung `last`
    has the last word (FrugalGPT, arXiv 2305.05176).

    The rungs are the committees of the router's evidence. Without evidence they are its experts
    one by one, cheapest first, as far as they cost no more than `last`, weighed by a vote of their
    forecasts (`answers` says how answers are compared). `trust` is one number or one per rung;
    above 1 it is never reached. `last` is by default the expert of the best mean quality; if its
    answer cannot be read the best one so far stands. A query's `min_quality` raises the
    thresholds.
    """

    router: Ranks
    trust: float | tuple[float, ...] = 0.8
    last: str | None = None
    answers: Kind = "auto"

    def plan(self, query: Query) -> Plan:
        prediction = self.router.predict([query])
        can = within_limits(query, prediction.take(0))[None]
        asked = np.zeros_like(can)
        texts: Texts = np.full(can.shape, None, dtype=object)
        paid: list[Answer] = []
        best = NOBODY
        for r, new in enumerate(self._rungs(prediction, can)):
            members = np.flatnonzero(new[0]).tolist()
            if not members or not _affordable(members, prediction, query, paid):
                break
            try:
                said = yield tuple(Ask(prediction.experts[m]) for m in members)
            except NotAdmissible:
                break
            paid += said
            asked |= new
            for m, answer in zip(members, said, strict=True):
                texts[0, m] = answer.text if answer.status == "ok" else None
            leading, chances = self._weigh(r, texts, prediction)
            best, chance, enough = int(leading[0]), float(chances[0]), self.threshold(r)
            if best != NOBODY and chance >= max(enough, query.min_quality or 0.0):
                kept = next(a for a in paid if a.expert == prediction.experts[best])
                because = f"{kept.expert}'s answer is right with probability {chance:.2f}"
                because += f", {enough:.2f} is enough"
                return Decision(kept, because=because, prediction=prediction.take(0))
        if query.max_cost is not None:
            left = query.max_cost - sum(answer.cost for answer in paid)
            can &= prediction.cost <= left
        return (yield from self._close(prediction, can, asked, best, paid))

    def _close(
        self, prediction: Prediction, can: Mask, asked: Mask, best: int, paid: Sequence[Answer]
    ) -> Generator[Ask, Any, Decision]:
        """The last word above the ladder: the best answer stands if nobody says a better one."""
        failure: UpstreamError | NotAdmissible | None = None
        arrived = {prediction.experts.index(a.expert): a for a in paid if a.status == "ok"}
        stands = arrived.get(best if best != NOBODY else min(arrived, default=NOBODY))
        because = "nobody else may have the last word"
        while (m := int(self._whom(asked, np.array([best]), prediction, can)[0])) != NOBODY:
            expert = prediction.experts[m]
            try:
                # Nothing readable has been said, so whatever this expert says is the answer.
                answer: Answer = yield Ask(expert, final=best == NOBODY)
            except (UpstreamError, NotAdmissible) as error:
                failure, because = failure or error, f"{expert} could not be asked; best effort"
                asked[0, m] = True
                if stands is None:
                    continue
                break
            if best == NOBODY or self._reads(answer.text):
                because = f"no answer before {expert}'s was trusted"
                return Decision(answer, because=because, prediction=prediction.take(0))
            assert stands is not None, "an answer that can be read has arrived"
            because = f"{expert} gave no answer that can be read; {stands.expert}'s stands"
            break
        if stands is None:
            if paid:
                raise UpstreamError.of(paid[0])
            assert failure is not None, "whoever is admissible is asked before giving up"
            raise failure
        return Decision(stands, because=because, prediction=prediction.take(0))

    def threshold(self, rung: int) -> float:
        """What is enough on a rung; the last number given holds for all above."""
        if not isinstance(self.trust, tuple):
            return self.trust
        return self.trust[min(rung, len(self.trust) - 1)]

    def _rungs(self, prediction: Prediction, can: Mask) -> Iterator[Mask]:
        """Who is newly asked on each rung, (n, e); nobody where a member may not be asked."""
        evidence = self.router.evidence
        if evidence is None:
            yield from self._one_by_one(prediction, can)
            return
        here: Sequence[int] = ()
        may = np.ones(len(can), bool)
        for rung in evidence.rungs:
            joins = [m for m in rung.members if m not in here]
            if joins:
                may = may & can[:, joins].all(axis=1)
                joining = np.isin(np.arange(can.shape[1]), joins)
                yield may[:, None] & joining
            here = rung.members

    def _one_by_one(self, prediction: Prediction, can: Mask) -> Iterator[Mask]:
        """One expert a rung, cheapest first, up to the price of the last word."""
        rows = np.arange(len(can))
        nobody = np.full(len(can), NOBODY)
        top = self._whom(np.zeros_like(can), nobody, prediction, can)
        dear = prediction.cost[rows, top][:, None]
        price = np.where(can & (prediction.cost <= dear), prediction.cost, np.inf)
        price[rows, top] = np.inf
        order = price.argsort(axis=1, kind="stable")
        for m in order.T:
            new = np.zeros_like(can)
            new[rows, m] = np.isfinite(price[rows, m])
            if not new.any():
                return
            yield new

    def _weigh(
        self,
        rung: int,
        texts: Texts,
        prediction: Prediction,
        states: Sequence[RungState] | None = None,
    ) -> tuple[Indices, Array]:
        """Whose answer is the likeliest to be right, and how likely, (n,) each."""
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

    def _whom(self, asked: Mask, best: Indices, prediction: Prediction, can: Mask) -> Indices:
        """Who has the last word, (n,): `last`; NOBODY where it has spoken or may not be asked.
        Where nobody has given a readable answer, whoever is forecast to be best of the rest."""
        last = self._last(prediction.experts)
        free = can & ~asked
        quality = np.where(free, prediction.quality, -np.inf)
        quality[:, last] = np.where(free[:, last], np.inf, -np.inf)
        nobody = ~np.where(best != NOBODY, free[:, last], free.any(axis=1))
        return np.where(nobody, NOBODY, quality.argmax(axis=1))

    def _last(self, experts: Sequence[str]) -> int:
        if self.last is None:
            return int(np.nanargmax(self.router.mean))
        if self.last not in experts:
            raise BadInput(f"no expert '{self.last}': the router has {', '.join(experts)}")
        return experts.index(self.last)

    def _reads(self, text: str) -> bool:
        if self.router.evidence is not None:
            return self.router.evidence.readable(text)
        return bool(votes.labels(self.answers, np.array([[text]], dtype=object))[0, 0] >= 0)

    # --- over recorded outcomes ------------------------------------------------------------

    def steps(self, rows: Recorded) -> list[Step]:
        """Every rung for n recorded queries that climb the whole ladder; no threshold matters."""
        on = (self.router.evidence, self.answers, self.last)
        return rows.once("steps", on, lambda: self._steps(rows))

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
        """The same for n recorded queries at once."""
        outcomes, can, n = rows.pool, rows.answered, len(rows.pool)
        each = np.arange(n)
        asked, kept, climbing = np.zeros_like(can), np.zeros(n, bool), np.ones(n, bool)
        best, rung = np.full(n, NOBODY), np.zeros(n, np.intp)
        for r, step in enumerate(self.steps(rows)):
            climbing = climbing & step.new.any(axis=1)
            asked |= step.new & climbing[:, None]
            best, rung = np.where(climbing, step.best, best), rung + climbing
            trusted = climbing & (step.best != NOBODY) & (step.chance >= self.threshold(r))
            kept, climbing = kept | trusted, climbing & ~trusted
        last = np.where(kept, NOBODY, self._whom(asked, best, rows.prediction, can))
        kept = (last == NOBODY) | ((best != NOBODY) & ~self._readable(rows)[each, last])
        stands = np.where(best == NOBODY, asked.argmax(axis=1), best)
        chosen = np.where(kept, stands, last)
        asked[each[last != NOBODY], last[last != NOBODY]] = True
        return Run(
            score=outcomes.score[each, chosen],
            cost=np.where(asked, outcomes.charges, 0.0).sum(axis=1),
            asked=rows.spread(asked, outcomes.experts),
            undecided=rows.limited,
            rung=rung,
            kept=kept,
        )

    def _readable(self, rows: Recorded) -> Mask:
        """(n, e): is there a recorded answer that can be read?"""
        if self.router.evidence is not None:
            return rows.readable(self.router.evidence)
        return np.asarray(rows.labels(self.answers) >= 0)


def _affordable(
    members: Sequence[int], prediction: Prediction, query: Query, paid: Sequence[Answer]
) -> bool:
    """Does a rung fit into what the query may still cost?"""
    if query.max_cost is None:
        return True
    toll = float(prediction.cost[0, list(members)].sum())
    return sum(answer.cost for answer in paid) + toll <= query.max_cost
