"""Runs strategies on recorded outcomes, with one type of result for all of them."""

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
    """The scores and costs of a strategy on n recorded queries, and which experts it asked.

    If a strategy draws lots, `asked` holds expected shares; otherwise it holds 1 and 0. A row is
    NaN in the first three arrays if the table does not record what the strategy asks.
    """

    score: Array  # (n,) of the returned answers, 0..1
    cost: Array  # (n,) US$, including everything spent on the way
    asked: Array  # (n, e) whether the query asks an expert of the table, for any kind of ask
    undecided: Mask | None = None  # (n,) rows that need a replay; None: no row
    rung: Indices | None = None  # (n,) the highest rung that the strategy reached
    kept: Mask | None = None  # (n,) whether it kept an answer of the ladder, without a last ask

    def shares(self, experts: Sequence[str]) -> dict[str, float]:
        """The share of the queries that ask each expert, without the experts that none asks."""
        often = metrics.mean(self.asked)
        return {name: float(s) for name, s in zip(experts, often, strict=True) if s > 0}


# --- the rows ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandIn:
    """Takes the place of a router, with given predictions: held-out ones, or made-up ones."""

    beliefs: Prediction | Callable[[Sequence[Query]], Prediction]
    evidence: Evidence | None = None
    mean: Array = field(default_factory=lambda: np.empty(0))  # (e,) mean score per expert
    average_cost: Array = field(default_factory=lambda: np.empty(0))  # (e,) US$

    def predict(self, queries: Sequence[Query]) -> Prediction:
        return self.beliefs(queries) if callable(self.beliefs) else self.beliefs


@dataclass(frozen=True, eq=False)
class Recorded:
    """Recorded outcomes, a router's predictions for their queries, and a cache of everything that
    several settings of a strategy share."""

    outcomes: Outcomes
    router: Predicts | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def prediction(self) -> Prediction:
        """The router's predictions; without a router, NaN for every expert of the table."""
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
        """(n, e): whether an answer of the expert is recorded."""
        return answered(self.pool)

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """The experts of the table of which any score is known."""
        columns = zip(self.outcomes.experts, self.outcomes.score.T, strict=True)
        return tuple(name for name, scores in columns if np.isfinite(scores).any())

    @cached_property
    def limited(self) -> Mask:
        """(n,): whether a query has prices or limits of its own, which only a plan respects."""
        return np.array([has_limits(query) for query in self.outcomes.queries], bool)

    @cached_property
    def lots(self) -> Array:
        """(n,): the lot of each query, by which a mix decides."""
        return np.array([query.lot for query in self.outcomes.queries])

    def states(self, evidence: Evidence) -> list[RungState]:
        """The state of the rows on every rung of the evidence."""
        return self.cached("states", (evidence,), lambda: rung_states(evidence, self))

    def labels(self, kind: Kind) -> Indices:
        """(n, e): labels of the pool's answers, as `votes.labels` compares them."""

        def read() -> Indices:
            return votes.labels(kind, votes.recorded(self.pool))

        return self.cached("labels", (kind,), read)

    def readable(self, evidence: Evidence) -> Mask:
        """(n, e): whether a readable answer is recorded."""
        return self.cached("readable", (evidence.kind,), lambda: readable(evidence, self.pool))

    def cached(self, name: str, inputs: tuple[Any, ...], compute: Callable[[], T]) -> T:
        """Returns `compute()`, computed once per name and inputs. Texts and tuples are compared
        by value, everything else by identity."""
        key = (name, *(x if isinstance(x, str | tuple | None) else id(x) for x in inputs))
        if key not in self._cache:
            self._cache[key] = inputs, compute()  # keeps the inputs alive: no id is used again
        value: T = self._cache[key][1]
        return value

    def with_router(self, router: Predicts | None) -> Recorded:
        """The same rows with the predictions of another router."""
        if router is self.router:
            return self
        return self.cached("with_router", (router,), lambda: Recorded(self.outcomes, router))

    def widen(self, asked: NDArray[Any], experts: Sequence[str]) -> Array:
        """Columns of some experts ▶ (n, e): columns of all experts of the table, 0 elsewhere."""
        columns = np.zeros(self.outcomes.score.shape)
        columns[:, [self.outcomes.experts.index(name) for name in experts]] = asked
        return columns


# --- running a strategy over them ----------------------------------------------------------


def run(strategy: Strategy, rows: Recorded) -> Run:
    """Runs a strategy on every row.

    A strategy with `over(rows)` or `choose(queries, prediction)` decides all rows at once. Any
    other strategy, and every row that `over` leaves undecided, is replayed.
    """
    router = getattr(strategy, "router", None)
    if hasattr(strategy, "over"):
        ran: Run = strategy.over(rows if router is None else rows.with_router(router))
        return _decided(ran, strategy, rows)
    if isinstance(strategy, OneShot):
        return _chosen(strategy, rows.with_router(router))
    return replayed(strategy, rows)


def _chosen(strategy: OneShot, rows: Recorded) -> Run:
    pool = rows.pool
    choice = strategy.choose(pool.queries, rows.prediction)
    asked = choice[:, None] == np.arange(len(pool.experts))
    return Run(
        take(pool.score, choice), take(pool.charges, choice), rows.widen(asked, pool.experts)
    )


