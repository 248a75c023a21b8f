"""Keeps a launched server running: starts it on demand, restarts it after a crash, and stops it
when it is idle."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context

from routewright.errors import BadInput, UpstreamError
from routewright.experts.launch import Server, State
from routewright.types import Expert

TICK = 0.25  # seconds between checks of the process
TELL_SECONDS = 1.0  # between two messages to the process that runs a server
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a crashed server is started again
RETRY_AFTER = 5.0  # seconds, sent to clients whose request ends while the server is loading
STEADY = 60.0  # seconds without a crash after which earlier crashes no longer count

log = logging.getLogger(__name__)


class Supervisor:
    """Runs one server. `close` stops it, unless the user started it with `experts start`.

    With `need` another process runs it, and is told so the name of the expert whenever its server
    is in use, or should run: this supervisor only waits for it.
    """

    def __init__(
        self,
        expert: Expert,
        first_pause: float = FIRST_PAUSE,
        predecessor: Supervisor | None = None,
        need: Callable[[str], None] | None = None,
    ) -> None:
        self.server = Server(expert)
        self.launch = self.server.launch
        self.state: State = "absent"  # at the last check
        self._first_pause = first_pause
        self._need = need
        self._told = -math.inf
        self._users = 0
        self._last_used = self._up_since = time.monotonic()
        self._crashes = 0
        self._not_before = 0.0
        self._startup: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._predecessor = predecessor  # its server is in use until it is closed
        self._closed = asyncio.Event()

    @classmethod
    def succeeding(
        cls,
        running: Supervisor | None,
        expert: Expert,
        need: Callable[[str], None] | None = None,
    ) -> Supervisor:
        """The supervisor of an expert whose config may have changed.

        If its server need not be started again, it is the `running` one, with the new settings.
        Else it starts the new server as soon as the running one is closed.
        """
        if running is None or running._closed.is_set():
            return cls(expert, need=need)
        if _process(running.server.expert) != _process(expert):
            return cls(expert, predecessor=running, need=need)
        assert expert.launch is not None
        running.server.expert = expert
        running.server.launch = running.launch = expert.launch
        return running

    @asynccontextmanager
    async def use(self, patience: float) -> AsyncIterator[None]:
        """Keeps the server running inside the block, and starts it if necessary.

        Raises UpstreamError if it is not ready within `patience` seconds.
        """
        self._users += 1
        self._tell()
        try:
            if self.state != "running":
                await self._wait(min(patience, self.launch.wait))
            yield
        finally:
            self._users -= 1
            self._last_used = time.monotonic()

    def begin(self) -> None:
        """Starts the server in the background unless it runs, and watches it from then on.

        It outlives the request that starts it, so its log lines are not those of the request.
        """
        if self._startup is None or self._startup.done():
            self._startup = asyncio.create_task(self._start(), context=Context())
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), context=Context())

    def needed(self) -> None:
        """Another process uses the server: starts it unless it runs, or has failed for good."""
        self._last_used = time.monotonic()
        if self.state != "running" and (self.state != "failed" or self._may_start()):
            self.begin()

    def _tell(self) -> None:
        if self._need is not None and time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._need(self.server.name)

    async def close(self) -> None:
        for task in (self._watcher, self._startup):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, BadInput):
                    await task
        record = self.server.record() if self._need is None else None
        try:
            if self._watcher is not None and record is not None and record.owner == "gateway":
                await asyncio.to_thread(self.server.stop)
        finally:
            self._closed.set()

    async def _wait(self, patience: float) -> None:
        name = self.server.name
        if self.state == "failed" and not self._may_start():
            pause = max(0.0, self._not_before - time.monotonic())
            reason = "its server has failed; `routewright experts status` says why"
            raise UpstreamError(name, reason, status=503, retry_after=pause or None)
        self.begin()
        assert self._startup is not None
        try:
            await asyncio.wait_for(asyncio.shield(self._startup), patience)
        except TimeoutError as error:
            reason = f"its server is {self.state} and was not ready within {patience:g} s"
            raise UpstreamError(name, reason, status=503, retry_after=RETRY_AFTER) from error
        except BadInput as error:  # the log has its message, which contains paths
            raise UpstreamError(name, "its server did not start", status=503) from error

    def _may_start(self) -> bool:
        has_restarts = self._crashes <= self.launch.restarts
        return has_restarts and time.monotonic() >= self._not_before

    async def _start(self) -> None:
        if self.state != "running":
            self.state = "starting"
        if self._predecessor is not None:
            await self._predecessor._closed.wait()
            self._predecessor = None
        try:
            if self._need is None:
                await asyncio.to_thread(self.server.start, "gateway")
                await self.server.until_ready()
            else:
                await self._until_it_runs()
        except BadInput as error:
            self._crashed(str(error))
            raise
        self.state, self._up_since = "running", time.monotonic()
        self._last_used = time.monotonic()

    async def _until_it_runs(self) -> None:
        """Waits until the other process has started the server."""
        deadline = time.monotonic() + self.launch.patience
        while (await self.server.status()).state != "running":
            if time.monotonic() > deadline:
                raise BadInput(f"no worker could start the server of expert '{self.server.name}'")
            self._tell()
            await asyncio.sleep(TICK)

    def _crashed(self, reason: str) -> None:
        self.state = "failed"
        self._crashes += 1
        pause = min(self._first_pause * 2.0 ** (self._crashes - 1), LONGEST_PAUSE)
        self._not_before = time.monotonic() + pause
        has_restarts = self._crashes <= self.launch.restarts
        prospect = f"restart in {pause:g} s" if has_restarts else "no restart left"
        log.error("%s; %s", reason, prospect)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            if self._startup is not None and self._startup.done():
                with suppress(asyncio.CancelledError):
                    self._startup.exception()  # marks it as read: `_crashed` has logged it
            if self._users:
                self._tell()
            if self.state == "running":
                await self._check()
            elif self.state == "failed" and (self._may_start() or self.server.alive()):
                self.begin()

    async def _check(self) -> None:
        now = time.monotonic()
        if not self.server.alive():
            status = await self.server.status()
            # By another process, or another one tells why: the next request starts it again.
            if status.state == "stopped" or self._need is not None:
                self.state = "stopped"
                return
            reason = status.record.why if status.record else "its record has been deleted"
            self._crashed(f"the server of expert '{self.server.name}' has crashed: {reason}")
        elif self.launch.idle is not None and not self._users and self._need is None:
            if now - self._last_used > self.launch.idle:
                self.state = "stopped"
                reason = f"no request within {self.launch.idle:g} s"
                await asyncio.to_thread(self.server.stop, "stopped", reason)
        elif now - self._up_since > STEADY:
            self._crashes = 0


def _process(expert: Expert) -> tuple[object, ...]:
    """What the process of a server depends on; a change of it needs a new process."""
    launch = expert.launch
    assert launch is not None
    return expert.base_url, launch.command, launch.folder, dict(launch.env)
