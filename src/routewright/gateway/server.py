"""Runs the gateway on a socket until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Literal

import uvicorn
from starlette.applications import Starlette

from routewright.config import Config
from routewright.config.rules import is_loopback
from routewright.errors import BadInput
from routewright.experts.resources import connections, raise_limit
from routewright.gateway.app import build
from routewright.gateway.connections import BACKLOG, Connections, protocol
from routewright.gateway.lifecycle import Lifecycle
from routewright.gateway.logs import unblocked
from routewright.gateway.middleware import HEADER_BYTES
from routewright.gateway.team import Team

CUT_SECONDS = 5.0  # that cut requests get to write their log lines and tell their clients
SWITCH_SECONDS = 0.001  # that a thread may hold up the event loop; Python's default is 0.005
THREADS = 32  # some of which may wait for a name server
READ = 256 * 1024  # bytes that an event loop reads at once

log = logging.getLogger(__name__)


def run(
    config: Config,
    host: str,
    port: int,
    ready: Callable[[str], None],
    load: Callable[[], Config] | None = None,
) -> Starlette:
    """Serves a config until it is told to stop and returns the ASGI application.

    Calls `ready` with the URL as soon as requests are answered as fast as they ever are. `load`
    reads the config again, for SIGHUP and `POST /admin/reload`.

    Raises BadInput if the config cannot be served or the port is taken.
    """
    with unblocked(), _no_hangup(), listen(host, port) as listener:
        return _serve(config, listener, ready, load)


def run_worker(config: Config, worker: str, load: Callable[[], Config]) -> None:
    """Serves as one of several workers; `worker` has its number and the descriptors of the socket
    that all of them accept from and of the one to their parent."""
    number, shared, end = map(int, worker.split(","))
    for descriptor in (shared, end):
        os.set_inheritable(descriptor, False)
    team = Team(number, socket.socket(fileno=end))
    with unblocked(), _no_hangup(), socket.socket(fileno=shared) as listener:
        _serve(config, listener, lambda url: team.is_ready(), load, team)


def _serve(
    config: Config,
    listener: socket.socket,
    ready: Callable[[str], None],
    load: Callable[[], Config] | None,
    team: Team | None = None,
) -> Starlette:
    raise_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    app = build(config, load, loopback=is_loopback(listener.getsockname()[0]), team=team)
    with suppress(KeyboardInterrupt):
        Server(app, listener, ready).run()
    return app


class Server(uvicorn.Server):
    """Serves an application of `build` on a listening socket.

    SIGTERM stops it: `/ready` is 503 at once, new requests are answered for `linger_seconds`, and
    those in progress may finish within `drain_seconds`. Ctrl-C does the same without lingering. A
    second signal cuts what is in progress. SIGHUP reads the config again. A server that does not
    run in the main thread has no signals: set `should_exit`.
    """

    def __init__(
        self,
        app: Starlette,
        listener: socket.socket,
        ready: Callable[[str], None] = lambda url: None,
        http: Literal["auto", "h11", "httptools"] = "auto",
    ) -> None:
        self.lifecycle: Lifecycle = app.state.lifecycle
        server = self.lifecycle.config.server
        requests = max(512, server.max_concurrency + server.queue)
        most = min(connections().clients, 2 * requests)
        self._clients = Connections(listener, self.lifecycle, most)
        self._listener = listener
        self._ready = ready
        self._signals = 0  # to stop
        self._deadline: float | None = None  # of requests in progress, by the clock of the loop
        self._has_terminal = os.isatty(0)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol(self._clients, http),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,  # the gateway writes its own line per decision, without URLs
                proxy_headers=False,
                h11_max_incomplete_event_size=HEADER_BYTES + 2 * READ,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(THREADS, "gateway")
        loop.set_default_executor(executor)
        if not self.config.loaded:
            self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        with self._handled(loop):
            await self._join(self.lifecycle.team)
            await self.startup(sockets=[])
            self._clients.start(self._protocol)
            if not self.should_exit:
                self._ready(url_of(self._listener))
                await self.main_loop()
            await self.shutdown()
        # The end of the loop waits for its threads, which may wait for a name server.
        executor.shutdown(wait=False, cancel_futures=True)
        loop.set_default_executor(ThreadPoolExecutor(1))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets requests in progress finish, cuts the rest, and closes the services."""
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self.lifecycle.config.server.drain_seconds
        self.lifecycle.stopping = True
        state = self.server_state
        await self._clients.close()
        for connection in list(state.connections):
            connection.shutdown()
        while state.connections or state.tasks:
            if self.force_exit or loop.time() >= self._deadline:
                break
            await asyncio.sleep(0.05)
        await self._cut()
        await self.lifespan.shutdown()

    async def _cut(self) -> None:
        state = self.server_state
        if tasks := set(state.tasks):
            log.warning("%d requests in progress are cut", len(tasks))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CUT_SECONDS)
        for connection in list(state.connections):
            connection.transport.close()
        for _ in range(10):
            if not state.connections:
                return
            await asyncio.sleep(0.05)  # until the last events have been sent

    def _protocol(self) -> asyncio.Protocol:
        kind = self.config.http_protocol_class
        return kind(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextmanager
    def _handled(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        signals = [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None)]
        if threading.current_thread() is not threading.main_thread():
            signals = []
        handled = []
        for number in filter(None, signals):
            with suppress(NotImplementedError):  # on Windows, Ctrl-C stays a KeyboardInterrupt
                loop.add_signal_handler(number, self._on_signal, number)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def _join(self, team: Team) -> None:
        """Stops when the parent of the workers says so, or has ended."""

        async def stop(how: str) -> None:
            if how == "cut" or not self._signals:
                self._on_signal(signal.SIGTERM if how == "linger" else signal.SIGINT)

        team.answers["stop"] = stop
        await team.join()

    def _on_signal(self, number: signal.Signals) -> None:
        hangup = getattr(signal, "SIGHUP", None)
        if number == hangup and not (self._has_terminal and not os.isatty(0)):
            if not self._signals:
                self._reload = asyncio.ensure_future(self._read_again())
            return
        self._signals += 1
        if self._signals == 1:
            self._stop(lingers=number == signal.SIGTERM)
        elif self._signals == 2:
            self.should_exit = self.force_exit = True
        else:
            os._exit(1)  # a launched server has not ended yet

    def _stop(self, lingers: bool) -> None:
        server, loop = self.lifecycle.config.server, asyncio.get_running_loop()
        self.lifecycle.stopping = True
        self._deadline = loop.time() + server.drain_seconds
        pause = min(server.linger_seconds, server.drain_seconds) if lingers else 0.0
        count = len(self.server_state.tasks)
        log.info(
            "stopping: %d requests in progress may finish within %g s; a second signal cuts them",
            *(count, server.drain_seconds),
        )
        loop.call_later(pause, self._leave)

    def _leave(self) -> None:
        self.should_exit = True

    async def _read_again(self) -> None:
        with suppress(BadInput):  # the log tells why
            await self.lifecycle.reload()


@contextmanager
def _no_hangup() -> Iterator[None]:
    """A SIGHUP that comes before the gateway runs changes nothing: it reads the config anyway."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(hangup, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(hangup, before)


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; raises BadInput if the address or port cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInput(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise BadInput(
            f"cannot listen on {host}:{port}: {error.strerror}; stop the process that uses it, "
            "or choose another port with --port (0 takes a free one)"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
