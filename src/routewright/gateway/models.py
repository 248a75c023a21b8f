"""`GET /v1/models` and `/v1/models/NAME`: the names that requests may have as `model`.

A client that sends `anthropic-version` gets Anthropic's shape, any other client OpenAI's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright.gateway.permissions import check_policy, visible
from routewright.gateway.policies import Policy
from routewright.gateway.services import Services
from routewright.records.keys import Key
from routewright.types import Expert

BEGINNING = "1970-01-01T00:00:00Z"  # Anthropic's word for an unknown date


async def models(request: Request) -> Response:
    """Lists the policies, which most clients should request, and then the experts.

    With a key of the store these are the ones that it allows.

    An expert that has deferred also has `asked`, the queries that it was asked since the gateway
    started, and `ownership`, the share of them that it answered itself.
    """
    services: Services = request.state.services
    names = visible(services.policies, request.state.key)
    if _speaks_anthropic(request):
        data = [_anthropic_card(name, _window(request, name)) for name in names]
        ends = {"first_id": names[0], "last_id": names[-1]} if names else {}
        page = {"data": data, "has_more": False, "first_id": None, "last_id": None}
        return JSONResponse(page | ends)
    ownership = services.counters.ownership()
    data = [_card(name, _window(request, name)) | ownership.get(name, {}) for name in names]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """Describes one model name; 404 if it does not exist."""
    services: Services = request.state.services
    name = request.path_params["name"]
    check_policy(services.policies.find(name), request.state.key)
    card = _anthropic_card if _speaks_anthropic(request) else _card
    return JSONResponse(card(name, _window(request, name)))


def _speaks_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _window(request: Request, name: str) -> int | None:
    services: Services = request.state.services
    key: Key | None = request.state.key
    allowed = None if key is None else key.experts
    return context_window(services.policies.find(name), services.experts, allowed)


def context_window(
    policy: Policy, experts: Mapping[str, Expert], allowed: Collection[str] | None = None
) -> int | None:
    """The tokens that every expert of a policy can read, or None if one of them is unknown.

    A prompt of that length leaves the policy its whole choice. With `allowed`, the policy may ask
    those experts only.
    """
    names = [name for name in policy.experts if allowed is None or name in allowed]
    windows = [experts[name].context_window if name in experts else None for name in names]
    sizes = [window for window in windows if window is not None]
    return min(sizes) if sizes and len(sizes) == len(windows) else None


def _card(name: str, window: int | None) -> dict[str, Any]:
    """A name in OpenAI's shape; `context_length` is what most coding agents read."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "routewright",
        "context_window": window,
        "context_length": window,
    }


def _anthropic_card(name: str, window: int | None) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": BEGINNING,
        "lifecycle": "active",
        "max_input_tokens": window,
    }
