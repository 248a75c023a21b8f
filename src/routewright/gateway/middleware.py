"""What happens to every request before an endpoint sees it: an id, a key, a watch on the line."""

from __future__ import annotations

import asyncio
import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routewright.gateway.errors import error_object
from routewright.gateway.replies import event

STOPPED = error_object("the gateway is being stopped", "server_error", "stopped")
STALLED = 60.0  # seconds
REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class RequestId:
    """Gives every request an id, its own or the client's `x-request-id`, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class BearerKeys:
    """Lets requests under /v1 and to /metrics pass that carry one of the keys; all, where there
    are no keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["path"].startswith(("/v1", "/metrics"))
        if not guarded or not self.keys or self._knows(Headers(scope=scope)):
            return await self.app(scope, receive, send)
        message = "no valid key: send `Authorization: Bearer KEY` with one of server.api_keys"
        body = error_object(message, "authentication_error", "invalid_api_key")
        await JSONResponse(body, 401, {"www-authenticate": "Bearer"})(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given.strip().encode() if scheme.lower() == "bearer" else b""
        # Every key is compared, each in constant time: the time taken tells nothing.
        matches = [hmac.compare_digest(offered, key) for key in self.keys]
        return any(matches)


class CancelOnDisconnect:
    """Cancels the work for a client that has gone away, and with it the upstream requests.

    One that reads nothing for `STALLED` seconds, while more waits for it than the system holds, is
    gone as well: it would keep an upstream waiting. A server that is stopped and cannot wait any
    longer cancels the work, too; then the client is told.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        incoming: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        kind: str | None = None  # of the reply, once it has begun

        async def send_and_note(message: Message) -> None:
            nonlocal kind
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
            try:
                async with asyncio.timeout(STALLED):
                    await send(message)
            except TimeoutError as error:
                raise asyncio.CancelledError from error

        async def watch() -> None:
            while True:
                message = await receive()
                await incoming.put(message)
                if message["type"] == "http.disconnect":
                    return

        work = asyncio.ensure_future(self.app(scope, incoming.get, send_and_note))
        watcher = asyncio.create_task(watch())
        stopped = False
        try:
            await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            stopped = True
        for task in (work, watcher):
            task.cancel()
        await asyncio.wait({work, watcher})
        if not work.cancelled():
            work.result()
        elif stopped and kind is None:
            await JSONResponse(STOPPED, 503, {"retry-after": "1"})(scope, receive, send)
        elif stopped and kind is not None and kind.startswith("text/event-stream"):
            await send({"type": "http.response.body", "body": event(STOPPED)})
