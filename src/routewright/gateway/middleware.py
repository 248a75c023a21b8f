"""Middleware for every request: its id, its key, and the end of its work on a disconnect."""

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
STALL_SECONDS = 60.0
REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class RequestId:
    """Gives every request the client's `x-request-id` or a new one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        header = Headers(scope=scope).get("x-request-id", "")
        request_id = header if REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class BearerKeys:
    """Refuses requests to /v1 and /metrics that have none of the keys.

    Without keys in the config every request passes.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["path"].startswith(("/v1", "/metrics"))
        if not guarded or not self.keys or self._has_key(Headers(scope=scope)):
            return await self.app(scope, receive, send)
        message = "no valid key: send `Authorization: Bearer KEY` with one of server.api_keys"
        body = error_object(message, "authentication_error", "invalid_api_key")
        await JSONResponse(body, 401, {"www-authenticate": "Bearer"})(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        token = credentials.strip().encode() if scheme.lower() == "bearer" else b""
        # Every key is compared, each in constant time, so that the time reveals nothing.
        matches = [hmac.compare_digest(token, key) for key in self.keys]
        return any(matches)


class CancelOnDisconnect:
    """Cancels the work for a client that has disconnected, and with it the upstream requests.

    A client that reads nothing of a full send buffer for `STALL_SECONDS` counts as disconnected,
    because it would keep an upstream waiting. A server whose time to shut down is over cancels the
    work too; its client then gets the error STOPPED.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        incoming: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        content_type: str | None = None  # of the response; None before its first byte

        async def send_or_cancel(message: Message) -> None:
            nonlocal content_type
            if message["type"] == "http.response.start":
                content_type = Headers(raw=message["headers"]).get("content-type", "")
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await send(message)
            except TimeoutError as error:
                raise asyncio.CancelledError from error

        async def watch() -> None:
            while True:
                message = await receive()
                await incoming.put(message)
                if message["type"] == "http.disconnect":
                    return

        work = asyncio.ensure_future(self.app(scope, incoming.get, send_or_cancel))
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
        elif stopped and content_type is None:
            await JSONResponse(STOPPED, 503, {"retry-after": "1"})(scope, receive, send)
        elif stopped and content_type is not None and content_type.startswith("text/event-stream"):
            await send({"type": "http.response.body", "body": event(STOPPED)})
