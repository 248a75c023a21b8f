"""Send a fixed share of the queries one way and the rest another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Plan, Query, Strategy


@dataclass(frozen=True)
class Mix:
    """Follows `second` for `share` of the queries, else `first`.

    Which ones is drawn from the query's text (`Query.lot`), so a repeated query goes the same
    way, and replaying a log repeats its decisions. Two prices of quality mixed meet a budget
    in expectation; two fixed experts mixed are a point of the zero router.
    """

    first: Strategy
    second: Strategy
    share: Annotated[float, Field(ge=0, le=1)]

    def plan(self, query: Query) -> Plan:
        decision = yield from (self.second if query.lot < self.share else self.first).plan(query)
        return decision

    def over(self, rows: Recorded) -> Run:
        """Recorded queries in expectation over the lots: one draw on 600 rows is off by a point of
        quality, which says nothing about the strategy."""
        first, second, share = run(self.first, rows), run(self.second, rows), self.share
        return Run(
            score=(1 - share) * first.score + share * second.score,
            cost=(1 - share) * first.cost + share * second.cost,
            asked=(1 - share) * first.asked + share * second.asked,
        )
