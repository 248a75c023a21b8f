"""`POST /v1/messages`: Anthropic's Messages, whole or streamed, and the count of their tokens."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright.errors import UpstreamError
from routewright.experts.limits import secrecy
from routewright.experts.providers import input_tokens, tokens
from routewright.experts.spending import IMAGE_TOKENS
from routewright.gateway.completion import complete, placed
from routewright.gateway.messages_body import parse
from routewright.gateway.messages_reply import MessagesReply
from routewright.gateway.permissions import check_policy, permitted
from routewright.gateway.policies import Policy
from routewright.gateway.services import Services
from routewright.types import Query

ESTIMATED = "x-routewright-estimated"  # the header of a count that no endpoint has made


async def messages(request: Request) -> Response:
    """Answers a request of Anthropic's Messages by the policy that its `model` names."""
    return await complete(request, partial(parse, betas=_betas(request)), MessagesReply)


async def count_tokens(request: Request) -> Response:
    """Counts the input tokens of a request of Anthropic's Messages.

    The first expert of the policy that speaks the protocol and may read the text counts them, at no
    cost; without one they are estimated, and the header `x-routewright-estimated` says so. It is no
    decision: nothing is recorded and nothing is billed.
    """
    services: Services = request.state.services
    reader = partial(parse, betas=_betas(request), counted=True)
    chat_request = permitted(await services.read(request, reader), request.state.key)
    policy = services.policies.find(chat_request.model)
    check_policy(policy, request.state.key)
    _, chat_request = await placed(services, request, chat_request, request.state.key)
    count = await _counted(services, policy, chat_request.query)
    if count is not None:
        return JSONResponse({"input_tokens": count})
    return JSONResponse({"input_tokens": estimate(chat_request.query)}, headers={ESTIMATED: "true"})


def _betas(request: Request) -> list[str]:
    """The betas that a client names in the header `anthropic-beta`."""
    values = request.headers.getlist("anthropic-beta")
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


async def _counted(services: Services, policy: Policy, query: Query) -> int | None:
    """The count of an expert of the policy; None if there is none that can and may count."""
    client = services.client
    for name in policy.experts:
        expert = services.experts.get(name)
        may_read = expert and query.permits(name) and secrecy(expert, query) is None
        if may_read and client.speaks(name) == "messages":
            with suppress(UpstreamError):
                return await client.count_tokens(name, query)
            return None
    return None


def estimate(query: Query) -> int:
    """The input tokens of a query, at four characters each, with its tools and its images."""
    contents = [m["content"] for m in query.messages if isinstance(m.get("content"), list)]
    images: int = sum(part.get("type") == "image_url" for parts in contents for part in parts)
    calls = [call["function"] for m in query.messages for call in m.get("tool_calls") or ()]
    text = "".join(call["name"] + call["arguments"] for call in calls)
    body = {"messages": query.messages, **query.options}
    return input_tokens(body) + tokens(text) + IMAGE_TOKENS * images
