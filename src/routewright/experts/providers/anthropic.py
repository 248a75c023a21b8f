"""Calls Anthropic's Messages, at api.anthropic.com or at any address that speaks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from routewright.errors import UpstreamError
from routewright.experts.providers import Call, _messages_reply
from routewright.experts.providers._http import Http
from routewright.experts.providers._messages_native import prepared
from routewright.experts.providers._messages_request import translated
from routewright.types import Answer

VERSION = "2023-06-01"
BETAS = "anthropic_beta"  # the field of a body that is sent as the header `anthropic-beta`


class Anthropic(Http):
    """Asks endpoints that speak Anthropic's Messages.

    A request that its client wrote in the protocol is sent as it is, and the reply is returned as
    it came. Any other one is translated. `anthropic_beta` in a request or in `options` is sent as
    the header of that name.
    """

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = False
    protocol: ClassVar[str | None] = "messages"
    default_url = "https://api.anthropic.com"

    def path(self, base: str) -> str:
        return "/messages" if base.endswith("/v1") else "/v1/messages"

    def headers(self, call: Call) -> dict[str, str]:
        names = {name.lower() for name in call.expert.headers}
        headers = {"anthropic-version": VERSION, "anthropic-beta": _betas(call)}
        if call.expert.api_key and "authorization" not in names:
            headers["x-api-key"] = call.expert.api_key
        return {name: value for name, value in headers.items() if value and name not in names}

    def request(self, call: Call, stream: bool) -> dict[str, Any]:
        body = {k: v for k, v in _request(call)[0].items() if k != BETAS}
        return {**body, "stream": True} if stream else body

    def answer(self, call: Call, reply: Any, seconds: float) -> Answer:
        return _messages_reply.answer(call, reply, seconds, _request(call)[1])

    def transcript(self, call: Call) -> _messages_reply.Transcript:
        return _messages_reply.Transcript(call, _request(call)[1])

    async def count_tokens(self, call: Call) -> int:
        """The input tokens of a request, as the endpoint counts them; raises UpstreamError."""
        fields = ("messages", "system", "tools", "tool_choice", "thinking", "output_config")
        request = _request(call)[0]
        body = {name: request[name] for name in fields if name in request}
        base = urlsplit(call.expert.base_url or self.default_url).path.rstrip("/")
        reply, _ = await self._reply(call, body, f"{self.path(base)}/count_tokens")
        count = reply.get("input_tokens") if isinstance(reply, Mapping) else None
        if type(count) is not int:
            raise UpstreamError(call.expert.name, "its reply is not a number of tokens", sent=True)
        return count


def _betas(call: Call) -> str:
    """The betas of a request, as the header has them."""
    betas = {**call.body, **(call.native or {})}.get(BETAS) or []
    names = [betas] if isinstance(betas, str) else [str(beta) for beta in betas]
    return ",".join(name for name in names if name.isascii() and name.isprintable())


def _request(call: Call) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body to send, and what of the request it cannot carry."""
    if call.native is None:
        return translated(call.body, call.expert.model or call.expert.name)
    return prepared(call, call.native)