def _decided(ran: Run, strategy: Strategy, rows: Recorded) -> Run:
    """Replays the undecided rows of a run."""
    if ran.undecided is None or not ran.undecided.any():
        return ran
    rows_to_replay = np.flatnonzero(ran.undecided)
    score, cost, asked = np.array(ran.score), np.array(ran.cost), np.array(ran.asked)
    replays = replayed(strategy, rows, rows_to_replay.tolist())
    score[rows_to_replay], cost[rows_to_replay], asked[rows_to_replay] = (
        replays.score,
        replays.cost,
        replays.asked,
    )
    return ran._replace(score=score, cost=cost, asked=asked, undecided=None)


def replayed(strategy: Strategy, rows: Recorded, selection: Sequence[int] | None = None) -> Run:
    """Runs a strategy by replaying its plan on the record of each row, or of some rows.

    Raises BadTable if the strategy asks an expert without any score in the table.
    """
    chosen = range(len(rows.outcomes)) if selection is None else selection
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
    """Follows a strategy, and refuses asks of experts that the table has no scores of: otherwise
    their answers would count as failures."""

    strategy: Strategy
    experts: tuple[str, ...]

    def plan(self, query: Query) -> Plan:
        allowed = _Allowed(query.allowed or ())
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


class _Allowed(frozenset[str]):
    """The experts that a query may use, and every name that the table does not know: a plan that
    leaves out whom the query may not use must ask these, to be refused."""

    experts: tuple[str, ...] = ()

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name not in self.experts


# --- what a table records ------------------------------------------------------------------


def rung_states(evidence: Evidence, rows: Recorded) -> list[RungState]:
    """The state of recorded queries on every rung of the ladder."""
    outcomes, states = rows.pool, list[RungState]()
    option_chances = evidence.option_chances(outcomes.queries)
    for r, rung in enumerate(evidence.rungs):
        replies = recorded(evidence, rung, outcomes, option_chances)
        if rung.checked:
            replies = with_verifications(replies, outcomes, states[-1].best)
        states.append(evidence.assess(r, replies, rows.prediction))
    return states


def recorded(
    evidence: Evidence,
    rung: Rung,
    outcomes: Outcomes,
    option_chances: Array | None = None,
    log_odds: Array | None = None,
) -> Replies:
    """The recorded answers of the members of a rung; an ask without a score has failed.
    `option_chances` are those of `Evidence.option_chances` for the same queries, and `log_odds`
    (n, e) those of `Evidence.log_odds` for every expert; without them, they are predicted here."""
    members = list(rung.members)
    available = answered(outcomes)[:, members]
    texts = np.full(available.shape, None, dtype=object)
    if outcomes.answers is not None:
        texts[available] = outcomes.answers[:, members][available]
    texts = evidence.graded_parts(outcomes.queries, texts)
    logprob = outcomes.measures.get("logprob")
    logprobs = None if logprob is None else np.where(available, logprob[:, members], np.nan)
    if log_odds is None:
        log_odds = evidence.log_odds(outcomes.queries, texts, members)
    else:
        log_odds = np.where(available, log_odds[:, members], 0.0)
    return evidence.read(texts, option_chances, logprobs, log_odds)


class Verifications(NamedTuple):
    """Recorded verifications of n answers."""

    confidence: Array  # (n,) 0..1; UNSURE where none is recorded, or no verdict could be read
    cost: Array  # (n,) US$; counted as `Outcomes.record` does


def verifications(outcomes: Outcomes, experts: Indices) -> Verifications:
    """The recorded verifications of one answer per row, by the expert (n,) who gave it; NOBODY
    has none."""
    unknown = np.full(len(outcomes), np.nan)
    place = np.arange(len(outcomes)), experts

    def cells(measure: str) -> Array:
        table = outcomes.measures.get(measure)
        return unknown if table is None else table[place]

    confidence, cost = cells("verify"), cells("verify_cost")
    cost = np.where(np.isfinite(cost), cost, outcomes.charges[place])
    arrived = np.isfinite(confidence) | np.isfinite(cells("verdicts"))  # these may be unreadable
    available = (experts != NOBODY) & np.isfinite(cells("score")) & arrived
    confidence = np.where(available & np.isfinite(confidence), confidence, UNSURE)
    return Verifications(confidence, np.where(available, cost, 0.0))


def with_verifications(replies: Replies, outcomes: Outcomes, experts: Indices) -> Replies:
    """The replies with the recorded verifications of the answers of those experts, (n,)."""
    confidence = verifications(outcomes, experts).confidence
    return replies._replace(checked=experts, confidence=confidence)


def answered(outcomes: Outcomes) -> Mask:
    """(n, e): whether an answer is recorded; without one, the expert could not have been asked."""
    return np.isfinite(outcomes.score)


def readable(evidence: Evidence, outcomes: Outcomes) -> Mask:
    """(n, e): whether a readable answer is recorded."""
    available = answered(outcomes)
    if outcomes.answers is None:
        return available
    texts = outcomes.answers
    reads = {text: text is not None and evidence.readable(str(text)) for text in set(texts.flat)}
    return available & np.array([reads[text] for text in texts.flat], bool).reshape(texts.shape)
