"""Skips an expert after repeated failures, so that requests do not wait for it in vain."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from routewright.drive import Asker
from routewright.errors import Busy, UpstreamError, UpstreamRefused
from routewright.experts.resources import lack
from routewright.types import Answer, Ask, Delta, Query

FAILURES = 5  # in a row; the retries of one ask count as one
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds; doubled if the next try fails too

Change = Callable[[dict[str, Any] | None], dict[str, Any]]

log = logging.getLogger(__name__)


@dataclass
class Health:
    """The recent failures of one expert. Times are those of the monotonic clock."""

    failures: int = 0  # in a row
    pause: float = 0.0  # seconds of the last pause, in which it was skipped
    since: float = 0.0  # start of that pause
    until: float = 0.0  # end of that pause


class Breaker:
    """A circuit breaker: an Asker that skips an expert after `FAILURES` failures in a row.

    After a pause a single ask tries the expert again, and an answer clears its failures. A refusal
    of the request itself counts as an answer. Failures of asks that began before a pause are not
    counted. Neither are those while `is_down` says that an expert's launched server does not run,
    nor those of this machine, such as a lack of file descriptors, nor asks for which there was no
    room (Busy).
    """

    def __init__(self, asker: Asker, is_down: Callable[[str], bool]) -> None:
        self.asker = asker
        self.is_down = is_down
        self._health: defaultdict[str, Health] = defaultdict(Health)
        self._news: dict[str, float] = {}  # ends of pauses, since 1970, that others do not know

    def exchange(self, update: Callable[[str, Change], dict[str, Any]]) -> None:
        """Tells the other gateways of the store which experts are skipped, and skips theirs.

        For a thread that calls it every second; `update` is that of `records.store`.
        """
        now, news = time.time(), dict(self._news)

        def merged(stored: dict[str, Any] | None) -> dict[str, Any]:
            pauses = {**(stored or {}), **news}
            return {name: until for name, until in pauses.items() if until > now}

        pauses = update("breakers", merged)
        for name, until in news.items():
            if self._news.get(name) == until:
                del self._news[name]
        for name, until in pauses.items():
            if name not in news and isinstance(until, int | float):
                self._skip_too(name, until - now)

    def _skip_too(self, expert: str, seconds: float) -> None:
        """Skips an expert that another gateway skips, for as long."""
        health, now = self._health[expert], time.monotonic()
        seconds = min(seconds, LONGEST_PAUSE)
        if seconds > 0.5 and health.until < now:
            health.failures, health.since, health.until = FAILURES, now, now + seconds
            health.pause = health.pause or FIRST_PAUSE

    def _answered(self, expert: str) -> None:
        """Clears the failures of an expert, for the other gateways too."""
        health = self._health.pop(expert, None)
        if health is not None and health.pause:
            self._news[expert] = 0.0

    def inherit(self, predecessor: Breaker, experts: Iterable[str]) -> None:
        """Takes over what a predecessor knows about experts that have not changed."""
        health = predecessor._health
        self._health.update({name: health[name] for name in experts if name in health})

    def skipped(self) -> list[str]:
        """The experts that are skipped at the moment."""
        now = time.monotonic()
        return sorted(name for name, health in self._health.items() if now < health.until)

    async def ask(self, ask: Ask, query: Query) -> Answer:
        with self._watch(ask.expert):
            answer = await self.asker.ask(ask, query)
        self._answered(ask.expert)
        return answer

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        with self._watch(ask.expert):
            async with aclosing(self.asker.stream(ask, query)) as pieces:
                try:
                    async for piece in pieces:
                        if isinstance(piece, Answer):
                            self._answered(ask.expert)
                        yield piece
                except GeneratorExit:  # the answer was deferred, or the client disconnected
                    self._answered(ask.expert)
                    raise

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.asker.bill(ask, query, seconds)

    @contextmanager
    def _watch(self, expert: str) -> Iterator[None]:
        if self.is_down(expert):
            yield
            return
        began, health = time.monotonic(), self._health[expert]
        if began < health.until:
            reason = f"it is skipped after repeated failures ({health.failures} in a row)"
            raise UpstreamError(expert, reason, status=503, retry_after=health.until - began)
        if health.pause:  # this ask is the single try: others skip the expert meanwhile
            health.until = began + health.pause
        try:
            yield
        except UpstreamRefused:
            self._answered(expert)
            raise
        except UpstreamError as error:
            if isinstance(error, Busy) or lack(error):  # it says nothing about the expert
                health.until = min(health.until, began)
            elif began >= health.since:
                self._failed(expert, health, error)
            raise

    def _failed(self, expert: str, health: Health, error: UpstreamError) -> None:
        health.failures += 1
        if health.failures < FAILURES:
            return
        health.pause = min(2 * health.pause or FIRST_PAUSE, LONGEST_PAUSE)
        retry_after = min(error.retry_after or 0.0, LONGEST_PAUSE)
        health.since = time.monotonic()
        health.until = health.since + max(health.pause, retry_after)
        self._news[expert] = time.time() + health.until - health.since
        message = "expert '%s' failed %d times in a row and is skipped for %.0f s"
        log.warning(message, expert, health.failures, health.until - health.since)
