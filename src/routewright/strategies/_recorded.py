"""What strategies do with recorded outcomes: one result for every strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from routewright import metrics
from routewright.answers import votes
from routewright.answers.equivalence import Kind
from routewright.answers.evidence import NOBODY, UNSURE, Evidence, Replies, Rung, RungState
from routewright.drive import replay
from routewright.errors import BadTable, NotAdmissible, RoutewrightError, UpstreamError
from routewright.policies import take
from routewright.strategies import OneShot, Predicts
from routewright.strategies.single import has_limits
from routewright.types import Array, Ask, Decision, Indices, Plan, Prediction, Query, Strategy

if TYPE_CHECKING:  # reading tables needs Polars, serving does not
    from routewright.data.outcomes import Outcomes

T = TypeVar("T")
Mask = NDArray[np.bool_]


class Run(NamedTuple):
    """What a strategy did with n recorded queries, and what that gave.

    `asked` holds shares in expectation over the lots that a strategy draws: 1 and 0 where it draws
    none. A row of which nothing is known is NaN in all three.
    """

    score: Array  # (n,) of the answers that it returned, 0..1
    cost: Array  # (n,) US$, everything spent on the way
    asked: Array  # (n, e) whether a query asks an expert of the table, for whatever
    undecided: Mask | None = None  # (n,) rows that only a replay can tell; None: no row
    rung: Indices | None = None  # (n,) how far up its ladder a strategy went
    kept: Mask | None = None  # (n,) whether it kept an answer of the ladder, without a last word

    def shares(self, experts: Sequence[str]) -> dict[str, float]:
        """The share of the queries that ask each of the table's experts; those that are asked."""
        often = metrics.mean(self.asked)
        return {name: float(s) for name, s in zip(experts, often, strict=True) if s > 0}


# --- the rows ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandIn:
    """Takes the place of a router where its beliefs are given: held-out ones, or made up."""

    beliefs: Prediction | Callable[[Sequence[Query]], Prediction]
    evidence: Evidence | None = None
    mean: Array = field(default_factory=lambda: np.empty(0))  # (e,) mean score per expert
    average_cost: Array = field(default_factory=lambda: np.empty(0))  # (e,) US$

    def predict(self, queries: Sequence[Query]) -> Prediction:
        return self.beliefs(queries) if callable(self.beliefs) else self.beliefs


