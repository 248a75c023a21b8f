"""What would a router have done on recorded outcomes, and was it worth it?

The strategies that are evaluated are those that are served. Costs include everything that a
strategy asked on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routewright import metrics
from routewright.data.outcomes import Outcomes
from routewright.errors import BadTable
from routewright.evaluation.figures import Evaluation
from routewright.router.router import Router
from routewright.strategies._recorded import Recorded, run

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
    rows = Recorded(whole, router)
    return Evaluation(
        router=router,
        outcomes=outcomes,
        prediction=rows.prediction,
        points=router.frontier,
        runs=tuple(run(router.strategy_at(point), rows) for point in router.frontier),
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
