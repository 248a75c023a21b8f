"""Watches the asks of a request: how long it waits for experts, and why a fixed mix decided."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from routewright.drive import Asker
from routewright.types import Answer, Ask, Delta, Query, Unlike


class Stopwatch:
    """An Asker that asks through another one and measures the time spent waiting for experts.

    It also notes what of the request was unlike the training rows, as the asks say it.
    """

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.waiting = 0.0  # seconds during which at least one ask was running
        self.unlike: Unlike = ""
        self._running = 0
        self._began = 0.0

    async def ask(self, ask: Ask, query: Query) -> Answer:
        self.unlike = ask.unlike or self.unlike
        with self._timed():
            return await self.asker.ask(ask, query)

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        self.unlike = ask.unlike or self.unlike
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
