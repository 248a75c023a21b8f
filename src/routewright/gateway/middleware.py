"""Middleware for every request, in this order: its address, its id, the services that answer it,
its limits, the page that sent it, its key, its turn, and the end of its work on a disconnect."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routewright.config.rules import is_loopback
from routewright.experts.traces import trace_id
from routewright.gateway.dashboard import is_page
from routewright.gateway.errors import (
    BadRequest,
    error_event,
    error_object,
    error_response,
    protocol_of,
)
from routewright.gateway.lifecycle import Lifecycle
from routewright.gateway.lines import REQUEST
from routewright.records.keys import Key

STOPPED = error_object("the gateway is being stopped", "server_error", "stopped")
STALL_SECONDS = 60.0
HOST = re.compile(r"(?:(?P<name>[\w.-]{1,253})|\[(?P<address>[\da-fA-F:.]{2,45})\])(?::\d{1,5})?")
HEADER_BYTES = 64 * 1024  # of all headers of a request and its address
BODY_SECONDS = 20.0  # that the body of a request may take, and one more per BODY_RATE bytes
BODY_RATE = 10_000
REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
FREE = ("/v1/route", "/v1/feedback")  # addresses that ask no expert

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Refusal(Exception):
    """The answer to a request that is refused before it is read."""

    status: int
    message: str
    code: str
    kind: str = "invalid_request_error"
    headers: dict[str, str] = field(default_factory=dict)

    def response(self, scope: Scope | None = None) -> JSONResponse:
        """The refusal in the protocol of a request; OpenAI's if nothing could be read of it."""
        body = error_object(self.message, self.kind, self.code)
        if scope is None:
            return JSONResponse(body, self.status, self.headers)
        return error_response(scope, body, self.status, self.headers)


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
        REQUEST.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class Addresses:
    """Finds out which address of the gateway a request means, once, before anything reads it.

    Clients disagree on whether a base URL ends with `/v1` or with a slash. So `/models`,
    `//v1/models` and `/v1//models/` all mean `/v1/models`: a path that begins like no route of the
    application is one below `/v1`. `state.path` is the address without the path at which another
    application mounts this one. Routing and all checks go by it, whatever the spelling.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._places: set[str] = set()
        self._count = 0  # of the routes whose places these are

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        root, path = scope.get("root_path", ""), scope["path"]
        if path == root or path.startswith(f"{root}/"):
            path = path.removeprefix(root)
        routes = scope["app"].routes
        if len(routes) != self._count:
            self._places = {_place(getattr(route, "path", "")) for route in routes}
            self._count = len(routes)
        address = _address(path, self._places)
        state = {**scope.get("state", {}), "path": address}
        await self.app({**scope, "path": root + address, "state": state}, receive, send)


def _address(path: str, places: Collection[str]) -> str:
    """The address that a path means, if an application has routes in these places.

    >>> _address("//models/small", {"v1", "health"}), _address("/health", {"v1", "health"})
    ('/v1/models/small', '/health')
    """
    path = path.lstrip("/")
    if path and _place(path) not in places:
        path = f"v1/{path}"
    if path.startswith("v1/"):
        path = "v1/" + path.removeprefix("v1/").strip("/")
    return f"/{path}"


def _place(path: str) -> str:
    """The first part of a path."""
    return path.lstrip("/").partition("/")[0]


class InUse:
    """Gives every request the present services and keeps them open until its end.

    While the gateway is being stopped, it asks clients to close their connections.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self.lifecycle.stopping:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        with self.lifecycle.use() as services:
            scope.setdefault("state", {})["services"] = services
            await or_refuse(self.app, scope, receive, send_last)


