"""Leaves an expert alone that keeps failing, so that nobody waits for it in vain."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from routewright.drive import Asker
from routewright.errors import UpstreamError, UpstreamRefused
from routewright.types import Answer, Ask, Delta, Query

FAILURES = 5  # one after another, retries of one ask counted as one
FIRST_REST, LONGEST_REST = 5.0, 60.0  # seconds; doubled where the next try fails, too

log = logging.getLogger(__name__)


@dataclass
class Health:
    """How an expert has fared of late; times are of the monotonic clock."""

    failures: int = 0
    rest: float = 0.0  # seconds that it was last left alone for
    since: float = 0.0  # when that began
    until: float = 0.0


class Breaker:
    """An Asker that asks another one, but not an expert that has failed `FAILURES` times running.

    That one is left alone for a while; then one ask tries it, and an answer makes it whole. A
    refusal of the request itself is an answer. What began before a rest tells nothing new.
    `away` says of an expert that it is not up yet, which is no failure.
    """

    def __init__(self, asker: Asker, away: Callable[[str], bool]) -> None:
        self.asker = asker
        self.away = away
        self._health: defaultdict[str, Health] = defaultdict(Health)

    def resting(self) -> list[str]:
        now = time.monotonic()
        return sorted(name for name, health in self._health.items() if now < health.until)

    async def ask(self, ask: Ask, query: Query) -> Answer:
        with self._watch(ask.expert):
            answer = await self.asker.ask(ask, query)
        self._health.pop(ask.expert, None)
        return answer

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        with self._watch(ask.expert):
            async with aclosing(self.asker.stream(ask, query)) as pieces:
                try:
                    async for piece in pieces:
                        if isinstance(piece, Answer):
                            self._health.pop(ask.expert, None)
                        yield piece
                except GeneratorExit:  # a piece was enough: it defers, or the client has left
                    self._health.pop(ask.expert, None)
                    raise

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.asker.bill(ask, query, seconds)

    @contextmanager
    def _watch(self, expert: str) -> Iterator[None]:
        if self.away(expert):
            yield
            return
        began, health = time.monotonic(), self._health[expert]
        if began < health.until:
            reason = f"it failed {health.failures} times in a row and is left alone for now"
            raise UpstreamError(expert, reason, status=503, retry_after=health.until - began)
        if health.rest:  # this one tries; who comes meanwhile does not
            health.until = began + health.rest
        try:
            yield
        except UpstreamRefused:
            self._health.pop(expert, None)
            raise
        except UpstreamError as error:
            if began >= health.since:
                self._failed(expert, health, error)
            raise

    def _failed(self, expert: str, health: Health, error: UpstreamError) -> None:
        health.failures += 1
        if health.failures < FAILURES:
            return
        health.rest = min(2 * health.rest or FIRST_REST, LONGEST_REST)
        asked = min(error.retry_after or 0.0, LONGEST_REST)
        health.since = time.monotonic()
        health.until = health.since + max(health.rest, asked)
        what = "expert '%s' failed %d times in a row and is left alone for %.0f s"
        log.warning(what, expert, health.failures, health.until - health.since)
