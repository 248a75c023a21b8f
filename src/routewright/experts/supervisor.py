"""Keeps a launched server as its requests need it: up on demand, up again after a crash, down when
nobody has asked for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from routewright.errors import BadInput, UpstreamError
from routewright.experts.launch import Server, State
from routewright.types import Expert

TICK = 0.25  # seconds between looks at the process
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a crashed server is started again
RETRY_AFTER = 5.0  # seconds, told to whoever came while it was getting ready
STEADY = 60.0  # seconds up after which earlier crashes are forgotten

log = logging.getLogger(__name__)


class Supervisor:
    """One server in this process's care; `close` stops it unless its user started it."""

    def __init__(self, expert: Expert, first_pause: float = FIRST_PAUSE) -> None:
        self.server = Server(expert)
        self.launch = self.server.launch
        self.state: State = "absent"  # as last seen
        self._first_pause = first_pause
        self._users = 0
        self._last_used = self._up_since = time.monotonic()
        self._crashes = 0
        self._not_before = 0.0
        self._rising: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def use(self, patience: float) -> AsyncIterator[None]:
        """The server is up inside; raises UpstreamError if it is not within `patience` seconds."""
        self._users += 1
        try:
            if self.state != "running":
                await self._wait(min(patience, self.launch.wait))
            yield
        finally:
            self._users -= 1
            self._last_used = time.monotonic()

    def begin(self) -> None:
        """Starts it, if it does not run, without waiting; goes on watching it."""
        if self._rising is None or self._rising.done():
            self._rising = asyncio.create_task(self._rise())
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        for task in (self._watching, self._rising):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, BadInput):
                    await task
        record = self.server.record()
        if self._watching is not None and record is not None and record.owner == "gateway":
            await asyncio.to_thread(self.server.stop)

    async def _wait(self, patience: float) -> None:
        name = self.server.name
        if self.state == "failed" and not self._may_try():
            pause = max(0.0, self._not_before - time.monotonic())
            reason = "its server has failed; `routewright experts status` says why"
            raise UpstreamError(name, reason, status=503, retry_after=pause or None)
        self.begin()
        assert self._rising is not None
        try:
            await asyncio.wait_for(asyncio.shield(self._rising), patience)
        except TimeoutError as error:
            reason = f"its server is {self.state} and was not ready within {patience:g} s"
            raise UpstreamError(name, reason, status=503, retry_after=RETRY_AFTER) from error
        except BadInput as error:  # told in the log: a client need not know our paths
            raise UpstreamError(name, "its server did not start", status=503) from error

    def _may_try(self) -> bool:
        tries_left = self._crashes <= self.launch.restarts
        return tries_left and time.monotonic() >= self._not_before

    async def _rise(self) -> None:
        if self.state != "running":
            self.state = "starting"
        try:
            await asyncio.to_thread(self.server.start, "gateway")
            await self.server.until_ready()
        except BadInput as error:
            self._crashed(str(error))
            raise
        self.state, self._up_since = "running", time.monotonic()
        self._last_used = time.monotonic()

    def _crashed(self, why: str) -> None:
        self.state = "failed"
        self._crashes += 1
        pause = min(self._first_pause * 2.0 ** (self._crashes - 1), LONGEST_PAUSE)
        self._not_before = time.monotonic() + pause
        ahead = (
            f"another try in {pause:g} s" if self._crashes <= self.launch.restarts else "no more"
        )
        log.error("%s; %s", why, ahead)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            if self._rising is not None and self._rising.done():
                with suppress(asyncio.CancelledError):
                    self._rising.exception()  # told when it happened
            if self.state == "running":
                await self._check()
            elif self.state == "failed" and (self._may_try() or self.server.alive()):
                self.begin()

    async def _check(self) -> None:
        now = time.monotonic()
        if not self.server.alive():
            found = await self.server.status()
            if found.state == "stopped":  # by somebody else; the next request starts it again
                self.state = "stopped"
                return
            why = found.record.why if found.record else "its record is gone"
            self._crashed(f"expert '{self.server.name}' went down: {why}")
        elif self.launch.idle is not None and not self._users:
            if now - self._last_used > self.launch.idle:
                self.state = "stopped"
                await asyncio.to_thread(self.server.stop, "stopped", "nobody asked")
        elif now - self._up_since > STEADY:
            self._crashes = 0
