"""Ask the cheapest expert first; climb while its verification of its own answer fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from routewright.errors import NotAdmissible, UpstreamError
from routewright.types import Answer, Ask, Decision, Plan, Query


@dataclass(frozen=True)
class Cascade:
    """Climbs `ladder` until an expert's verification of its own answer reaches `trust`.

    Rungs that the query may not use, or that fail, are skipped; the last rung that may be asked
    is the top, and its answer is not verified. A verification that fails counts as confidence 0.
    If every rung above fails, the last answer below is returned.
    """

    light: ClassVar[bool] = True

    ladder: tuple[str, ...]
    trust: Annotated[float, Field(ge=0, le=1)] = 0.7

    def plan(self, query: Query) -> Plan:
        rungs = [expert for expert in self.ladder if query.permits(expert)] or [self.ladder[-1]]
        best: Answer | None = None
        failure: UpstreamError | NotAdmissible | None = None
        for expert in rungs[:-1]:
            try:
                answer = yield Ask(expert)
            except (UpstreamError, NotAdmissible) as error:
                failure = error
                continue
            best = answer
            confidence = yield from self._verify(answer)
            if confidence >= self.trust:
                return Decision(answer, because=f"{expert} was {100 * confidence:.0f} % sure")
        try:
            answer = yield Ask(rungs[-1], final=True)
        except (UpstreamError, NotAdmissible) as error:
            if best is None:
                raise (failure or error) from error
            return Decision(best, because=f"{rungs[-1]} could not be asked; best effort")
        return Decision(answer, because="top of the ladder")

    def _verify(self, answer: Answer):  # type: ignore[no-untyped-def]
        try:
            check = yield Ask(answer.expert, "verify", of=answer)
        except (UpstreamError, NotAdmissible):
            return 0.0
        return check.confidence or 0.0
