"""What would a router, or any strategy, have done on recorded outcomes, and was it worth it?

The strategies that are evaluated are those that are served. Costs include everything that a
strategy asked on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from routewright import metrics
from routewright.data.outcomes import Outcomes
from routewright.errors import BadInput, BadTable
from routewright.evaluation.figures import HALF, Evaluation
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies import name_of, router_of
from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Strategy

REPLICATES = 1000
CLUSTERS = 10  # domains that the bootstrap needs to draw whole ones


def evaluate(
    strategy: Router | Strategy,
    outcomes: Outcomes,
    *,
    without_domain: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Evaluation:
    """Runs every operating point of a router, or any one strategy, on every row.

    A router is compared with its own experts, a strategy with all of the table's (`Outcomes.pool`
    takes some). Costs are in US$, or at the prices that a router was fitted at. `without_domain`
    hides the queries' domains and tags, as an untagged request has none.

    Raises BadTable if the table lacks an expert of the router, or knows nothing of one that is
    asked.

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
    router = strategy if isinstance(strategy, Router) else router_of(strategy)
    if isinstance(router, Router):
        outcomes = for_router(router, outcomes, every_expert=strategy is not router)
    whole = outcomes.costed()
    rows = Recorded(untagged(whole) if without_domain else whole, router)
    if isinstance(strategy, Router):
        outcomes = whole.pool(strategy.experts)
        _check_known({name for point in strategy.frontier for name in point.shares}, outcomes)
        points = strategy.frontier
        runs = tuple(run(strategy.strategy_at(point), rows) for point in points)
        at_half = _at_half(strategy, rows)
    else:
        outcomes, points, runs = whole, (_point(strategy),), (run(strategy, rows),)
        at_half = None
        _check_known(runs[0].shares(whole.experts), whole)
        if np.isnan(runs[0].score).all():
            raise BadTable(f"on none of {len(whole)} rows the strategy gets an answer with a score")
    return Evaluation(
        router=strategy if isinstance(strategy, Router) else None,
        outcomes=outcomes,
        prediction=None if router is None else rows.prediction,
        points=points,
        runs=runs,
        weights=metrics.resample(len(outcomes), replicates, seed, _clusters(outcomes)),
        at_half=at_half,
    )


def _at_half(router: Router, rows: Recorded) -> tuple[OperatingPoint, Run] | None:
    """What the gateway serves with `max_cost_fraction: 0.5`; None where costs are unknown or every
    point costs more."""
    try:
        point = router.within(max_cost_fraction=HALF)
    except BadInput:
        return None
    return point, run(router.strategy_at(point), rows)


def for_router(router: Router, outcomes: Outcomes, *, every_expert: bool = False) -> Outcomes:
    """The outcomes at the router's prices, of its experts or with those of the table beside."""
    names = [*router.experts, *router.verifiers]
    if missing := [name for name in names if name not in outcomes.experts]:
        raise BadTable(
            f"the router knows {', '.join(missing)}, the table does not;"
            f" it has {', '.join(outcomes.experts)}"
        )
    outcomes = outcomes.at_prices(**router.prices)
    if not every_expert:
        return outcomes.pool(names)
    _check_known(names, outcomes)  # an expert without scores could not be asked
    return outcomes


def untagged(outcomes: Outcomes) -> Outcomes:
    """The outcomes of queries without domain and tags."""
    queries = tuple(replace(query, domain=None, tags=()) for query in outcomes.queries)
    return replace(outcomes, queries=queries)


def _point(strategy: Strategy) -> OperatingPoint:
    """A strategy as a point of which nothing was promised."""
    unknown = float("nan")
    price, pair = getattr(strategy, "price", unknown), (unknown, unknown)
    spec = {"strategy": name_of(strategy)}
    return OperatingPoint(price, unknown, unknown, unknown, pair, unknown, pair, spec, "")


def _check_known(asked: Iterable[str], outcomes: Outcomes) -> None:
    """Of everybody who is asked, the rows must know a score, and a cost where they know any: means
    over what happens to be known would say nothing about the router."""
    asked = set(asked)
    for fact, table in (("score", outcomes.score), ("cost", outcomes.charges)):
        columns = enumerate(outcomes.experts)
        nothing = [name for m, name in columns if not np.isfinite(table[:, m]).any()]
        if unknown := [name for name in nothing if name in asked]:
            raise BadTable(
                f"no {fact} is known for {', '.join(unknown)} in split '{outcomes.split}': add"
                f" {fact}::NAME, evaluate on another --split, or fit without with --experts"
            )


def drawn_whole(outcomes: Outcomes) -> str:
    """What the bootstrap draws whole: a domain, as its rows are not independent; a question where a
    row has no domain or the domains are too few to say how much they differ; or a row."""
    domains, groups = outcomes.domains, outcomes.groups
    if all(domains) and len(set(domains)) >= CLUSTERS:
        return "domain"
    return "question" if len(set(groups)) < len(groups) else "row"


def _clusters(outcomes: Outcomes) -> Sequence[str | None]:
    clusters: dict[str, Sequence[str | None]] = {
        "domain": outcomes.domains,
        "question": outcomes.groups,
    }
    return clusters.get(drawn_whole(outcomes), ())
