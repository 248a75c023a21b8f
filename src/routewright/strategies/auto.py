"""Ask, look at the answers, and ask on only while that pays: routing and cascading as one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from routewright.answers.evidence import NOBODY, UNSURE, Evidence, Replies, Rung, RungState
from routewright.errors import NotAdmissible, UpstreamError
from routewright.policies import choose, seconds, take, values
from routewright.strategies._recorded import Recorded, Run, checked
from routewright.strategies.single import Single, within_limits
from routewright.types import Answer, Array, Ask, Decision, Indices, Plan, Prediction, Query

NO_EVIDENCE = Evidence("text", np.array([0.0, 1.0]))


class Weighs(Protocol):
    """A router that may also weigh answers; without evidence only the prompt decides."""

    def predict(self, queries: Sequence[Query]) -> Prediction: ...

    @property
    def evidence(self) -> Evidence | None: ...


@dataclass(frozen=True)
class Auto:
    """Climbs a ladder of committees while that pays, then keeps the best answer or asks one
    expert more.

    After each rung it compares, in expected quality − λ cost − μ latency: keeping the likeliest
    answer, asking one further expert for the last word, and climbing on. Before anybody has
    answered this is single-shot routing. `price` is λ (quality per US$), `latency_price` μ
    (quality per second); a query's own price takes precedence. The members of a rung are asked
    side by side; on a rung that is checked, who gave the likeliest answer verifies it. An answer
    that cannot be read never replaces one that can.

    With evidence from no table, or for a query with `min_quality`, it decides as `single` does.
    """

    router: Weighs
    price: NonNegativeFloat = 0.0
    latency_price: NonNegativeFloat = 0.0

    def plan(self, query: Query) -> Plan:
        evidence = self.router.evidence
        if evidence is None or query.min_quality is not None:
            return (yield from Single(self.router, self.price, self.latency_price).plan(query))
        prediction = self.router.predict([query])
        admissible = within_limits(query, prediction.take(0))
        price = self.price if query.price is None else query.price
        option_chances: Array | None = None
        said: dict[int, Answer] = {}
        answers: Sequence[Answer] = ()
        spent = 0.0
        state: RungState | None = None
        for r, rung in enumerate(evidence.rungs):
            if new := joining(evidence, r):
                options = {"logprobs": True} if evidence.logprobs else {}
                answers = yield tuple(Ask(prediction.experts[m], options=options) for m in new)
                said |= {m: a for m, a in zip(new, answers, strict=True) if a.status == "ok"}
                spent += sum(answer.cost for answer in answers)
                option_chances = (
                    evidence.option_chances([query]) if option_chances is None else option_chances
                )
            replies = _read(evidence, rung, said, option_chances)
            if rung.checked:
                assert state is not None, "nobody has answered before anything is checked"
                sure, cost = yield from self._check(evidence, said[int(state.best[0])])
                replies = replies._replace(checked=state.best, sure=np.array([sure]))
                spent += cost
            state = evidence.assess(r, replies, prediction)
            climb, last = self.decide(evidence, r, state, prediction, price, admissible)
            if not climb[0]:
                break
            toll = float(_tolls(evidence, r, state, prediction.cost)[0])
            if query.max_cost is not None and spent + toll > query.max_cost:
                break
        assert state is not None, "a ladder has a first rung"
        best, further = said.get(int(state.best[0])), int(last[0])
        if best is not None and not _affordable([further], prediction, query, spent):
            further = NOBODY
        if best is None and further == NOBODY:
            return _unreadable(said, answers, prediction)
        return (yield from self._close(evidence, state, prediction, best, further))

    def _check(
        self, evidence: Evidence, answer: Answer
    ) -> Generator[Ask, Any, tuple[float, float]]:
        """How sure an expert is of its own answer, and what it cost to ask, US$; a verification
        that fails, or that cannot be read, tells nothing."""
        try:
            ask = Ask(answer.expert, "verify", of=answer, samples=evidence.verdicts)
            check: Answer = yield ask
        except (UpstreamError, NotAdmissible) as error:
            return UNSURE, getattr(error, "cost", 0.0)
        return UNSURE if check.confidence is None else check.confidence, check.cost

    def _close(
        self,
        evidence: Evidence,
        state: RungState,
        prediction: Prediction,
        best: Answer | None,
        last: int,
    ) -> Generator[Ask, Any, Decision]:
        """Keeps the best answer, or asks one expert more."""
        belief = prediction.take(0)
        chance = float(state.chance[0])
        if last == NOBODY and best is not None:
            because = f"{best.expert}'s answer is right with probability {chance:.2f}"
            return Decision(best, because=because, prediction=belief)
        expert = prediction.experts[last]
        try:
            # An answer that may yet turn out unreadable is not streamed.
            answer: Answer = yield Ask(expert, final=best is None)
        except (UpstreamError, NotAdmissible):
            if best is None:
                raise
            because = f"{expert} could not be asked; best effort"
            return Decision(best, because=because, prediction=belief)
        if best is not None and not evidence.readable(answer.text):
            because = f"{expert} gave no answer that can be read; {best.expert}'s stands"
            return Decision(best, because=because, prediction=belief)
        hope = chance + float(state.gain[0, last])
        because = f"{expert} is expected to score {hope:.2f} for ${belief.cost[last]:.2g}"
        if best is not None:
            because += f", the committee {chance:.2f}"
        return Decision(answer, because=because, prediction=belief)

    def decide(
        self,
        evidence: Evidence,
        r: int,
        state: RungState,
        prediction: Prediction,
        price: float,
        admissible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.bool_], Indices]:
        """For n queries on a rung: climb on? and else whom to ask for the last word, NOBODY to
        keep the best answer or where nobody else may be asked; both (n,)."""
        further = replace(prediction, quality=state.gain)
        last = choose(further, price, latency_price=self.latency_price, admissible=admissible)
        value = values(further, price, self.latency_price)
        worth = take(value if admissible is None else np.where(admissible, value, -np.inf), last)
        enough = (state.best != NOBODY) & (worth <= 0)
        last = np.where(enough | np.isneginf(worth), NOBODY, last)
        if state.onward is None:
            return np.zeros(len(last), bool), last
        climb = evidence.worth_of_onward(state, price) > self._toll(
            evidence, r, state, prediction, price
        )
        if evidence.rungs[r + 1].checked:
            climb &= state.best != NOBODY
        if admissible is not None:
            climb &= admissible[..., joining(evidence, r + 1)].all(axis=-1)
        return climb, last

    def _toll(
        self,
        evidence: Evidence,
        r: int,
        state: RungState,
        prediction: Prediction,
        price: float,
    ) -> Array:
        """What climbing to the next rung takes, in quality, (n,)."""
        toll = price * _tolls(evidence, r, state, prediction.cost)
        if self.latency_price:
            waiting = _tolls(evidence, r, state, seconds(prediction), np.max)
            toll = toll + self.latency_price * waiting
        return np.asarray(toll)

    # --- over recorded outcomes ------------------------------------------------------------

    def over(self, rows: Recorded) -> Run:
        """The same for n recorded queries at once."""
        evidence = self.router.evidence or NO_EVIDENCE
        outcomes, states = rows.pool, rows.states(evidence)
        n, e = outcomes.score.shape
        each = np.arange(n)
        rung, last = np.zeros(n, np.intp), np.full(n, NOBODY)
        climbing = np.ones(n, bool)
        for r, state in enumerate(states):
            climb, then = self.decide(
                evidence, r, state, rows.prediction, self.price, rows.answered
            )
            rung[climbing], last[climbing] = r, then[climbing]
            climbing &= climb
        asked = np.zeros((n, e), bool)
        for r, here in enumerate(evidence.rungs):
            asked[np.ix_(rung == r, here.members)] = True
        best = np.choose(rung, [state.best for state in states])
        asked[each[last != NOBODY], last[last != NOBODY]] = True
        checks = np.zeros(n)
        for r, state in enumerate(states):
            if state.checked is not None:
                checks += np.where(rung >= r, checked(outcomes, state.checked).cost, 0.0)
        kept = last == NOBODY
        either = np.flatnonzero((best != NOBODY) & ~kept)  # the last word, where it can be read
        kept[either] = ~rows.readable(evidence)[either, last[either]]
        arrived = asked & rows.answered
        stands = np.where(best == NOBODY, arrived.argmax(axis=1), best)
        chosen = np.where(kept, stands, last)
        nothing = kept & (best == NOBODY) & ~arrived.any(axis=1)
        return Run(
            score=np.where(nothing, np.nan, outcomes.score[each, chosen]),
            cost=checks + np.where(arrived, outcomes.charges, 0.0).sum(axis=1),
            asked=rows.spread(asked, outcomes.experts),
            undecided=rows.limited,
            rung=rung,
            kept=kept,
        )


def joining(evidence: Evidence, r: int) -> list[int]:
    """Who is newly asked on a rung."""
    below = evidence.rungs[r - 1].members if r else ()
    return [m for m in evidence.rungs[r].members if m not in below]


def _tolls(
    evidence: Evidence,
    r: int,
    state: RungState,
    each: Array,
    add: Callable[..., Any] = np.sum,
) -> Array:
    """What climbing to the next rung takes, (n,), where asking an expert takes `each` (n, e):
    its members' sum, say, or its check."""
    if not evidence.rungs[r + 1].checked:
        return np.asarray(add(each[:, joining(evidence, r + 1)], axis=1))
    rows = np.arange(len(each))
    spent = (
        each[rows, state.best] * np.broadcast_to(evidence.checking, each.shape)[rows, state.best]
    )
    return np.where(state.best == NOBODY, 0.0, spent)


def _read(
    evidence: Evidence, rung: Rung, said: Mapping[int, Answer], option_chances: Array | None
) -> Replies:
    """What has been said to one query."""
    answers = [said.get(m) for m in rung.members]
    texts = np.array([[None if a is None else a.text for a in answers]], dtype=object)
    logprobs = np.array([[np.nan if a is None else a.logprob for a in answers]])
    shape = (1, len(rung.members))
    return evidence.read(texts.reshape(shape), option_chances, logprobs.reshape(shape))


def _unreadable(
    said: Mapping[int, Answer], answers: Sequence[Answer], prediction: Prediction
) -> Decision:
    """The first expert's answer where none can be read and nobody else may be asked. Raises
    UpstreamError if none has arrived."""
    if not said:
        raise UpstreamError.of(answers[0])
    because = "no answer can be read, and nobody else may be asked"
    return Decision(said[min(said)], because=because, prediction=prediction.take(0))


def _affordable(asked: Sequence[int], prediction: Prediction, query: Query, spent: float) -> bool:
    """Does asking them fit into what the query may still cost, as far as can be predicted?"""
    if query.max_cost is None:
        return True
    return bool(
        spent + prediction.cost[0, [m for m in asked if m != NOBODY]].sum() <= query.max_cost
    )
