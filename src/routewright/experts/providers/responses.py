"""Calls endpoints that speak OpenAI Responses: api.openai.com, and servers that do the same.

A request of a client that speaks Responses too is sent as it was written, with its built-in tools
and reasoning items, and its reply comes back as it was written. Nothing is stored at the endpoint:
the gateway sends every item itself, so that the next turn may go to another expert.
"""

from __future__ import annotations

from typing import Any, ClassVar

from routewright.experts.providers import Call, _responses
from routewright.experts.providers._http import Http
from routewright.types import Answer


class Responses(Http):
    """Asks endpoints that speak OpenAI Responses."""

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = False
    protocol: ClassVar[str | None] = "responses"
    default_url = "https://api.openai.com/v1"

    def path(self, base: str) -> str:
        return "/responses"

    def request(self, call: Call, stream: bool) -> dict[str, Any]:
        body, _ = _responses.request(call)
        return {**body, "stream": True} if stream else body

    def answer(self, call: Call, reply: Any, seconds: float) -> Answer:
        return _responses.answer(call, reply, seconds)

    def transcript(self, call: Call) -> _responses.Transcript:
        return _responses.Transcript(call)
