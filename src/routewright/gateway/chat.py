"""`POST /v1/chat/completions`: OpenAI chat completions, whole or streamed."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from routewright.gateway.completion import complete
from routewright.gateway.cursor import parse, reply


async def chat(request: Request) -> Response:
    """Answers a chat completion request by the policy that its `model` names."""
    return await complete(request, parse, reply)
