"""Who looks at the dashboard: sessions of people who signed in with a key, and their cookie.

A session is random and known to its browser alone; the store (or the memory of this process) knows
its hash. It ends after `SECONDS`, when its person signs out, and when its key is revoked, expires,
gets another secret, or leaves the config.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from routewright.config.rules import is_loopback
from routewright.gateway.services import Services
from routewright.records import signins
from routewright.records.keys import Key
from routewright.records.overview import Owners

SECONDS = 12 * 3600.0
COOKIE = "routewright-session"
MOST = 1000  # sessions in the memory of a gateway without a store
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True)
class Viewer:
    """Who looks at the dashboard and what they may see; `owners` is as in `records.overview`."""

    name: str
    admin: bool
    owners: Owners
    token: str  # of the forms on this person's pages
    key: Key | None = None  # whose limits hold for what they ask
    is_signed_in: bool = True

    def may_see(self, key: str | None) -> bool:
        return self.owners is None or key in self.owners


class SignIns:
    """The sessions of one gateway, which it shares with the others on its store."""

    def __init__(self) -> None:
        self._memory: dict[str, dict[str, Any]] = {}
        self._token = secrets.token_urlsafe(32)  # of forms that need no session

    async def viewer(self, request: Request) -> Viewer | None:
        """Who sends a request; None for a stranger, who must sign in."""
        services: Services = request.state.services
        session = request.cookies.get(COOKIE, "")
        value = await self._read(services, session) if session else None
        if value is not None and (viewer := _viewer(services, session, value)) is not None:
            return viewer
        if is_open(services) and is_local(request.scope):
            return Viewer("this machine", False, None, self._token, is_signed_in=False)
        return None

    async def sign_in(self, request: Request, token: str) -> str | None:
        """A new session for who has this key; None if no such key is valid."""
        services: Services = request.state.services
        session = secrets.token_urlsafe(32)
        value = _value(services, session, token)
        if value is None:
            return None
        await self._write(services, session, value)
        return session

    async def sign_out(self, request: Request) -> None:
        services: Services = request.state.services
        session = request.cookies.get(COOKIE, "")
        self._memory.pop(signins.name_of(session), None)
        if (store := services.records.store) is not None and services.records.state.is_up:

            def forget() -> None:
                with store.begin() as connection:
                    signins.forget(connection, session)

            await asyncio.to_thread(forget)

    async def _read(self, services: Services, session: str) -> dict[str, Any] | None:
        store = services.records.store
        if store is None or not services.records.state.is_up:
            return self._memory.get(signins.name_of(session))

        def read() -> dict[str, Any] | None:
            with store.read() as connection:
                return signins.read(connection, session)

        try:
            return await asyncio.to_thread(read)
        except SQLAlchemyError:
            return self._memory.get(signins.name_of(session))

    async def _write(self, services: Services, session: str, value: dict[str, Any]) -> None:
        now = time.time()
        living = [(name, old) for name, old in self._memory.items() if old["ends"] > now]
        self._memory = dict(living[-MOST:]) | {signins.name_of(session): value}
        if (store := services.records.store) is not None and services.records.state.is_up:

            def write() -> None:
                with store.begin() as connection:
                    signins.write(connection, session, value, now - SECONDS)

            await asyncio.to_thread(write)


def _value(services: Services, session: str, token: str) -> dict[str, Any] | None:
    """What is stored of a session: whose it is, its end, and a proof of the key's secret."""
    server, ends = services.config.server, time.time() + SECONDS
    # Every key is compared, each in constant time, so that the time reveals nothing.
    admin = _which(token, [] if server.admin_key is None else [server.admin_key])
    client = _which(token, server.api_keys)
    key = services.records.find(token)
    if admin is not None:
        return {"kind": "admin", "proof": _proof(session, token), "ends": ends}
    if key is not None and key.is_valid(time.time()):
        proof = _proof(session, key.hash)
        return {"kind": "key", "key": key.id, "proof": proof, "ends": ends}
    if client is not None:
        return {"kind": "client", "proof": _proof(session, token), "ends": ends}
    return None


def _viewer(services: Services, session: str, value: dict[str, Any]) -> Viewer | None:
    """Who a session belongs to; None if it has ended."""
    now, server = time.time(), services.config.server
    if value["ends"] <= now:
        return None
    token = form_token(session)
    if value["kind"] == "key":
        key = services.records.keys.get(value["key"])
        if key is None or not key.is_valid(now) or not _proves(value, session, [key.hash]):
            return None
        owners = None if key.admin else (key.name,)
        return Viewer(f"key {key.name}", key.admin, owners, token, key)
    is_admin = value["kind"] == "admin"
    keys = [server.admin_key] if is_admin and server.admin_key else server.api_keys
    if is_admin and server.admin_key is None:
        return None
    if not _proves(value, session, [key.get_secret_value() for key in keys]):
        return None
    if is_admin:
        return Viewer("administrator", True, None, token)
    return Viewer("a key of the config", False, (None,), token)


def _which(token: str, keys: list[SecretStr]) -> str | None:
    secrets_of = [key.get_secret_value() for key in keys]
    matches = [hmac.compare_digest(token.encode(), secret.encode()) for secret in secrets_of]
    return token if any(matches) else None


def _proof(session: str, secret: str) -> str:
    """Ties a session to the secret of its key; without the session it tells nothing about it."""
    return hmac.new(session.encode(), secret.encode(), hashlib.sha256).hexdigest()


def _proves(value: dict[str, Any], session: str, keys: list[str]) -> bool:
    matches = [hmac.compare_digest(value["proof"], _proof(session, key)) for key in keys]
    return any(matches)


def form_token(session: str) -> str:
    """The token of the forms of a session, which no other page can know."""
    return hmac.new(session.encode(), b"routewright forms", hashlib.sha256).hexdigest()


def is_open(services: Services) -> bool:
    """Whether the gateway has no key of any kind, so that nobody could sign in."""
    server = services.config.server
    return not (server.api_keys or server.admin_key or services.records.needs_key)


def is_local(scope: Scope) -> bool:
    """Whether a request was made on this machine, as far as it can be told: from a loopback
    address to a loopback name, and through no proxy."""
    headers = Headers(scope=scope)
    ends = [(scope.get(end) or ("",))[0] for end in ("client", "server")]
    hosts = headers.getlist("host")
    return (
        all(is_loopback(end) for end in ends)
        and len(hosts) == 1
        and is_loopback(_name(hosts[0]))
        and not any(name in headers for name in FORWARDED)
    )


def _name(host: str) -> str:
    """The name or address in a `Host`, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def is_secure(scope: Scope) -> bool:
    """Whether the browser speaks TLS, to the gateway or to a proxy before it."""
    headers = Headers(scope=scope)
    return "https" in (scope.get("scheme"), headers.get("x-forwarded-proto", "").lower())


def set_cookie(request: Request, response: Response, session: str | None) -> None:
    """Gives the browser the cookie of a session, or takes it away."""
    response.set_cookie(
        COOKIE,
        session or "",
        max_age=int(SECONDS) if session else 0,
        path=f"{request.scope.get('root_path', '')}/",
        secure=is_secure(request.scope),
        httponly=True,
        samesite="strict",
    )
