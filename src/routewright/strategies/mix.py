"""Send a fixed share of the queries one way and the rest another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from routewright.types import Indices, Plan, Prediction, Query, Strategy


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

    def choose(self, queries: Sequence[Query], prediction: Prediction) -> Indices:
        first: Any = self.first
        second: Any = self.second
        to_second = np.fromiter((query.lot < self.share for query in queries), bool, len(queries))
        choices: Indices = np.where(
            to_second, second.choose(queries, prediction), first.choose(queries, prediction)
        )
        return choices