async def or_refuse(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Runs an application; sends and counts a refusal that it raises."""
    try:
        await app(scope, receive, send)
    except Refusal as refusal:
        scope["state"]["services"].counters.refusals.labels(refusal.code).inc()
        await refusal.response(scope)(scope, receive, send)


class HeaderLimit:
    """Refuses requests whose address and headers exceed `HEADER_BYTES` (431)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
            size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
            if size > HEADER_BYTES:
                raise too_many_headers()
        await self.app(scope, receive, send)


def too_many_headers() -> Refusal:
    message = f"the request's headers are larger than {HEADER_BYTES // 1024} KiB: send fewer"
    return Refusal(431, message, "headers_too_large")


class WebPages:
    """Refuses what a web page sends in the name of its reader, unless its origin is allowed.

    A page reaches a gateway in two ways. It can send a request to the gateway's address: the
    browser then names the page in `Origin` and `Sec-Fetch-Site`. Or a name server tells the
    browser that the page's own name is the gateway's address (DNS rebinding): then `Host` is that
    name. `loopback` says whether the gateway listens on a loopback address; None asks each
    connection.
    """

    def __init__(self, app: ASGIApp, loopback: bool | None = None) -> None:
        self.app = app
        self.loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        server = scope["state"]["services"].config.server
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        loopback = self.loopback
        if loopback is None:
            loopback = is_loopback((scope.get("server") or ("", 0))[0])
        for host in hosts:
            if (loopback or server.allowed_hosts) and not _is_listed(host, server.allowed_hosts):
                message = (
                    f"the host '{host[:100]}' is not one of this gateway's: use localhost or"
                    " 127.0.0.1, or add the name to `server.allowed_hosts`"
                )
                raise Refusal(421, message, "host_not_allowed")
        origin = headers.get("origin")
        if origin and not {origin, "*"}.isdisjoint(server.cors_origins):
            cors = CORSMiddleware(
                partial(or_refuse, self.app),
                allow_origins=[origin],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["*"],
            )
            return await cors(scope, receive, send)
        if is_page(scope["state"]["path"]):  # it has checks of its own, and readers to sign in
            return await self.app(scope, receive, send)
        if _is_foreign(origin, headers.getlist("sec-fetch-site"), hosts, server.allowed_hosts):
            page = f"'{origin[:100]}'" if origin else "another site"
            message = (
                f"a web page of {page} may not use this gateway: add its origin to"
                " `server.cors_origins`"
            )
            raise Refusal(403, message, "origin_not_allowed")
        await self.app(scope, receive, send)


def _is_listed(host: str, allowed: Iterable[str]) -> bool:
    """Whether a `Host` is a loopback name or one of the allowed ones, whatever its port."""
    name = _name(host)
    if name is None:
        return False
    if name == "localhost" or _is_loopback_address(name):
        return True
    return any(
        pattern == "*" or name == pattern.lower().strip("[]") or _is_below(name, pattern.lower())
        for pattern in allowed
    )


def _is_below(name: str, pattern: str) -> bool:
    return pattern.startswith("*.") and name.endswith(pattern[1:])


def _name(host: str) -> str | None:
    """The name or address in a `Host`, without its port; None if it cannot be read."""
    match = HOST.fullmatch(host)
    return match["address"] or match["name"].lower() if match else None


@lru_cache(256)
def _is_loopback_address(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_foreign(
    origin: str | None, sites: Sequence[str], hosts: Sequence[str], allowed: Iterable[str]
) -> bool:
    """Whether a page of another site sends the request.

    A page of the gateway itself is none, if the gateway's name is certain: a page that has
    rebound its own name would be of the same origin too.
    """
    if any(site not in ("same-origin", "none") for site in sites):
        return True
    if origin is None:
        return False
    names = [name for name in allowed if name != "*"]
    return not (
        len(hosts) == 1
        and _is_listed(hosts[0], names)
        and origin.lower() in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}")
    )


class Keys:
    """Refuses requests without a key to /v1, /metrics and /admin.

    Clients send one of `server.api_keys`, or a key of the store, in `Authorization: Bearer KEY` or
    in `x-api-key`. If there are neither, every request to /v1 and /metrics passes. /admin needs
    `server.admin_key`, or a key of the store for administrators; /metrics takes these, or one of
    `server.api_keys`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            services, path = scope["state"]["services"], scope["state"]["path"]
            token = token_of(Headers(scope=scope))
            key = services.records.find(token)
            scope["state"]["key"] = key
            server, records = services.config.server, services.records
            own = [] if server.admin_key is None else [server.admin_key]
            admin = key if key is not None and key.admin else None
            if path.startswith("/v1"):
                if server.api_keys or records.needs_key:
                    _check(key, _is_one_of(token, server.api_keys), CLIENTS)
            elif path.startswith("/metrics"):  # which tell what every account has spent
                if server.api_keys or records.needs_key:
                    _check(admin, _is_one_of(token, [*server.api_keys, *own]), READERS)
            elif path.startswith("/admin"):
                if not own and admin is None and not records.has_admin:
                    raise Refusal(403, NO_ADMIN, "no_admin_key")
                _check(admin, _is_one_of(token, own), ADMINS)
        await self.app(scope, receive, send)


CLIENTS = "one of server.api_keys, or one that `routewright keys create` made"
READERS = "one of server.api_keys, server.admin_key, or a key made with --admin"
ADMINS = "server.admin_key, or one that `routewright keys create --admin` made"
NO_ADMIN = (
    "this gateway has no admin key: set `server.admin_key` in the config, or run `routewright keys"
    " create NAME --admin`"
)


def _check(key: Key | None, is_configured: bool, which: str) -> None:
    """Raises Refusal (401) unless the client sent a key that is valid now."""
    if is_configured or (key is not None and key.is_valid(time.time())):
        return
    message = f"no valid key: send `Authorization: Bearer KEY` with {which}"
    if key is not None:
        end = "was revoked" if key.revoked_at is not None else "has expired"
        message = f"the key '{key.name}' {end}: use another one"
    headers = {"www-authenticate": "Bearer"}
    raise Refusal(401, message, "invalid_api_key", "authentication_error", headers)


def token_of(headers: Headers) -> str:
    """The key that a client sends, as OpenAI's or as Anthropic's clients do."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return headers.get("x-api-key", "").strip()


def _is_one_of(token: str, keys: Sequence[SecretStr]) -> bool:
    # Every key is compared, each in constant time, so that the time reveals nothing.
    secrets = [key.get_secret_value().encode() for key in keys]
    matches = [hmac.compare_digest(token.encode(), secret) for secret in secrets]
    return any(matches)


class BodyTimeout:
    """Refuses requests whose body does not arrive in time (408).

    A body may take `BODY_SECONDS`, and one second more for every `BODY_RATE` bytes of it. The time
    runs while the request is read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        waited, received, more = 0.0, 0, True

        async def receive_in_time() -> Message:
            nonlocal waited, received, more
            if not more:
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(BODY_SECONDS + received / BODY_RATE - waited):
                    message = await receive()
            except TimeoutError as error:
                raise BadRequest(
                    f"the request did not arrive in time: {received} bytes came",
                    status=408,
                    code="request_timeout",
                ) from error
            waited += time.monotonic() - began
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)


class Queue:
    """Lets `server.max_concurrency` requests ask experts at once, and `server.queue` wait.

    Refuses the others (429).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _asks(scope):
            return await self.app(scope, receive, send)
        slots = scope["state"]["services"].slots
        if slots.full():
            message = (
                f"{slots.running} requests are being answered and {slots.queue} wait: send this"
                " one again later, or raise `server.max_concurrency` and `server.queue`"
            )
            raise Refusal(429, message, "queue_full", "rate_limit_error", {"retry-after": "1"})
        async with slots:
            await self.app(scope, receive, send)


def _asks(scope: Scope) -> bool:
    """Whether a request may ask experts."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["state"]["path"]
    return path.startswith("/v1/") and path not in FREE


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
        if stopped:
            request_id = scope["state"]["request_id"]
            log.warning(
                json.dumps({"event": "stopped", "request_id": request_id, "trace_id": trace_id()})
            )
        if work.cancelled() and stopped and content_type is None:
            await error_response(scope, STOPPED, 503, {"retry-after": "1"})(scope, receive, send)
        elif stopped and content_type is not None and content_type.startswith("text/event-stream"):
            await send(
                {"type": "http.response.body", "body": error_event(protocol_of(scope), STOPPED)}
            )
