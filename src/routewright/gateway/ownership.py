"""How much of the traffic experts that may defer answer themselves, since the gateway started."""

from __future__ import annotations

from collections import Counter

from routewright.types import Decision


class Ownership:
    """Counts, for every expert that has ever deferred, the share of queries that it answered."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._deferred: set[str] = set()

    def count(self, decision: Decision) -> None:
        self._asked.update({answer.expert for answer in decision.spent if answer.kind == "answer"})
        self._answered[decision.answer.expert] += 1
        self._deferred |= {
            answer.expert for answer in decision.spent if answer.status == "deferred"
        }

    def told(self) -> dict[str, dict[str, float]]:
        """Per expert how often it was asked, and the share (0..1) that it answered."""
        return {
            name: {
                "asked": self._asked[name],
                "ownership": round(self._answered[name] / self._asked[name], 4),
            }
            for name in sorted(self._deferred)
        }