@dataclass(frozen=True, eq=False)
class Recorded:
    """Recorded outcomes, what a router believes of their queries, and whatever many settings of a
    strategy need alike, which is made once."""

    outcomes: Outcomes
    router: Predicts | None = None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def prediction(self) -> Prediction:
        """What the router believes; without one, nothing of the table's experts."""
        if self.router is not None:
            return self.router.predict(self.outcomes.queries)
        unknown = np.full(self.outcomes.score.shape, np.nan)
        return Prediction(self.outcomes.experts, unknown, unknown, unknown, unknown)

    @cached_property
    def pool(self) -> Outcomes:
        """The outcomes of the prediction's experts. Raises BadTable if the table lacks one."""
        names = self.prediction.experts
        return self.outcomes if names == self.outcomes.experts else self.outcomes.pool(names)

    @cached_property
    def answered(self) -> Mask:
        """(n, e): of which experts of the pool an answer is recorded."""
        return answered(self.pool)

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """The experts of the table of which any score is known."""
        columns = zip(self.outcomes.experts, self.outcomes.score.T, strict=True)
        return tuple(name for name, scores in columns if np.isfinite(scores).any())

    @cached_property
    def limited(self) -> Mask:
        """(n,): whether a query has prices or limits of its own, which only a plan observes."""
        return np.array([has_limits(query) for query in self.outcomes.queries], bool)

    def states(self, evidence: Evidence) -> list[RungState]:
        """The rows' states on every rung of the evidence."""
        return self.once("states", (evidence,), lambda: rung_states(evidence, self))

    def labels(self, kind: Kind) -> Indices:
        """(n, e): what the pool's answers say, as `votes.labels` compares them."""

        def read() -> Indices:
            return votes.labels(kind, votes.recorded(self.pool))

        return self.once("labels", (kind,), read)

    def readable(self, evidence: Evidence) -> Mask:
        """(n, e): is there a recorded answer that can be read?"""
        return self.once("readable", (evidence.kind,), lambda: readable(evidence, self.pool))

    def once(self, what: str, on: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What `make` gives, made once for the same `on`: texts and tuples count by value,
        everything else by identity."""
        key = (what, *(one if isinstance(one, str | tuple | None) else id(one) for one in on))
        if key not in self._made:
            self._made[key] = on, make()  # `on` lives as long, so that no identity comes again
        made: T = self._made[key][1]
        return made

    def under(self, router: Predicts | None) -> Recorded:
        """The same rows as another router sees them."""
        if router is self.router:
            return self
        return self.once("under", (router,), lambda: Recorded(self.outcomes, router))

    def spread(self, asked: NDArray[Any], experts: Sequence[str]) -> Array:
        """(n, some experts) ▶ (n, e): the same over all experts of the table."""
        found = np.zeros(self.outcomes.score.shape)
        found[:, [self.outcomes.experts.index(name) for name in experts]] = asked
        return found


# --- running a strategy over them ----------------------------------------------------------


def run(strategy: Strategy, rows: Recorded) -> Run:
    """What a strategy does with every row.

    One with `over(rows)` says so itself, one with `choose(queries, prediction)` by its choices;
    any other, and every row that `over` leaves undecided, is replayed.
    """
    router = getattr(strategy, "router", None)
    if hasattr(strategy, "over"):
        ran: Run = strategy.over(rows if router is None else rows.under(router))
        return _decided(ran, strategy, rows)
    if isinstance(strategy, OneShot):
        return _chosen(strategy, rows.under(router))
    return replayed(strategy, rows)


def _chosen(strategy: OneShot, rows: Recorded) -> Run:
    pool = rows.pool
    choice = strategy.choose(pool.queries, rows.prediction)
    asked = choice[:, None] == np.arange(len(pool.experts))
    return Run(
        take(pool.score, choice), take(pool.charges, choice), rows.spread(asked, pool.experts)
    )


def _decided(ran: Run, strategy: Strategy, rows: Recorded) -> Run:
    """The same with what replays tell of undecided rows."""
    if ran.undecided is None or not ran.undecided.any():
        return ran
    places = np.flatnonzero(ran.undecided)
    score, cost, asked = np.array(ran.score), np.array(ran.cost), np.array(ran.asked)
    replays = replayed(strategy, rows, places.tolist())
    score[places], cost[places], asked[places] = replays.score, replays.cost, replays.asked
    return ran._replace(score=score, cost=cost, asked=asked, undecided=None)


def replayed(strategy: Strategy, rows: Recorded, places: Sequence[int] | None = None) -> Run:
    """The same by running the plan on each row's record, or on those of some places.

    Raises BadTable where it asks an expert of which the table knows no score.
    """
    chosen = range(len(rows.outcomes)) if places is None else places
    watched = _Watched(strategy, rows.scored)
    replays = [_replayed(watched, rows.outcomes, row) for row in chosen]
    shape = (len(replays), len(rows.outcomes.experts))
    return Run(
        np.array([score for score, _, _ in replays], np.float64),
        np.array([cost for _, cost, _ in replays], np.float64),
        np.array([asked for _, _, asked in replays], np.float64).reshape(shape),
    )


def _replayed(strategy: Strategy, outcomes: Outcomes, row: int) -> tuple[float, float, Array]:
    unknown = float("nan")
    try:
        decision = replay(strategy, outcomes.queries[row], outcomes.record(row))
    except (NotAdmissible, UpstreamError):
        return unknown, unknown, np.full(len(outcomes.experts), unknown)
    score = decision.answer.score
    asked = np.isin(outcomes.experts, [answer.expert for answer in decision.spent])
    return unknown if score is None else score, decision.cost, asked.astype(np.float64)


@dataclass(frozen=True)
class _Watched:
    """Follows a strategy as long as it asks whom the table knows: without this the answer of an
    expert that the table does not know would pass for a failed one, and its name for a limit."""

    strategy: Strategy
    experts: tuple[str, ...]

    def plan(self, query: Query) -> Plan:
        allowed = _WithStrangers(query.allowed or ())
        allowed.experts = self.experts
        plan = self.strategy.plan(replace(query, allowed=allowed))
        try:
            asks = next(plan)
            while True:
                self._check(asks)
                try:
                    answers = yield asks
                except RoutewrightError as error:
                    asks = plan.throw(error)
                else:
                    asks = plan.send(answers)
        except StopIteration as stop:
            decision: Decision = stop.value
            return decision
        finally:
            plan.close()

    def _check(self, asks: Ask | tuple[Ask, ...]) -> None:
        for ask in (asks,) if isinstance(asks, Ask) else asks:
            if ask.expert not in self.experts:
                raise BadTable(
                    f"'{ask.expert}' is asked, and the table knows no score of it; it has scores"
                    f" of {', '.join(self.experts)}"
                )


class _WithStrangers(frozenset[str]):
    """Experts that may be asked, and all that the table does not know."""

    experts: tuple[str, ...] = ()

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name not in self.experts


# --- what strategies find in a table -------------------------------------------------------


def rung_states(evidence: Evidence, rows: Recorded) -> list[RungState]:
    """The states of recorded queries on every rung of the ladder."""
    outcomes, states = rows.pool, list[RungState]()
    option_chances = evidence.option_chances(outcomes.queries)
    for r, rung in enumerate(evidence.rungs):
        replies = recorded(evidence, rung, outcomes, option_chances)
        if rung.checked:
            replies = verified(replies, outcomes, states[-1].best)
        states.append(evidence.assess(r, replies, rows.prediction))
    return states


def recorded(
    evidence: Evidence, rung: Rung, outcomes: Outcomes, option_chances: Array | None = None
) -> Replies:
    """What the members of a rung are recorded to have said; a call without a score has failed.
    `option_chances` is what the evidence makes of the queries' options."""
    columns = list(rung.members)
    known = answered(outcomes)[:, columns]
    texts = np.full(known.shape, None, dtype=object)
    if outcomes.answers is not None:
        texts[known] = outcomes.answers[:, columns][known]
    logprob = outcomes.measures.get("logprob")
    seen = None if logprob is None else np.where(known, logprob[:, columns], np.nan)
    return evidence.read(texts, option_chances, seen)


class Checked(NamedTuple):
    """What verifying recorded answers gave."""

    sure: Array  # (n,) 0..1; UNSURE where no verification is recorded
    cost: Array  # (n,) US$; counted as `Outcomes.record` does


def checked(outcomes: Outcomes, whose: Indices) -> Checked:
    """Of n answers, whoever gave them; NOBODY is not verified."""
    unknown = np.full(len(outcomes), np.nan)
    place = np.arange(len(outcomes)), whose

    def told(measure: str) -> Array:
        table = outcomes.measures.get(measure)
        return unknown if table is None else table[place]

    sure, cost = told("verify"), told("verify_cost")
    cost = np.where(np.isfinite(cost), cost, outcomes.charges[place])
    known = (whose != NOBODY) & np.isfinite(told("score")) & np.isfinite(sure)
    return Checked(np.where(known, sure, UNSURE), np.where(known, cost, 0.0))


def verified(replies: Replies, outcomes: Outcomes, whose: Indices) -> Replies:
    """The same, and what was recorded of verifying those answers."""
    return replies._replace(checked=whose, sure=checked(outcomes, whose).sure)


def answered(outcomes: Outcomes) -> Mask:
    """(n, e): whose answer is recorded; the others could not have been asked."""
    return np.isfinite(outcomes.score)


def readable(evidence: Evidence, outcomes: Outcomes) -> Mask:
    """(n, e): is there a recorded answer that can be read?"""
    known = answered(outcomes)
    if outcomes.answers is None:
        return known
    texts = outcomes.answers
    reads = {text: text is not None and evidence.readable(str(text)) for text in set(texts.flat)}
    return known & np.array([reads[text] for text in texts.flat], bool).reshape(texts.shape)
