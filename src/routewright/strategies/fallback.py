"""Follow a strategy; if the expert that it asks fails, ask the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routewright.errors import NotAdmissible, RoutewrightError, UpstreamError
from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Ask, Decision, Plan, Query, Strategy


@dataclass(frozen=True)
class Fallback:
    """Runs the strategy `wanted`; if its expert fails or may not be asked, asks the others of
    `then` in order.

    Only failures before the first byte reach it. An answer of `wanted` that did not arrive is a
    failure. The query's limits hold for the other experts too: one above `max_cost` is skipped. If
    no expert can answer, the first failure is raised, which names the expert asked first.
    """

    wanted: Strategy
    then: tuple[str, ...]

    def plan(self, query: Query) -> Plan:
        try:
            decision = yield from self.wanted.plan(query)
            if decision.answer.status != "ok":
                raise UpstreamError.of(decision.answer)
            return decision
        except UpstreamError as failure:
            first: RoutewrightError = failure
            excluded, reason = [failure.expert], f"{failure.expert} failed"
        except NotAdmissible as refusal:
            first, excluded = refusal, list(refusal.rejected)
            reason = f"{' and '.join(excluded)} may not be asked"
        for expert in self.then:
            if expert in excluded or not query.permits(expert):
                continue
            try:
                answer = yield Ask(expert, final=True)
            except (UpstreamError, NotAdmissible):
                continue
            return Decision(answer, because=f"{reason}, {expert} stepped in")
        raise first

    def over(self, rows: Recorded) -> Run:
        """Runs the strategy on recorded queries at once; rows where `wanted` has no recorded
        score need a replay."""
        ran = run(self.wanted, rows)
        return ran._replace(undecided=np.isnan(ran.score))


def with_fallback(strategy: Strategy, experts: tuple[str, ...]) -> Strategy:
    """The strategy with a fallback; the strategy itself if no expert is given."""
    return Fallback(strategy, experts) if experts else strategy
