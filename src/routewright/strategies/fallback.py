"""Follow a strategy; if the expert that it asks fails, ask the next one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from routewright.errors import NotAdmissible, RoutewrightError, UpstreamError
from routewright.strategies import is_light
from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Ask, Decision, Plan, Query, Strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fallback:
    """Runs the strategy `wanted`; if its expert fails or may not be asked, asks the others of
    `then` in order. It does so, too, if the strategy itself fails, and logs why.

    Only failures before the first byte reach it. An answer of `wanted` that did not arrive is a
    failure. The query's limits hold for the other experts too: one above `max_cost` is skipped. If
    no expert can answer, the first failure is raised, which names the expert asked first.
    """

    wanted: Strategy
    then: tuple[str, ...]

    @property
    def light(self) -> bool:
        return is_light(self.wanted)

    def plan(self, query: Query) -> Plan:
        try:
            decision = yield from self.wanted.plan(query)
            if decision.answer.status != "ok":
                raise UpstreamError.of(decision.answer)
            return decision
        except UpstreamError as failure:
            first: Exception = failure
            excluded, reason = [failure.expert], f"{failure.expert} failed"
        except NotAdmissible as refusal:
            first, excluded = refusal, list(refusal.rejected)
            reason = f"{' and '.join(excluded)} may not be asked"
        except RoutewrightError:
            raise
        except Exception as mistake:  # of the strategy, or of its reader of answers
            log.exception("a strategy failed; its fallback is asked")
            first, excluded, reason = mistake, [], f"the strategy failed ({type(mistake).__name__})"
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
