"""Send a fixed share of the queries one way and the rest another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from routewright.strategies import is_light
from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Plan, Query, Strategy, changed


@dataclass(frozen=True)
class Mix:
    """Follows `second` for `share` of the queries, else `first`.

    The choice depends on a hash of the query's text (`Query.lot`), so a repeated query gets the
    same strategy, and replaying a log repeats its decisions. A mix of two prices of quality meets
    a budget in expectation; a mix of two fixed experts is a point of the zero router.
    """

    first: Strategy
    second: Strategy
    share: Annotated[float, Field(ge=0, le=1)]

    @property
    def light(self) -> bool:
        return is_light(self.first) and is_light(self.second)

    def plan(self, query: Query) -> Plan:
        strategy, share = self.part(query.lot)
        decision = yield from strategy.plan(query)
        return changed(
            decision, because=f"in a mix, for {100 * share:.0f} % of queries: {decision.because}"
        )

    def part(self, lot: float) -> tuple[Strategy, float]:
        """The strategy that a lot in [0, 1) draws, and its share of all queries.

        A part that is a mix draws by what is left of the lot, so that shares multiply.
        """
        if lot < self.share:
            chosen, share, rest = self.second, self.share, lot / self.share
        else:
            share = 1 - self.share
            chosen, rest = self.first, (lot - self.share) / share
        if not isinstance(chosen, Mix):
            return chosen, share
        strategy, of_part = chosen.part(rest)
        return strategy, share * of_part

    def over(self, rows: Recorded) -> Run:
        """Runs the strategy on recorded queries, in expectation over the lots: with one draw on
        600 rows, chance alone would move the quality by a point."""
        first, second, share = run(self.first, rows), run(self.second, rows), self.share
        return Run(
            score=(1 - share) * first.score + share * second.score,
            cost=(1 - share) * first.cost + share * second.cost,
            asked=(1 - share) * first.asked + share * second.asked,
        )
