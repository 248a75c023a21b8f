"""`/v1/responses`: OpenAI Responses, whole or streamed, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright.experts.providers._responses import MAKER
from routewright.gateway.completion import complete
from routewright.gateway.errors import BadRequest
from routewright.gateway.responses.memory import memory_of
from routewright.gateway.responses.messages import kind_of
from routewright.gateway.responses.request import parse

PREFIXES = {  # of the ids of items that their client sent without one
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


class Page(BaseModel):
    """Which part of a response's input is listed."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


async def responses(request: Request) -> Response:
    """Answers a request in OpenAI's Responses protocol by the policy that its `model` names."""
    memory = memory_of(request)
    return await complete(request, parse, memory.reply, memory=memory)


async def retrieve_response(request: Request) -> Response:
    """Returns a stored response."""
    if request.query_params.get("stream", "").lower() == "true":
        message = "a stored response is not streamed: retrieve it without `stream`"
        raise BadRequest(message, "stream")
    turn = await memory_of(request).find(request.path_params["response_id"])
    return JSONResponse({**turn.response, "output": list(turn.output)})


async def delete_response(request: Request) -> Response:
    """Deletes a stored response with its texts."""
    name = request.path_params["response_id"]
    await memory_of(request).remove(name)
    return JSONResponse({"id": name, "object": "response", "deleted": True})


class StoredResponse(HTTPEndpoint):
    """A stored response: one address with two methods."""

    get = staticmethod(retrieve_response)
    delete = staticmethod(delete_response)


async def list_input_items(request: Request) -> Response:
    """Lists the items that a stored response answers, the newest first."""
    try:
        page = Page.model_validate(dict(request.query_params))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise BadRequest(f"{field}: {first['msg']}", field) from error
    name = request.path_params["response_id"]
    sent = await memory_of(request).input_items(name)
    items = [_listed(item, name, place) for place, item in enumerate(sent)]
    items = items if page.order == "asc" else items[::-1]
    ids = [item["id"] for item in items]
    start = ids.index(page.after) + 1 if page.after in ids else 0
    data = items[start : start + page.limit]
    ends = {name: data[place]["id"] if data else None for name, place in ENDS.items()}
    has_more = start + page.limit < len(items)
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": has_more})


ENDS = {"first_id": 0, "last_id": -1}


def _listed(item: Mapping[str, Any], response: str, place: int) -> dict[str, Any]:
    """An item as OpenAI lists it: with a type, an id, and its text in parts."""
    kind = kind_of(item)
    own = {key: value for key, value in item.items() if key != MAKER}
    prefix = PREFIXES.get(kind, "item")
    listed = {"id": f"{prefix}_{response.removeprefix('resp_')}_i{place}", "type": kind, **own}
    if kind == "message" and isinstance(text := item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        more: dict[str, Any] = {"annotations": [], "logprobs": []} if part == "output_text" else {}
        listed |= {"content": [{"type": part, "text": text, **more}]}
    return {"status": "completed", **listed}
