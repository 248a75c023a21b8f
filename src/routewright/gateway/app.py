"""The gateway as an ASGI application: its routes and its middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from threadpoolctl import threadpool_limits

from routewright import __version__
from routewright.config import Config
from routewright.errors import RoutewrightError
from routewright.gateway import admin, dashboard
from routewright.gateway.chat import chat
from routewright.gateway.embeddings import embeddings
from routewright.gateway.errors import (
    client_disconnected,
    http_error,
    internal_error,
    machine_error,
    routewright_error,
)
from routewright.gateway.explain import explain
from routewright.gateway.feedback import feedback as score
from routewright.gateway.lifecycle import Lifecycle
from routewright.gateway.messages import count_tokens, messages
from routewright.gateway.middleware import (
    Addresses,
    BodyTimeout,
    CancelOnDisconnect,
    HeaderLimit,
    InUse,
    Keys,
    Queue,
    RequestId,
    WebPages,
)
from routewright.gateway.models import model, models
from routewright.gateway.permissions import check_policy, permitted
from routewright.gateway.responses import StoredResponse, list_input_items, responses
from routewright.gateway.services import Services
from routewright.gateway.team import Team
from routewright.gateway.tracing import Traces


def build(
    config: Config,
    load: Callable[[], Config] | None = None,
    loopback: bool | None = None,
    team: Team | None = None,
) -> Starlette:
    """Builds the gateway for a config; raises BadInput if the config cannot be served.

    `load` reads the config again for a reload. `loopback` says whether only this machine reaches
    the gateway; None: each connection tells. `team` has its other worker processes.
    `state.lifecycle` of the application reloads and closes its services.
    """
    lifecycle = Lifecycle(config, load, team)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The matrix products of a single query are small: BLAS threads would spend more time on
        # waiting for each other than they save.
        with threadpool_limits(1, user_api="blas"):
            try:
                await lifecycle.start()
                yield
            finally:
                await lifecycle.close()

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/responses/{response_id}", StoredResponse),
            Route("/v1/responses/{response_id}/input_items", list_input_items),
            Route("/v1/route", route, methods=["POST"]),
            Route("/v1/feedback", score, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/admin/reload", reload, methods=["POST"]),
            Route("/admin/policies", admin.list_policies),
            Route("/admin/policies/{name}", admin.set_goal, methods=["PUT"]),
            Route("/admin/keys", admin.Keys),
            Route("/admin/keys/{name}", admin.OneKey),
            Route("/admin/keys/{name}/rotate", admin.rotate_key, methods=["POST"]),
            Route("/admin/decisions", admin.list_decisions),
            Route("/admin/spend", admin.show_spend),
            Route("/admin/budgets", admin.list_budgets),
            Route("/admin/budgets/{kind}/{name}", admin.set_budget, methods=["PUT"]),
            Route("/openapi.json", openapi),
            *dashboard.routes(),
        ],
        middleware=[
            Middleware(Addresses),
            Middleware(RequestId),
            Middleware(Traces, tracing=lifecycle.tracing),
            Middleware(InUse, lifecycle=lifecycle),
            Middleware(HeaderLimit),
            Middleware(WebPages, loopback=loopback),
            Middleware(Keys),
            Middleware(CancelOnDisconnect),
            Middleware(BodyTimeout),
            Middleware(Queue),
        ],
        exception_handlers={
            RoutewrightError: routewright_error,
            ClientDisconnect: client_disconnected,
            HTTPException: http_error,
            MemoryError: machine_error,
            OSError: machine_error,
            Exception: internal_error,
        },
        lifespan=lifespan,
    )
    app.state.lifecycle = lifecycle
    return app


async def route(request: Request) -> Response:
    """Explains a decision without asking any expert."""
    services: Services = request.state.services
    chat_request = permitted(await services.read(request), request.state.key)
    policy = services.policies.find(chat_request.model)
    check_policy(policy, request.state.key)
    return JSONResponse(await services.run(explain, policy, chat_request.query, services.experts))


async def health(request: Request) -> Response:
    """Reports that the gateway runs, the last known states of the servers that it runs, and the
    experts that it skips after repeated failures."""
    services: Services = request.state.services
    servers = {name: supervisor.state for name, supervisor in services.client.servers.items()}
    details = {"servers": servers, "left_alone": services.breaker.skipped()}
    nonempty = {name: detail for name, detail in details.items() if detail}
    return JSONResponse({"status": "ok", "version": __version__, **nonempty})


async def ready(request: Request) -> Response:
    """Answers 200 as soon as requests can be answered, and 503 until then.

    Routers are loaded before the port is open. So only the servers with `start: serve` are waited
    for, and not those that have been stopped since because they were idle. A gateway that is being
    stopped still answers requests, but should get no more of them.
    """
    services: Services = request.state.services
    if request.app.state.lifecycle.stopping:
        return JSONResponse({"status": "stopping"}, 503, {"retry-after": "1"})
    pending = [
        name
        for name, supervisor in services.client.servers.items()
        if supervisor.launch.start == "serve" and supervisor.state not in ("running", "stopped")
    ]
    if pending:
        body = {"status": "starting", "waiting_for": pending}
        return JSONResponse(body, 503, {"retry-after": "1"})
    return JSONResponse({"status": "ready"})


async def openapi(request: Request) -> Response:
    """Describes every address in the terms of OpenAPI 3.2."""
    from routewright.gateway.openapi import document  # no other request needs its models

    return JSONResponse(await run_in_threadpool(document, request.app.routes))


async def metrics(request: Request) -> Response:
    """Writes the metrics for Prometheus, without any text of queries or answers."""
    services: Services = request.state.services
    figures = services.counters.figures()
    others = await request.app.state.lifecycle.team.gather("metrics", figures)
    text = services.counters.text(others)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def reload(request: Request) -> Response:
    """Reads the config and its routers again; 400 with the reason if that is not possible."""
    changed = await request.app.state.lifecycle.reload_all()
    return JSONResponse({"status": "reloaded", "needs_restart": changed})
