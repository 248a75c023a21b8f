"""Bounds the requests that are answered at once, and those that wait for it."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Slots:
    """`async with slots` waits in order for one of the `running` slots.

    At most `queue` requests should wait: ask `full` before.
    """

    def __init__(self, running: int = 512, queue: int = 1024) -> None:
        self.running = running
        self.queue = queue
        self._free = asyncio.Semaphore(running)
        self._waiting = 0

    def full(self) -> bool:
        return self._free.locked() and self._waiting >= self.queue

    @property
    def in_progress(self) -> int:
        """Requests that are being answered."""
        return self.running - self._free._value

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return self._waiting

    async def __aenter__(self) -> None:
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free.release()
