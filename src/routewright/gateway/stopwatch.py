"""Measures how long a request waits for experts; the rest of its time is overhead."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from routewright.drive import Asker
from routewright.types import Answer, Ask, Delta, Query


class Stopwatch:
    """An Asker that asks through another one and measures the time spent waiting for experts."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.waiting = 0.0  # seconds during which at least one ask was running
        self._running = 0
        self._began = 0.0

    async def ask(self, ask: Ask, query: Query) -> Answer:
        with self._timed():
            return await self.asker.ask(ask, query)

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        async with aclosing(self.asker.stream(ask, query)) as pieces:
            while True:
                with self._timed():
                    try:
                        piece = await anext(pieces)
                    except StopAsyncIteration:
                        return
                yield piece

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.asker.bill(ask, query, seconds)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        if self._running == 0:
            self._began = time.perf_counter()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._running == 0:
                self.waiting += time.perf_counter() - self._began
