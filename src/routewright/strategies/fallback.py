"""Follow a strategy; if the expert it wants fails, ask the next one in line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routewright.errors import NotAdmissible, RoutewrightError, UpstreamError
from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Ask, Decision, Plan, Query, Strategy


@dataclass(frozen=True)
class Fallback:
    """Runs `wanted`; if it fails or may not be asked, asks `then` in order, leaving out that one.

    Only failures before the first byte get here. An answer of `wanted` that did not arrive is a
    failure. The query's limits hold for the substitutes too: one that is dearer than `max_cost`
    leaves it to a cheaper one. If nobody can answer, the first failure is raised: it names the
    expert that was wanted.
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
            out, why = [failure.expert], f"{failure.expert} failed"
        except NotAdmissible as refusal:
            first, out = refusal, list(refusal.rejected)
            why = f"{' and '.join(out)} may not be asked"
        for expert in self.then:
            if expert in out or not query.permits(expert):
                continue
            try:
                answer = yield Ask(expert, final=True)
            except (UpstreamError, NotAdmissible):
                continue
            return Decision(answer, because=f"{why}, {expert} stepped in")
        raise first

    def over(self, rows: Recorded) -> Run:
        """Recorded queries at once; where `wanted` gives nothing that is known, only a replay
        can tell."""
        ran = run(self.wanted, rows)
        return ran._replace(undecided=np.isnan(ran.score))


def with_fallback(strategy: Strategy, experts: tuple[str, ...]) -> Strategy:
    """The strategy itself where there is nobody to fall back to."""
    return Fallback(strategy, experts) if experts else strategy
