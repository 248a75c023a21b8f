"""What would a router have done on recorded outcomes, and was it worth it?

The strategies that are evaluated are those that are served: one-shot ones over arrays, all
others by replay. Costs include everything that a strategy asked on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routewright import metrics, policies
from routewright.answers.evidence import RungState
from routewright.data.outcomes import Outcomes
from routewright.drive import replay
from routewright.errors import BadTable, NotAdmissible, UpstreamError
from routewright.evaluation.figures import Evaluation
from routewright.router.router import Router
from routewright.strategies import one_shot
from routewright.strategies._recorded import rung_states
from routewright.strategies.auto import Auto
from routewright.strategies.cascade_routing import CascadeRouting
from routewright.strategies.frugal import Frugal
from routewright.strategies.mix import Mix
from routewright.types import Array, Prediction, Strategy

REPLICATES = 1000
CLUSTERS = 10  # domains that the bootstrap needs to draw whole ones


def evaluate(
    router: Router, outcomes: Outcomes, *, replicates: int = REPLICATES, seed: int = 0
) -> Evaluation:
    """Runs every operating point of the router on every row.

    Raises BadTable if the table lacks one of the router's experts, or knows nothing of one that
    is asked.

    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> router = rw.Router.load(example() / "router")
    >>> held_out = rw.read(example() / "outcomes.parquet", split="dev")
    >>> print(rw.evaluate(router, held_out))  # doctest: +ELLIPSIS
    60 queries, 3 experts
    ...
    best single expert: sage ...
    ...
    """
    asked = [*router.experts, *router.verifiers]
    if missing := [name for name in asked if name not in outcomes.experts]:
        raise BadTable(
            f"the router knows {', '.join(missing)}, the table does not;"
            f" it has {', '.join(outcomes.experts)}"
        )
    whole = outcomes.pool(asked).at_prices(**router.prices).costed()
    outcomes = whole.pool(router.experts)
    _check_known(router, outcomes)
    prediction = router.predict(outcomes.queries)
    states = rung_states(router.evidence, outcomes, prediction) if router.evidence else None
    rows = [
        expected(router.strategy_at(point), whole, prediction, states) for point in router.frontier
    ]
    return Evaluation(
        router=router,
        outcomes=outcomes,
        prediction=prediction,
        points=router.frontier,
        scores=np.array([score for score, _ in rows]),
        costs=np.array([cost for _, cost in rows]),
        weights=metrics.resample(len(outcomes), replicates, seed, _clusters(outcomes)),
    )


def _check_known(router: Router, outcomes: Outcomes) -> None:
    """Of everybody who is asked at some point, the rows must know a score, and a cost where they
    know any: means over what happens to be known would say nothing about the router."""
    asked = {name for point in router.frontier for name in point.shares}
    for fact, table in (("score", outcomes.score), ("cost", outcomes.charges)):
        columns = enumerate(outcomes.experts)
        nothing = [name for m, name in columns if not np.isfinite(table[:, m]).any()]
        if unknown := [name for name in nothing if name in asked]:
            raise BadTable(
                f"no {fact} is known for {', '.join(unknown)} in split '{outcomes.split}': add"
                f" {fact}::NAME, evaluate on another --split, or fit without with --experts"
            )


def _clusters(outcomes: Outcomes) -> Sequence[str | None]:
    """What the bootstrap draws whole: domains, as their rows are not independent; single rows
    where a row has no domain or the domains are too few to say how much they differ."""
    domains = outcomes.domains
    return domains if all(domains) and len(set(domains)) >= CLUSTERS else ()


def expected(
    strategy: Strategy,
    outcomes: Outcomes,
    prediction: Prediction,
    states: Sequence[RungState] | None = None,
) -> tuple[Array, Array]:
    """The same as `run` in expectation over the lots that a mix draws: one draw of a mix of two
    experts on 600 rows is off by a point of quality, which says nothing about the router."""
    if not isinstance(strategy, Mix):
        return run(strategy, outcomes, prediction, states)
    parts = [
        expected(part, outcomes, prediction, states) for part in (strategy.first, strategy.second)
    ]
    (score, cost), (other_score, other_cost) = parts
    share = strategy.share
    return (1 - share) * score + share * other_score, (1 - share) * cost + share * other_cost


def asked(
    strategy: Strategy,
    outcomes: Outcomes,
    prediction: Prediction,
    states: Sequence[RungState] | None = None,
) -> Array:
    """The share of rows about which each expert is asked, (e,), in expectation over the lots that
    a mix draws; together more than 1 where several are. NaN where only a replay could tell."""
    if isinstance(strategy, Mix):
        first, second = (
            asked(part, outcomes, prediction, states) for part in (strategy.first, strategy.second)
        )
        return (1 - strategy.share) * first + strategy.share * second
    if one_shot(strategy):
        choice = strategy.choose(outcomes.queries, prediction)
        return np.array([(choice == m).mean() for m in range(len(outcomes.experts))])
    if isinstance(strategy, Auto | Frugal):
        return np.asarray(strategy.over(outcomes, prediction, states).asked.mean(axis=0))
    if isinstance(strategy, CascadeRouting):
        return np.asarray(strategy.over(outcomes, prediction).asked.mean(axis=0))
    return np.full(len(outcomes.experts), np.nan)


def run(
    strategy: Strategy,
    outcomes: Outcomes,
    prediction: Prediction,
    states: Sequence[RungState] | None = None,
) -> tuple[Array, Array]:
    """Score and cost (US$) of a strategy on every row, each (n,); `states` are the rung
    states that many operating points share."""
    if isinstance(strategy, Auto | Frugal):
        ran = strategy.over(outcomes, prediction, states)
        return ran.score, ran.cost
    if isinstance(strategy, CascadeRouting):
        ran = strategy.over(outcomes, prediction)
        return ran.score, ran.cost
    cost = outcomes.charges
    if one_shot(strategy):
        choice = strategy.choose(outcomes.queries, prediction)
        return policies.take(outcomes.score, choice), policies.take(cost, choice)
    if isinstance(strategy, Mix):
        return _mixed(strategy, outcomes, prediction)
    if hasattr(strategy, "over"):  # it knows most rows' way without walking it
        score, spent, known = strategy.over(outcomes)
        rest = np.flatnonzero(~known)
        score[rest], spent[rest] = replay_all(strategy, outcomes, rest.tolist())
        return score, spent
    return replay_all(strategy, outcomes)


def _mixed(mix: Mix, outcomes: Outcomes, prediction: Prediction) -> tuple[Array, Array]:
    to_second = np.array([query.lot < mix.share for query in outcomes.queries])
    found = np.empty((2, len(outcomes)))
    for part, rows in ((mix.first, ~to_second), (mix.second, to_second)):
        if rows.any():
            found[:, rows] = run(part, outcomes.rows(rows), prediction.take(rows))
    return found[0], found[1]


def replay_all(
    strategy: Strategy, outcomes: Outcomes, rows: Sequence[int] | None = None
) -> tuple[Array, Array]:
    """The same by running the plan on each row's record; NaN where nobody that it asks is known."""
    found = [
        _replayed(strategy, outcomes, row)
        for row in (range(len(outcomes)) if rows is None else rows)
    ]
    scores, costs = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return scores, costs


def _replayed(strategy: Strategy, outcomes: Outcomes, row: int) -> tuple[float, float]:
    try:
        decision = replay(strategy, outcomes.queries[row], outcomes.record(row))
    except (NotAdmissible, UpstreamError):
        return float("nan"), float("nan")
    score = decision.answer.score
    return float("nan") if score is None else score, decision.cost
