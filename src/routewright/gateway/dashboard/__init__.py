"""`/`: the dashboard, for people. It is imported when somebody looks at it, not before."""

from __future__ import annotations

import asyncio
from functools import cache

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/dashboard/"


def is_page(path: str) -> bool:
    """Whether an address of the gateway belongs to the dashboard."""
    return path == "/" or path.startswith(PREFIX)


def routes() -> list[Route]:
    """The addresses of the dashboard; `server.dashboard: false` makes them 404."""
    site = Dashboard()
    return [Route(path, site, include_in_schema=False) for path in ("/", PREFIX + "{page:path}")]


class Dashboard:
    """The pages as one application, built when the first of them is asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["state"]["services"].config.server.dashboard:
            raise HTTPException(404)
        site = await asyncio.to_thread(self._site)
        await site(scope, receive, send)

    @cache  # noqa: B019 - there is one per gateway
    def _site(self) -> ASGIApp:
        from routewright.gateway.dashboard.site import build

        return build()
