"""The connections of clients: how many there are, how long they last, and how they begin.

uvicorn reads HTTP from them, with h11 or, where the extra `fast` is installed, with httptools. It
bounds neither the number of connections, nor the time that a request takes to arrive, nor (with
httptools) the size of its headers. This module adds these bounds to both.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from routewright.experts.resources import WAY_OUT, lack
from routewright.gateway.lifecycle import Lifecycle
from routewright.gateway.middleware import HEADER_BYTES, Refusal, too_many_headers

HEAD_SECONDS = 20.0  # until the headers of a request are complete
REST_SECONDS = 5.0  # that a client may go on sending a request which has been answered
IDLE_SECONDS = 2.0  # after which a connection without a request may be closed for a new one
PAUSE_SECONDS = 0.5  # without accepting connections, if this machine lacks something
TURN_SECONDS = 0.002  # until a worker accepts again, so that others take their part of a burst
BACKLOG = 2048  # connections that the kernel holds until they are accepted
PROBES = ("/health", "/ready")  # answered even if there are too many connections

log = logging.getLogger(__name__)


class Connections:
    """Accepts connections from a listening socket.

    Beyond `most` connections an idle one is closed for a new one. If none is idle, the new one is
    told to come again (503). Beyond `most` + `spare` nothing is accepted: the kernel keeps clients
    waiting until a connection is closed.
    """

    def __init__(self, listener: socket.socket, lifecycle: Lifecycle, most: int) -> None:
        self.lifecycle = lifecycle
        self.most = most
        self.spare = max(8, min(32, most // 4))
        self.open = 0
        self.idle: dict[Guard, float] = {}  # ▶ since when; the longest idle is the first
        self._listener = listener
        self._room = asyncio.Event()  # whether a connection may be accepted
        self._room.set()
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._warned = -math.inf

    def start(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accepts connections; `make` makes the protocol of each."""
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Accepts those that the kernel holds already, and no more."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            with suppress(OSError):  # none is left, or none can be accepted
                while self._room.is_set():
                    self._open(self._listener.accept()[0])
        self._listener.close()
        await asyncio.gather(*self._opening)

    def closed(self) -> None:
        """A connection has been closed: another one may take its place."""
        self.open -= 1
        if self.open < self.most + self.spare:
            self._room.set()

    def has_place(self) -> bool:
        """Whether one more connection may be served; closes an idle one for it."""
        if self.open <= self.most:
            return True
        oldest = next(iter(self.idle), None)
        if oldest is None or self._loop.time() - self.idle[oldest] < IDLE_SECONDS:
            return False
        del self.idle[oldest]
        oldest.transport.close()
        return True

    async def _accept(self) -> None:
        while True:
            await self._room.wait()
            try:
                connection, _ = await self._loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # The socket stays readable: to try again at once would spin.
                self._warn(error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._open(connection)
            # Others have their turn, too: here, and in other workers.
            await asyncio.sleep(0 if self.lifecycle.team.is_alone else TURN_SECONDS)

    def _open(self, connection: socket.socket) -> None:
        self.open += 1
        if self.open >= self.most + self.spare:
            self._room.clear()
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            await self._loop.connect_accepted_socket(self._make, connection)
        except Exception as error:
            connection.close()
            self.closed()
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if self._loop.time() - self._warned >= 60:
            self._warned = self._loop.time()
            log.error("a connection could not be accepted: %s", lack(error) or error)


class Guard(asyncio.Protocol):
    """Bounds the head of a request and the time it takes; a mixin for uvicorn's protocols."""

    bounds: Connections
    app: Any
    connections: set[Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    timeout_keep_alive: float
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._refused = False
        self.timeout_keep_alive = self.bounds.lifecycle.config.server.idle_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()
        if not self.bounds.has_place():
            self.app = partial(self._without_place, self.app)
        self.bounds.idle[self] = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_complete()
        self.bounds.idle.pop(self, None)
        super().connection_lost(exc)
        self.bounds.closed()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self.bounds.idle.pop(self, None)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        size = self._partial_head(len(data))
        if size > HEADER_BYTES:
            self._refuse(too_many_headers())
        elif size:
            self._await_head()
        else:
            self._head_is_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        if self.transport.is_closing():
            return
        if self._is_arriving():
            self.loop.call_later(REST_SECONDS, self._close_unless_complete, self.cycle)
        elif self.cycle.response_complete:  # no further request is in the pipeline
            self.bounds.idle[self] = self.loop.time()

    def shutdown(self) -> None:
        """Ends an idle connection; a new one gets a second, as its request may be on its way."""
        pause = 1.0 if self.cycle is None and not self._refused else 0.0
        self.loop.call_later(pause, self._shut_down)

    def send_400_response(self, msg: str) -> None:
        if self._refused:
            return
        self._refuse(Refusal(400, f"this is no HTTP request: {msg}", "bad_http"))

    async def _without_place(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answers 503 in the place of the application, except to probes."""
        if scope["type"] == "http" and scope["path"] in PROBES:
            return await app(scope, receive, send)
        refusal = Refusal(
            503,
            f"all {self.bounds.most} connections are in use: send the request again; the operator"
            f" can {WAY_OUT}",
            "too_many_connections",
            "server_error",
            {"retry-after": "1"},
        )
        if not self._is_arriving():  # else `on_response_complete` closes it
            refusal.headers["connection"] = "close"
        self.bounds.lifecycle.counters.refusals.labels(refusal.code).inc()
        await refusal.response(scope)(scope, receive, send)

    def _shut_down(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()  # type: ignore[misc]

    def _partial_head(self, received: int) -> int:
        """The bytes so far of a head that is not complete; 0 if there is none."""
        raise NotImplementedError

    def _is_arriving(self) -> bool:
        """Whether the body of the present request is not complete."""
        raise NotImplementedError

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self in self.bounds.idle:  # not a byte came
            return self.transport.close()
        message = f"the headers were not complete within {HEAD_SECONDS:g} s"
        self._refuse(Refusal(408, message, "request_timeout"))

    def _close_unless_complete(self, cycle: object) -> None:
        if self.cycle is cycle and self._is_arriving() and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Sends an answer in the place of uvicorn, which reads no more of this connection."""
        self._refused = True
        self._head_is_complete()
        self.bounds.lifecycle.counters.refusals.labels(refusal.code).inc()
        if self.cycle is not None and not self.cycle.response_complete:
            return self.transport.close()  # an earlier request is being answered
        response = refusal.response()
        response.headers["connection"] = "close"
        head = [b"HTTP/1.1 %d \r\n" % refusal.status]
        head += [b"%s: %s\r\n" % header for header in response.raw_headers]
        self.transport.write(b"".join(head) + b"\r\n" + bytes(response.body))
        # What the client still sends is read and dropped: closing at once would reset the
        # connection before it has read the answer.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(REST_SECONDS, self.transport.close)


class Plain(Guard, H11Protocol):  # type: ignore[misc]
    """The protocol with h11."""

    def _partial_head(self, received: int) -> int:
        return len(self.conn.trailing_data[0]) if self.conn.their_state is h11.IDLE else 0

    def _is_arriving(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY


try:
    import httptools
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    FAST: type[Guard] | None = None
else:

    class Fast(Guard, HttpToolsProtocol):  # type: ignore[misc]
        """The protocol with httptools, which limits neither headers nor what is between the chunks
        of a body, and skips the body of a client that proposes another protocol."""

        _in_head = False
        _in_body = False
        _head = 0  # bytes of the head so far
        _around = 0  # bytes of a body that may be no part of it: sizes of chunks, trailers
        _chunk = 0  # bytes that are being read
        _answered: Any = None  # the request that is being answered; others may wait behind it

        def data_received(self, data: bytes) -> None:
            self._chunk, self._data = len(data), data
            self._began_in_body = self._in_body
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._answered is not None and not self._answered.response_complete:
                self._answered.disconnected = True
                self._answered.message_event.set()

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._answered = cycle  # uvicorn tells only the last request of a lost connection
            super()._start_asgi_task(cycle, app)

        def on_message_begin(self) -> None:
            self._in_head, self._in_body = True, False
            self._head = -self._chunk if self._began_in_body else 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            if len(self.url) > HEADER_BYTES and not self._refused:  # it could not be parsed
                self._refuse(too_many_headers())

        def on_headers_complete(self) -> None:
            self._in_head, self._in_body = False, True
            self._around = 0
            if not self._refused:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._around -= 8 * len(body)  # a chunk of one byte has five more around it
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_body = False
            super().on_message_complete()

        def _should_upgrade(self) -> bool:
            # True for every protocol: uvicorn then leaves the request to the next method.
            return self._get_upgrade() is not None

        def handle_websocket_upgrade(self) -> None:
            """Reads a request again without its proposal, which may be ignored (RFC 9110, 7.8)."""
            if self._refused:
                return
            stopped = sys.exc_info()[1]
            assert isinstance(stopped, httptools.HttpParserUpgrade)
            version = self.parser.get_http_version().encode()
            head = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)]
            head += [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            with suppress(AttributeError):  # as uvicorn makes its own
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            rest = self._data[stopped.args[0] :]
            HttpToolsProtocol.data_received(self, b"".join([*head, b"\r\n", rest]))

        def _partial_head(self, received: int) -> int:
            if self._in_head:
                self._head += received
                return max(1, self._head)
            if self._in_body and self._began_in_body:
                self._around += received
                return self._around if self._around > HEADER_BYTES else 0
            return 0

        def _is_arriving(self) -> bool:
            return self._in_body

    FAST = Fast


def protocol(bounds: Connections, http: Literal["auto", "h11", "httptools"]) -> type[Guard]:
    """uvicorn's protocol with these bounds: httptools if it is installed, or the one named."""
    base = Plain if http == "h11" or FAST is None else FAST
    return type(base.__name__, (base,), {"bounds": bounds})
