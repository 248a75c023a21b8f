"""Ask, weigh the answers, and ask further only while that pays: routing and cascading in one."""

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
from routewright.strategies import Predicts
from routewright.strategies._fixed_mix import KnowsMeans, by_fixed_mix, fixed_asks, unfamiliar
from routewright.strategies._recorded import Recorded, Run, verifications
from routewright.strategies.single import Single, in_time, likely, within_limits
from routewright.types import (
    Answer,
    Array,
    Ask,
    Decision,
    Indices,
    Plan,
    Prediction,
    Query,
    Unlike,
)

NO_EVIDENCE = Evidence("text", np.array([0.0, 1.0]))


class RouterWithEvidence(Predicts, KnowsMeans, Protocol):
    """A router that may also weigh answers; without evidence, only the prompt decides."""

    @property
    def evidence(self) -> Evidence | None: ...


@dataclass(frozen=True)
class Auto:
    """Climbs a ladder of committees while that pays, then keeps the best answer or asks one
    expert more.

    After each rung it compares three choices by expected quality − λ cost − μ latency: keep the
    likeliest answer, ask one more expert for a last answer, or climb. Before any expert has
    answered, this is single-shot routing. `price` is λ (quality per US$), `latency_price` μ
    (quality per second); a query's own price takes precedence. The members of a rung are asked
    concurrently; on a `checked` rung, the expert with the likeliest answer verifies it. An
    unreadable answer never replaces a readable one.

    `budget` (US$ per query) is for queries unlike the training rows: the fixed mix of that cost
    decides where the query is unfamiliar, before any ask, and where no answer of the first
    committee can be read, with what is left of the budget. Without it, predictions decide there.

    Without evidence, or for a query with `min_quality`, it decides as `single` does.
    """

    router: RouterWithEvidence
    price: NonNegativeFloat = 0.0
    latency_price: NonNegativeFloat = 0.0
    budget: NonNegativeFloat | None = None

    def plan(self, query: Query) -> Plan:
        evidence = self.router.evidence
        if evidence is None or query.min_quality is not None:
            single = Single(self.router, self.price, self.latency_price, self.budget)
            return (yield from single.plan(query))
        prediction = self.router.predict([query])
        belief = prediction.take(0)
        admissible = within_limits(query, belief)
        price = self.price if query.price is None else query.price
        option_chances: Array | None = None
        answers: dict[int, Answer] = {}
        replies_of_rung: Sequence[Answer] = ()
        spent, elapsed = 0.0, 0.0
        state: RungState | None = None
        for r, rung in enumerate(evidence.rungs):
            if new := new_members(evidence, r):
                options = {"logprobs": True} if evidence.logprobs else {}
                replies_of_rung = yield tuple(
                    Ask(prediction.experts[m], options=options) for m in new
                )
                answers |= {
                    m: a for m, a in zip(new, replies_of_rung, strict=True) if a.status == "ok"
                }
                spent += sum(answer.cost for answer in replies_of_rung)
                elapsed += _slowest(replies_of_rung)
                admissible &= in_time(query, belief, elapsed)
                option_chances = (
                    evidence.option_chances([query]) if option_chances is None else option_chances
                )
            replies = _read(evidence, rung, query, answers, option_chances)
            if rung.checked:
                assert state is not None, "a rung with answers lies below every checked rung"
                answer = answers[int(state.best[0])]
                confidence, cost, time = yield from self._check(evidence, answer)
                replies = replies._replace(checked=state.best, confidence=np.array([confidence]))
                spent, elapsed = spent + cost, elapsed + time
                admissible &= in_time(query, belief, elapsed)
            state = evidence.assess(r, replies, prediction)
            lot = np.array([query.lot])
            climb, last = self.decide(evidence, r, state, prediction, price, admissible, lot)
            if not climb[0]:
                break
            cost_of_climbing = float(_costs_of_climbing(evidence, r, state, prediction.cost)[0])
            if query.max_cost is not None and spent + cost_of_climbing > query.max_cost:
                break
            time_of_climbing = _costs_of_climbing(evidence, r, state, prediction.latency, np.max)
            if query.max_latency is not None and elapsed + time_of_climbing[0] > query.max_latency:
                break
        assert state is not None, "a ladder has a first rung"
        unlike: Unlike = ""
        if self._unlike(evidence, r, state, prediction)[0]:
            unlike = "answers" if r else "query"
        best, further = answers.get(int(state.best[0])), int(last[0])
        if best is not None and not _affordable([further], prediction, query, spent):
            further = NOBODY
        if best is None and further == NOBODY:
            decision = _unreadable(answers, replies_of_rung, prediction)
        else:
            decision = yield from self._close(evidence, state, prediction, best, further, unlike)
        return by_fixed_mix(decision, unlike) if unlike else decision

    def _check(
        self, evidence: Evidence, answer: Answer
    ) -> Generator[Ask, Any, tuple[float, float, float]]:
        """An expert's confidence in its own answer, and the cost in US$ and the seconds of that
        verification; UNSURE if the verification fails or cannot be read."""
        try:
            ask = Ask(answer.expert, "verify", of=answer, samples=evidence.verdicts)
            check: Answer = yield ask
        except (UpstreamError, NotAdmissible) as error:
            return UNSURE, getattr(error, "cost", 0.0), 0.0
        confidence = UNSURE if check.confidence is None else check.confidence
        return confidence, check.cost, _slowest((check,))

    def _close(
        self,
        evidence: Evidence,
        state: RungState,
        prediction: Prediction,
        best: Answer | None,
        last: int,
        unlike: Unlike,
    ) -> Generator[Ask, Any, Decision]:
        """Keeps the best answer, or asks one more expert."""
        belief = prediction.take(0)
        chance = float(state.chance[0])
        if last == NOBODY and best is not None:
            return Decision(best, because=likely(best, chance), prediction=belief)
        expert = prediction.experts[last]
        try:
            # An answer that may be unreadable is not streamed if another one could replace it.
            answer: Answer = yield Ask(expert, final=best is None, unlike=unlike)
        except (UpstreamError, NotAdmissible):
            if best is None:
                raise
            because = f"{expert} could not be asked; best effort"
            return Decision(best, because=because, prediction=belief)
        if best is not None and not evidence.readable(answer.content):
            because = f"{expert} gave no readable answer; {best.expert}'s is kept"
            return Decision(best, because=because, prediction=belief)
        expected_score = chance + float(state.gain[0, last])
        because = f"{expert} is expected to score {100 * expected_score:.0f} %"
        because += f" for ${belief.cost[last]:.6f}"
        if best is not None:
            because += f", the committee {100 * chance:.0f} %"
        return Decision(answer, because=because, prediction=belief)

    def decide(
        self,
        evidence: Evidence,
        r: int,
        state: RungState,
        prediction: Prediction,
        price: float,
        admissible: NDArray[np.bool_] | None = None,
        lot: Array | None = None,
    ) -> tuple[NDArray[np.bool_], Indices]:
        """For n queries on a rung: whether to climb, and otherwise which expert to ask last; both
        (n,). NOBODY keeps the best answer, because it is good enough or no other expert may be
        asked. `lot` (n,) decides what a fixed mix asks; without it, predictions decide alone."""
        further = replace(prediction, quality=state.gain)
        last = choose(further, price, latency_price=self.latency_price, admissible=admissible)
        value = values(further, price, self.latency_price)
        gain = take(value if admissible is None else np.where(admissible, value, -np.inf), last)
        enough = (state.best != NOBODY) & (gain <= 0)
        last = np.where(enough | np.isneginf(gain), NOBODY, last)
        unlike = self._unlike(evidence, r, state, prediction)
        if lot is not None and unlike.any():
            last[unlike] = self._fixed_asks(evidence, r, prediction, admissible, lot, unlike)
        if state.onward is None:
            return np.zeros(len(last), bool), last
        climb = evidence.value_of_climbing(state, price) > self._quality_of_climbing(
            evidence, r, state, prediction, price
        )
        if evidence.rungs[r + 1].checked:
            climb &= state.best != NOBODY
        if admissible is not None:
            climb &= admissible[..., new_members(evidence, r + 1)].all(axis=-1)
        return climb & ~unlike, last

    def _unlike(
        self, evidence: Evidence, r: int, state: RungState, prediction: Prediction
    ) -> NDArray[np.bool_]:
        """Whether the queries (n,) are decided by the fixed mix: on the first rung the unfamiliar
        ones, after the first committee those without a readable answer."""
        if self.budget is None or r > 1 or (r == 0 and prediction.trust is None):
            return np.zeros(len(state.best), bool)
        return state.best == NOBODY if r else unfamiliar(prediction.trust)

    def _fixed_asks(
        self,
        evidence: Evidence,
        r: int,
        prediction: Prediction,
        admissible: NDArray[np.bool_] | None,
        lot: Array,
        unlike: NDArray[np.bool_],
    ) -> Indices:
        """The experts that the fixed mix asks for the `unlike` queries; see `fixed_asks`."""
        assert self.budget is not None
        allowed = prediction.quality >= 0
        if admissible is not None:
            allowed = allowed & admissible
        members = evidence.rungs[r].members
        return fixed_asks(self.router, self.budget, lot[unlike], allowed[unlike], members)

    def _quality_of_climbing(
        self,
        evidence: Evidence,
        r: int,
        state: RungState,
        prediction: Prediction,
        price: float,
    ) -> Array:
        """The cost and latency of climbing to the next rung, in quality, (n,)."""
        toll = price * _costs_of_climbing(evidence, r, state, prediction.cost)
        if self.latency_price:
            seconds_of_climbing = _costs_of_climbing(
                evidence, r, state, seconds(prediction), np.max
            )
            toll = toll + self.latency_price * seconds_of_climbing
        return np.asarray(toll)

    # --- over recorded outcomes ------------------------------------------------------------

    def over(self, rows: Recorded) -> Run:
        """Runs the strategy on n recorded queries at once."""
        evidence = self.router.evidence or NO_EVIDENCE
        outcomes, states = rows.pool, rows.states(evidence)
        n, e = outcomes.score.shape
        row = np.arange(n)
        rung, last = np.zeros(n, np.intp), np.full(n, NOBODY)
        climbing, lot = np.ones(n, bool), rows.lots
        for r, state in enumerate(states):
            climb, last_ask = self.decide(
                evidence, r, state, rows.prediction, self.price, rows.answered, lot
            )
            rung[climbing], last[climbing] = r, last_ask[climbing]
            climbing &= climb
        asked = np.zeros((n, e), bool)
        for r, step in enumerate(evidence.rungs):
            asked[np.ix_(rung == r, step.members)] = True
        best = np.choose(rung, [state.best for state in states])
        asked[row[last != NOBODY], last[last != NOBODY]] = True
        checks = np.zeros(n)
        for r, state in enumerate(states):
            if state.checked is not None:
                checks += np.where(rung >= r, verifications(outcomes, state.checked).cost, 0.0)
        kept = last == NOBODY
        both = np.flatnonzero((best != NOBODY) & ~kept)  # queries with two answers to choose from
        kept[both] = ~rows.readable(evidence)[both, last[both]]
        arrived = asked & rows.answered
        best_or_first = np.where(best == NOBODY, arrived.argmax(axis=1), best)
        chosen = np.where(kept, best_or_first, last)
        nothing = kept & (best == NOBODY) & ~arrived.any(axis=1)
        return Run(
            score=np.where(nothing, np.nan, outcomes.score[row, chosen]),
            cost=checks + np.where(arrived, outcomes.charges, 0.0).sum(axis=1),
            asked=rows.widen(asked, outcomes.experts),
            undecided=rows.limited,
            rung=rung,
            kept=kept,
        )


