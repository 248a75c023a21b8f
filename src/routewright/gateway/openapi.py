"""`GET /openapi.json`: describes the addresses of the gateway, and what they take and return.

The document is made of the routes of the application, the first sentences of their endpoints, and
the Pydantic models in `shapes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute
from starlette.schemas import BaseSchemaGenerator

from routewright import __version__
from routewright.gateway.admin import (
    BudgetBody,
    GoalBody,
    KeyBody,
    LimitsBody,
    Period,
    RotationBody,
    Sums,
)
from routewright.gateway.body import Open
from routewright.gateway.feedback import Score
from routewright.gateway.messages_body import CountBody, MessagesBody
from routewright.gateway.responses import Page
from routewright.gateway.shapes import (
    AnthropicError,
    AnthropicMessage,
    BudgetRows,
    BudgetSet,
    ChatBody,
    Chunk,
    Completion,
    DecisionRows,
    Embeddings,
    EmbeddingsBody,
    ErrorBody,
    GoalSet,
    Health,
    InputItems,
    KeyMade,
    KeyRevoked,
    KeyRow,
    KeyRows,
    MessageEvent,
    ModelInEitherShape,
    ModelsInEitherShape,
    PolicyRows,
    Readiness,
    Receipt,
    Reloaded,
    ResponseDeleted,
    ResponseEvent,
    ResponseObject,
    ResponsesBody,
    RouteExplanation,
    SpendRows,
    TokenCount,
)

JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"
PARAMETER = re.compile(r"{(\w+)}")
GUARDED = ("/v1", "/metrics", "/admin")  # these need a key, if there is any
STATUSES = {
    200: "The answer.",
    400: "The request cannot be used; `param` names the field.",
    401: "The request has no key that is valid, and the gateway needs one.",
    403: "A web page of another site sent it, the key does not allow it, or there is no admin key.",
    404: "There is no such model, policy, decision or response.",
    408: "The body did not arrive in time.",
    409: "The decision has a score already, the name is taken, or the key was revoked.",
    413: "The request is larger than `server.max_body_bytes`.",
    415: "A web page must send `application/json`.",
    421: "The `Host` is not a name of the gateway.",
    422: "The limits exclude every expert; `error.rejected` gives the reason for each.",
    429: "A limit of the key or of the upstream, or the queue is full; with a `Retry-After`.",
    431: "The address and the headers are larger than 64 KiB.",
    502: "The upstream failed, or refused the key of the gateway.",
    503: "The gateway or the upstream cannot answer now.",
    504: "The time limit of the upstream or of the request is over.",
}
ALWAYS = (403, 421, 431)  # statuses of every address
READING = (400, 408, 413, 415)  # statuses of every address that reads a body


# --- operations ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """What one method of one address takes and returns.

    `response` is the model of a 200, or None where it is a text. `errors` are the other statuses;
    their body is an `ErrorBody`, or the `failure` of this operation. `event` is the model of the
    events of a stream. `query` has the parameters after the `?`.
    """

    response: type[BaseModel] | None
    request: type[BaseModel] | None = None
    errors: Sequence[int] = ()
    failure: type[BaseModel] = ErrorBody
    event: type[BaseModel] | None = None
    headers: Sequence[str] = ()
    query: type[BaseModel] | None = None


DECISION = ("decision-id", "policy", "expert", "overhead-ms")
OPERATIONS = {
    ("post", "/v1/chat/completions"): Operation(
        Completion,
        ChatBody,
        (*READING, 401, 404, 422, 429, 502, 503, 504),
        event=Chunk,
        headers=[f"x-routewright-{name}" for name in DECISION],
    ),
    ("post", "/v1/embeddings"): Operation(
        Embeddings,
        EmbeddingsBody,
        (*READING, 401, 404, 422, 429, 502, 503, 504),
        headers=[f"x-routewright-{name}" for name in DECISION],
    ),
    ("post", "/v1/messages"): Operation(
        AnthropicMessage,
        MessagesBody,
        (*READING, 401, 404, 422, 429, 502, 503, 504),
        failure=AnthropicError,
        event=MessageEvent,
        headers=[f"x-routewright-{name}" for name in DECISION],
    ),
    ("post", "/v1/messages/count_tokens"): Operation(
        TokenCount, CountBody, (*READING, 401, 404, 429, 503), failure=AnthropicError
    ),
    ("post", "/v1/responses"): Operation(
        ResponseObject,
        ResponsesBody,
        (*READING, 401, 404, 422, 429, 502, 503, 504),
        event=ResponseEvent,
        headers=[f"x-routewright-{name}" for name in DECISION],
    ),
    ("get", "/v1/responses/{response_id}"): Operation(ResponseObject, errors=(400, 401, 404, 503)),
    ("delete", "/v1/responses/{response_id}"): Operation(ResponseDeleted, errors=(401, 404, 503)),
    ("get", "/v1/responses/{response_id}/input_items"): Operation(
        InputItems, errors=(400, 401, 404, 503), query=Page
    ),
    ("post", "/v1/route"): Operation(
        RouteExplanation, ChatBody, (*READING, 401, 404, 422, 429, 503)
    ),
    ("post", "/v1/feedback"): Operation(Receipt, Score, (*READING, 401, 404, 409, 503)),
    ("post", "/admin/reload"): Operation(Reloaded, errors=(400, 401)),
    ("get", "/admin/policies"): Operation(PolicyRows, errors=(401,)),
    ("put", "/admin/policies/{name}"): Operation(GoalSet, GoalBody, (*READING, 401, 404, 409)),
    ("get", "/admin/keys"): Operation(KeyRows, errors=(401, 404, 503)),
    ("post", "/admin/keys"): Operation(KeyMade, KeyBody, (*READING, 401, 404, 409, 422, 503)),
    ("patch", "/admin/keys/{name}"): Operation(
        KeyRow, LimitsBody, (*READING, 401, 404, 409, 422, 503)
    ),
    ("delete", "/admin/keys/{name}"): Operation(KeyRevoked, errors=(400, 401, 404, 503)),
    ("post", "/admin/keys/{name}/rotate"): Operation(
        KeyMade, RotationBody, (*READING, 401, 404, 409, 503)
    ),
    ("get", "/admin/decisions"): Operation(DecisionRows, errors=(400, 401, 404, 503), query=Period),
    ("get", "/admin/spend"): Operation(SpendRows, errors=(400, 401, 404, 503), query=Sums),
    ("get", "/admin/budgets"): Operation(BudgetRows, errors=(401,)),
    ("put", "/admin/budgets/{kind}/{name}"): Operation(
        BudgetSet, BudgetBody, (*READING, 401, 404, 503)
    ),
    ("get", "/v1/models"): Operation(ModelsInEitherShape, errors=(401,)),
    ("get", "/v1/models/{name}"): Operation(ModelInEitherShape, errors=(401, 404)),
    ("get", "/health"): Operation(Health),
    ("get", "/ready"): Operation(Readiness, errors=(503,), failure=Readiness),
    ("get", "/metrics"): Operation(None, errors=(401,)),
    ("get", "/openapi.json"): Operation(Open),
}


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of those of these routes that `OPERATIONS` describes."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in BaseSchemaGenerator().get_endpoints(list(routes)):
        key = endpoint.http_method, endpoint.path
        if key not in OPERATIONS:  # a route of an application around the gateway
            continue
        summary = " ".join((endpoint.func.__doc__ or "").split("\n\n")[0].split())
        entry = {"summary": summary, "operationId": endpoint.func.__name__}
        paths.setdefault(endpoint.path, {})[key[0]] = entry | _entry(endpoint.path, OPERATIONS[key])
    return {
        "openapi": "3.2.0",
        "info": {"title": "Routewright", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _schemas()["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _entry(path: str, operation: Operation) -> dict[str, Any]:
    """One operation as OpenAPI writes it."""
    entry: dict[str, Any] = {"responses": _responses(operation)}
    if names := PARAMETER.findall(path):
        entry["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.query is not None:
        fields = operation.query.model_json_schema()["properties"]
        entry.setdefault("parameters", []).extend(
            {"name": name, "in": "query", "schema": schema} for name, schema in fields.items()
        )
    if operation.request is not None:
        content = {JSON: {"schema": _reference(operation.request)}}
        entry["requestBody"] = {"required": True, "content": content}
    if path.startswith(GUARDED):
        entry["security"] = [{}, {"key": []}]  # without `server.api_keys` no key is needed
    return entry


def _responses(operation: Operation) -> dict[str, Any]:
    text: dict[str, Any] = {"schema": {"type": "string"}}
    content = {TEXT: text}
    if operation.response is not None:
        content = {JSON: {"schema": _reference(operation.response)}}
    if operation.event is not None:
        content[EVENTS] = {"itemSchema": _event(operation.event, operation.failure)}
    responses = {"200": _response(200, content, ("x-request-id", *operation.headers))}
    failure = {JSON: {"schema": _reference(operation.failure)}}
    errors = {JSON: {"schema": _reference(ErrorBody)}}
    for status in sorted({*operation.errors, *ALWAYS}):
        content = errors if status in ALWAYS and operation.failure is Readiness else failure
        responses[str(status)] = _response(status, content, ("x-request-id",))
    return responses


def _event(model: type[BaseModel], failure: type[BaseModel]) -> dict[str, Any]:
    """A server-sent event: one object as JSON, or the end of the stream."""
    bodies = {"anyOf": [_reference(model), _reference(failure)]}
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": bodies}
    properties = {"data": {"anyOf": [{"const": "[DONE]"}, data]}}
    return {"type": "object", "properties": properties, "required": ["data"]}


def _response(status: int, content: dict[str, Any], headers: Sequence[str]) -> dict[str, Any]:
    text = {"required": True, "schema": {"type": "string"}}
    described = {"description": STATUSES[status], "content": content}
    return {**described, "headers": dict.fromkeys(headers, text)}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


@cache
def _schemas() -> dict[str, Any]:
    """The JSON Schemas of all models, as `$defs`."""
    used = [(o.request, o.response, o.failure, o.event) for o in OPERATIONS.values()]
    models = dict.fromkeys(model for four in used for model in four if model is not None)
    template = "#/components/schemas/{model}"
    return models_json_schema([(m, "validation") for m in models], ref_template=template)[1]
