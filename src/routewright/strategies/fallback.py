"""Follow a strategy; if the expert it wants fails, ask the next one in line."""

from __future__ import annotations

from dataclasses import dataclass

from routewright.errors import NotAdmissible, UpstreamError
from routewright.types import Ask, Decision, Plan, Query, Strategy


@dataclass(frozen=True)
class Fallback:
    """Runs `wanted`; on failure asks `then` in order, leaving out who failed already.

    Only failures before the first byte get here. The query's limits hold for the substitutes
    too. If everybody fails, the first failure is raised: it names the expert that was wanted.
    """

    wanted: Strategy
    then: tuple[str, ...]

    def plan(self, query: Query) -> Plan:
        try:
            decision = yield from self.wanted.plan(query)
        except UpstreamError as failure:
            first = failure
        else:
            return decision
        for expert in self.then:
            if expert == first.expert or not query.permits(expert):
                continue
            try:
                answer = yield Ask(expert, final=True)
            except (UpstreamError, NotAdmissible):
                continue
            because = f"{first.expert} failed, {expert} stepped in"
            return Decision(answer, because=because)
        raise first


def with_fallback(strategy: Strategy, experts: tuple[str, ...]) -> Strategy:
    """The strategy itself where there is nobody to fall back to."""
    return Fallback(strategy, experts) if experts else strategy
