"""The gateway as an ASGI application: its routes and its middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from threadpoolctl import threadpool_limits

from routewright import __version__
from routewright.config import Config
from routewright.errors import RoutewrightError
from routewright.experts.client import Client
from routewright.gateway.breaker import Breaker
from routewright.gateway.chat import Services, chat
from routewright.gateway.errors import (
    client_disconnected,
    http_error,
    internal_error,
    routewright_error,
)
from routewright.gateway.explain import explain
from routewright.gateway.feedback import Feedback
from routewright.gateway.feedback import feedback as score
from routewright.gateway.middleware import BearerKeys, CancelOnDisconnect, RequestId
from routewright.gateway.policies import Policies


def build(config: Config) -> Starlette:
    """Builds the gateway for a config; raises BadInput if the config cannot be served."""
    policies = Policies(config)
    experts = config.experts_by_name()
    feedback = None
    if (path := config.server.feedback) is not None:
        feedback = Feedback(config.folder / path, answers=config.server.feedback_answers)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The matrix products of a single query are small: BLAS threads would spend more time on
        # waiting for each other than they save.
        with threadpool_limits(1, user_api="blas"):
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client(experts.values()))
                if feedback is not None:
                    stack.enter_context(feedback.journal)
                for supervisor in client.servers.values():
                    if supervisor.launch.start == "serve":
                        supervisor.begin()
                breaker = Breaker(client, client.is_down)
                app.state.services = Services(config, policies, experts, client, breaker, feedback)
                yield

    keys = [key.get_secret_value() for key in config.server.api_keys]
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/route", route, methods=["POST"]),
            Route("/v1/feedback", score, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
        ],
        middleware=[
            Middleware(RequestId),
            Middleware(BearerKeys, keys=keys),
            Middleware(CancelOnDisconnect),
        ],
        exception_handlers={
            RoutewrightError: routewright_error,
            ClientDisconnect: client_disconnected,
            HTTPException: http_error,
            Exception: internal_error,
        },
        lifespan=lifespan,
    )


async def models(request: Request) -> Response:
    """Lists the policies, which most clients should request, and then the experts.

    An expert that has deferred also has `asked`, the queries that it was asked since the gateway
    started, and `ownership`, the share of them that it answered itself.
    """
    services: Services = request.app.state.services
    ownership = services.counters.ownership()
    data = [{**_model(name), **ownership.get(name, {})} for name in services.policies.names()]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """Describes one model name; 404 if it does not exist."""
    services: Services = request.app.state.services
    name = request.path_params["name"]
    services.policies.find(name)
    return JSONResponse(_model(name))


async def route(request: Request) -> Response:
    """Explains a decision without asking any expert."""
    services: Services = request.app.state.services
    chat_request = await services.read(request)
    policy = services.policies.find(chat_request.model)
    return JSONResponse(explain(policy, chat_request.query, services.experts))


async def health(request: Request) -> Response:
    """Reports that the gateway runs, the last known states of the servers that it runs, and the
    experts that it skips after repeated failures."""
    services: Services = request.app.state.services
    servers = {name: supervisor.state for name, supervisor in services.client.servers.items()}
    details = {"servers": servers, "left_alone": services.breaker.skipped()}
    nonempty = {name: detail for name, detail in details.items() if detail}
    return JSONResponse({"status": "ok", "version": __version__, **nonempty})


async def ready(request: Request) -> Response:
    """Answers 200 as soon as requests can be answered, and 503 until then.

    Routers are loaded before the port is open. So only the servers with `start: serve` are waited
    for, and not those that have been stopped since because they were idle.
    """
    services: Services = request.app.state.services
    pending = [
        name
        for name, supervisor in services.client.servers.items()
        if supervisor.launch.start == "serve" and supervisor.state not in ("running", "stopped")
    ]
    if pending:
        body = {"status": "starting", "waiting_for": pending}
        return JSONResponse(body, 503, {"retry-after": "1"})
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Writes the metrics for Prometheus, without any text of queries or answers."""
    services: Services = request.app.state.services
    return Response(services.counters.text(), media_type=CONTENT_TYPE_LATEST)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "routewright"}