def new_members(evidence: Evidence, r: int) -> list[int]:
    """The members of a rung that no rung below has asked."""
    below = evidence.rungs[r - 1].members if r else ()
    return [m for m in evidence.rungs[r].members if m not in below]


def _costs_of_climbing(
    evidence: Evidence,
    r: int,
    state: RungState,
    each: Array,
    add: Callable[..., Any] = np.sum,
) -> Array:
    """The costs (or latencies) of climbing to the next rung, (n,), given those of asking each
    expert, `each` (n, e): `add` over the new members, or those of the rung's verification."""
    if not evidence.rungs[r + 1].checked:
        return np.asarray(add(each[:, new_members(evidence, r + 1)], axis=1))
    rows = np.arange(len(each))
    spent = (
        each[rows, state.best] * np.broadcast_to(evidence.checking, each.shape)[rows, state.best]
    )
    return np.where(state.best == NOBODY, 0.0, spent)


def _read(
    evidence: Evidence,
    rung: Rung,
    query: Query,
    answers_of_query: Mapping[int, Answer],
    option_chances: Array | None,
) -> Replies:
    """Reads the answers of a rung's members to one query."""
    answers = [answers_of_query.get(m) for m in rung.members]
    texts = np.array([[None if a is None else a.content for a in answers]], dtype=object)
    texts = evidence.graded_parts([query], texts.reshape(1, len(rung.members)))
    logprobs = np.array([[np.nan if a is None else a.logprob for a in answers]])
    log_odds = evidence.log_odds([query], texts, rung.members)
    return evidence.read(texts, option_chances, logprobs.reshape(texts.shape), log_odds)


def _unreadable(
    answers: Mapping[int, Answer], replies_of_rung: Sequence[Answer], prediction: Prediction
) -> Decision:
    """Returns the first expert's answer if none is readable and no other expert may be asked.
    Raises UpstreamError if no answer has arrived."""
    if not answers:
        raise UpstreamError.of(*replies_of_rung)
    because = "no answer is readable, and no other expert may be asked"
    return Decision(answers[min(answers)], because=because, prediction=prediction.take(0))


def _slowest(answers: Sequence[Answer]) -> float:
    """The seconds that concurrent asks took."""
    return max((a.latency for a in answers if np.isfinite(a.latency)), default=0.0)


def _affordable(asked: Sequence[int], prediction: Prediction, query: Query, spent: float) -> bool:
    """Whether the predicted cost of those experts fits into the rest of the query's `max_cost`."""
    if query.max_cost is None:
        return True
    return bool(
        spent + prediction.cost[0, [m for m in asked if m != NOBODY]].sum() <= query.max_cost
    )
