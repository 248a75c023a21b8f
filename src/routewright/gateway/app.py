"""The gateway as an ASGI app: its addresses and what stands before them."""

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
    """The gateway for a config; raises BadInput before anything is served."""
    policies = Policies(config)
    experts = config.experts_by_name()
    feedback = None
    if (kept := config.server.feedback) is not None:
        feedback = Feedback(config.folder / kept, answers=config.server.feedback_answers)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # One query at a time makes small products: threads would wait for each other longer
        # than they work.
        with threadpool_limits(1, user_api="blas"):
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client(experts.values()))
                if feedback is not None:
                    stack.enter_context(feedback.journal)
                for supervisor in client.servers.values():
                    if supervisor.launch.start == "serve":
                        supervisor.begin()
                breaker = Breaker(client, client.away)
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
    """Policies first: they are what most clients should pick. An expert that has deferred shows
    how much of what it was asked it answers itself, since the gateway started."""
    services: Services = request.app.state.services
    ownership = services.counters.ownership()
    data = [{**_model(name), **ownership.get(name, {})} for name in services.policies.names()]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    services: Services = request.app.state.services
    name = request.path_params["name"]
    services.policies.find(name)
    return JSONResponse(_model(name))


async def route(request: Request) -> Response:
    """Explains a decision without making it."""
    services: Services = request.app.state.services
    chat_request = await services.understand(request)
    policy = services.policies.find(chat_request.model)
    return JSONResponse(explain(policy, chat_request.query, services.experts))


async def health(request: Request) -> Response:
    """Of the gateway itself; the servers that it runs are shown as it last saw them, and so are
    experts that it leaves alone because they keep failing."""
    services: Services = request.app.state.services
    servers = {name: supervisor.state for name, supervisor in services.client.servers.items()}
    facts = {"servers": servers, "left_alone": services.breaker.resting()}
    shown = {name: fact for name, fact in facts.items() if fact}
    return JSONResponse({"status": "ok", "version": __version__, **shown})


async def ready(request: Request) -> Response:
    """200 once requests can be answered: routers are loaded before anything is served, so that
    only servers that start with the gateway are waited for, and not those that idle by now."""
    services: Services = request.app.state.services
    waited_for = [
        name
        for name, supervisor in services.client.servers.items()
        if supervisor.launch.start == "serve" and supervisor.state not in ("running", "stopped")
    ]
    if waited_for:
        shown = {"status": "starting", "waiting_for": waited_for}
        return JSONResponse(shown, 503, {"retry-after": "1"})
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Numbers for Prometheus; no text of queries or answers."""
    services: Services = request.app.state.services
    return Response(services.counters.text(), media_type=CONTENT_TYPE_LATEST)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "routewright"}
