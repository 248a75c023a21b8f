"""The playground: a conversation with a policy, or with two side by side."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from routewright.errors import RoutewrightError
from routewright.gateway.chat import chat
from routewright.gateway.dashboard.signins import Viewer
from routewright.gateway.dashboard.site import page
from routewright.gateway.errors import BadRequest, routewright_error
from routewright.gateway.permissions import visible
from routewright.gateway.services import Services
from routewright.types import DATA_CLASSES


async def playground(request: Request) -> Response:
    """Shows the form of the conversation; its script asks `Ask`."""
    services: Services = request.state.services
    viewer: Viewer = request.state.viewer
    key = viewer.key
    classes = [n for n in DATA_CLASSES if key is None or n in (key.data_classes or DATA_CLASSES)]
    return await page(
        request,
        "playground.html",
        models=visible(services.policies, key),
        data_classes=classes,
        default_class=services.config.server.default_data_class,
        chosen=request.query_params,
        keeps=services.config.server.records.prompts,
    )


class Ask:
    """Answers a chat completion request of the playground with the viewer's key, as if it had come
    from a client: limits, budgets, records and the queue are the same."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        viewer: Viewer = request.state.viewer
        request.state.key = viewer.key
        slots = request.state.services.slots
        try:
            if slots.full():
                message = "too many requests wait already: send this one again later"
                raise BadRequest(message, status=429, code="queue_full")
            async with slots:
                response: Response = await chat(request)
                await response(scope, receive, send)
        except RoutewrightError as error:
            await (await routewright_error(request, error))(scope, receive, send)
