"""`GET /openapi.json`: describes the addresses of the gateway, and what they take and return.

The document is made of the routes of the application, the first sentences of their endpoints, and
the Pydantic models below. A model allows fields that it does not name where the gateway passes
them on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.schemas import BaseSchemaGenerator

from routewright import __version__
from routewright.gateway.admin import BudgetBody, KeyBody, Period, RotationBody, Sums
from routewright.gateway.body import MAX_MESSAGES, MAX_TOKENS, Limits, Metadata, Name, Open
from routewright.gateway.embeddings import MAX_TEXTS
from routewright.gateway.feedback import Score
from routewright.gateway.messages_body import CountBody, MessagesBody
from routewright.gateway.responses import Page
from routewright.gateway.responses.messages import CALLS, OUTPUTS, REFERENCE

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
ITEMS = ("message", *CALLS, *OUTPUTS, REFERENCE)  # types of items that are read
READING = (400, 408, 413, 415)  # statuses of every address that reads a body


# --- requests ------------------------------------------------------------------------------


class Part(Open):
    """A part of a message: a text or an image."""

    type: str = ""


class RequestMessage(Open):
    """A message of the conversation, as in OpenAI's API."""

    role: str
    content: str | list[Part] | None = None


class StreamOptions(Open):
    """What a stream ends with."""

    include_usage: Any = None


class ResponseFormat(Open):
    """The form of the answer, as in OpenAI's API."""

    type: Any = None


Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class ChatBody(Open):
    """An OpenAI chat completion request. Fields that are not named here go to the expert.

    Limits stand in `routewright` or in `metadata`: at the top level they are refused.
    """

    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: Name | None = Field(None, description="A policy, an expert or `auto`.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Literal[1] | None = None
    routewright: Limits | None = Field(None, description="The limits of this request.")
    metadata: Metadata | None = None
    extra_body: dict[str, Any] | None = Field(
        None, description="Its fields are read as fields of the body."
    )


Tokenised = Annotated[list[int], Field(min_length=1)]
Embeddable = Annotated[str, Field(min_length=1)] | Tokenised


class EmbeddingsBody(Open):
    """An OpenAI embeddings request. Fields that are not named here go to the expert."""

    model: Name | None = Field(None, description="An expert, or a policy with `embeddings`.")
    input: Embeddable | Annotated[list[Embeddable], Field(min_length=1, max_length=MAX_TEXTS)]
    routewright: Limits | None = Field(None, description="The limits of this request.")
    metadata: Metadata | None = None


class InputMessage(Open):
    """A message among the items of a Responses request."""

    type: Literal["message"] | None = "message"
    role: str
    content: str | list[Part] | None = None


class FunctionCall(Open):
    """A call of a function that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CustomCall(Open):
    """A call of a custom tool that the model made."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str


class CallOutput(Open):
    """What a tool answered."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: str | list[Part] | None = None


class ItemReference(Open):
    """An item of a stored response."""

    type: Literal["item_reference"]
    id: str


class OtherItem(Open):
    """Another item, such as reasoning; only experts that speak Responses get it."""

    type: Annotated[str, Field(json_schema_extra={"not": {"enum": list(ITEMS)}})]


class NamedTool(Open):
    """A function, or a custom tool with a text as its input."""

    type: Literal["function", "custom"]
    name: Annotated[str, Field(min_length=1)]


class OtherTool(Open):
    """A built-in tool, such as web_search."""

    type: Annotated[str, Field(json_schema_extra={"not": {"enum": ["function", "custom"]}})]


class BuiltInTool(Open):
    """A built-in tool, such as web_search."""

    type: Annotated[
        str, Field(json_schema_extra={"not": {"enum": ["function", "custom", "namespace"]}})
    ]


class NamespaceTool(Open):
    """Tools under a common name."""

    type: Literal["namespace"]
    name: str
    tools: list[NamedTool | OtherTool]


class TypedObject(Open):
    type: str


class TextOptions(Open):
    """The form and the length of the answer."""

    format: TypedObject | None = None


Item = InputMessage | FunctionCall | CustomCall | CallOutput | ItemReference | OtherItem


class ResponsesBody(Open):
    """An OpenAI Responses request. Fields that are not named here go to the expert.

    Limits stand in `routewright` or in `metadata`: at the top level they are refused.
    """

    input: str | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: Name | None = Field(None, description="A policy, an expert or `auto`.")
    instructions: str | None = None
    previous_response_id: Name | None = Field(None, description="The response that it continues.")
    store: bool | None = Field(None, description="Whether the response is kept; default: true.")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_output_tokens: Tokens | None = None
    tools: list[NamedTool | NamespaceTool | BuiltInTool] | None = None
    tool_choice: str | TypedObject | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: dict[str, Any] | None = None
    include: list[Any] | None = None
    background: Literal[False] | None = None
    conversation: None = None
    prompt: None = None
    messages: None = None
    routewright: Limits | None = Field(None, description="The limits of this request.")
    metadata: Metadata | None = None
    extra_body: dict[str, Any] | None = Field(
        None, description="Its fields are read as fields of the body."
    )


# --- responses -----------------------------------------------------------------------------


class ErrorDetails(Open):
    message: str
    type: str
    param: str | None
    code: str | None
    rejected: dict[str, str] = Field({}, description="The reason for each rejected expert.")


class ErrorBody(Open):
    """An OpenAI error object."""

    error: ErrorDetails


class ReplyMessage(Open):
    """The answer of the expert, as the expert wrote it."""

    role: Literal["assistant"]
    content: Any = None


class Choice(Open):
    index: Literal[0]
    message: ReplyMessage
    finish_reason: str
    logprobs: Any = None


class Usage(Open):
    """The tokens of the answer, and the US$ of everything that was asked."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]
    cost: Annotated[float, Field(ge=0)]


class EmbeddingsUsage(Open):
    """The tokens of the texts, and the US$ of everything that was asked."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]
    cost: Annotated[float, Field(ge=0)]


class ExpertRow(Open):
    """Whether the limits allow an expert, why not, and its predictions."""

    name: str
    admissible: bool
    reason: str | None


class Explanation(Open):
    """Who was asked, why, and what it cost in US$."""

    decision_id: str
    policy: str
    because: str
    path: str
    cost: Annotated[float, Field(ge=0)]
    overhead_ms: float
    experts: list[ExpertRow] = Field([], description="With the header `x-routewright-debug: true`.")


class ChunkChoice(Open):
    index: Literal[0]
    delta: dict[str, Any]
    finish_reason: str | None


class Completion(Open):
    """An OpenAI chat completion; `model` is the expert that answered."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: Annotated[list[Choice], Field(min_length=1, max_length=1)]
    usage: Usage
    routewright: Explanation


class Chunk(Open):
    """One event of a stream; the one with the `finish_reason` has the explanation."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: Annotated[list[ChunkChoice], Field(max_length=1)]
    usage: Usage | None = None
    routewright: Explanation | None = None


class Embedding(Open):
    """The vector of one text, as the expert wrote it: numbers, or base64 if that was requested."""

    embedding: list[float] | str


class Embeddings(Open):
    """The vectors of the texts, in their order; `model` is the expert that made them."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
    routewright: Explanation


class ContentBlock(Open):
    """A block of an answer, as the expert wrote it."""

    type: str


class MessageUsage(Open):
    """The tokens of the answer; those of the cache come in addition to `input_tokens`."""

    input_tokens: Annotated[int, Field(ge=0)]
    output_tokens: Annotated[int, Field(ge=0)]


class AnthropicMessage(Open):
    """An answer in Anthropic's shape; `model` is the expert that answered."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: str | None
    usage: MessageUsage
    routewright: Explanation


class MessageEvent(Open):
    """One event of a stream of Anthropic's; `message_stop` has the explanation."""

    type: str
    routewright: Explanation | None = None


class TokenCount(Open):
    """The input tokens of a request; the header `x-routewright-estimated` marks an estimate."""

    input_tokens: Annotated[int, Field(ge=0)]


class AnthropicErrorDetails(Open):
    type: str
    message: str


class AnthropicError(Open):
    """An error object in Anthropic's shape, with the fields of OpenAI's that have a value."""

    type: Literal["error"]
    error: AnthropicErrorDetails


class ResponseObject(Open):
    """An OpenAI response; `model` is the expert that answered."""

    id: str
    object: Literal["response"]
    created_at: float
    status: str
    model: str
    output: list[TypedObject]
    routewright: Explanation


class ResponseEvent(Open):
    """One event of a stream of Responses; the last one has the response with the explanation."""

    type: str
    sequence_number: int


class ResponseDeleted(Open):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ListedItem(Open):
    id: str
    type: str


class InputItems(Open):
    """The items that a response answers."""

    object: Literal["list"]
    data: list[ListedItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FirstAsk(Open):
    expert: str
    kind: str
    final: bool


class RouteExplanation(Open):
    """The decision that the policy would make now."""

    object: Literal["routewright.route"]
    policy: str
    strategy: str
    first_asks: list[FirstAsk]
    operating_point: dict[str, Any] | None
    fallback: list[str]
    experts: list[ExpertRow]


class Receipt(Open):
    """A score that has been written."""

    object: Literal["feedback"]
    decision_id: str
    score: Annotated[float, Field(ge=0, le=1)]
    expert: str


WINDOW = "Tokens that every expert behind the name can read; null: unknown."


class Model(Open):
    """A name that a request may have as `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_window: int | None = Field(description=WINDOW)
    context_length: int | None = Field(description="The same; some clients read this name.")


class AnthropicModel(Open):
    """The same in Anthropic's shape, for clients that send `anthropic-version`."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int | None = Field(description=WINDOW)


class Models(Open):
    object: Literal["list"]
    data: list[Model]


class AnthropicModels(Open):
    data: list[AnthropicModel]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


class ModelInEitherShape(RootModel[Model | AnthropicModel]):
    """A name that a request may have as `model`; Anthropic's shape with `anthropic-version`."""


class ModelsInEitherShape(RootModel[Models | AnthropicModels]):
    """The names that a request may have as `model`; Anthropic's shape with `anthropic-version`."""


class Health(Open):
    status: Literal["ok"]
    version: str
    servers: dict[str, str] = Field({}, description="The states of the launched servers.")
    left_alone: list[str] = Field([], description="Experts that are skipped after failures.")


class Readiness(Open):
    status: Literal["ready", "starting", "stopping"]
    waiting_for: list[str] = Field([], description="Servers that are still starting.")


class Reloaded(Open):
    """The config has been read again."""

    status: Literal["reloaded"]
    needs_restart: list[str] = Field(description="Changed keys that need a restart.")


class KeyMade(Open):
    """A key, which is shown here and nowhere else."""

    object: Literal["key"]
    name: str
    key: str


class KeyRevoked(Open):
    object: Literal["key"]
    name: str
    revoked: Literal[True]


class KeyRow(Open):
    """A key without its secret, and what it has spent in US$."""

    name: str
    id: str
    budget: BudgetBody
    spent_usd: float
    requests: int
    revoked: bool


class KeyRows(Open):
    object: Literal["list"]
    data: list[KeyRow]


class BudgetSet(Open):
    object: Literal["budget"]
    day: float | None
    month: float | None


class BudgetRow(Open):
    """What an account has spent of its budget, in US$."""

    budget: str
    period: Literal["day", "month"]
    limit_usd: float
    spent_usd: float


class BudgetRows(Open):
    object: Literal["list"]
    data: list[BudgetRow]


class DecisionRow(Open):
    """A decision without its texts."""

    id: str
    at: float
    key: str | None
    policy: str | None
    expert: str | None
    status: str
    path: str | None
    usd: float


class DecisionRows(Open):
    object: Literal["list"]
    data: list[DecisionRow]


class SpendRows(Open):
    """What was spent, in US$."""

    object: Literal["spend"]
    total_usd: float
    rows: list[dict[str, Any]]


class PolicyRow(Open):
    """A policy and the operating point that it has now."""

    name: str
    strategy: str
    router: str | None
    fallback: list[str]
    operating_point: dict[str, Any] | None


class PolicyRows(Open):
    object: Literal["list"]
    data: list[PolicyRow]


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
    ("get", "/admin/keys"): Operation(KeyRows, errors=(401, 404, 503)),
    ("post", "/admin/keys"): Operation(KeyMade, KeyBody, (*READING, 401, 404, 409, 422, 503)),
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


async def openapi(request: Request) -> Response:
    """Describes every address in the terms of OpenAPI 3.2."""
    return JSONResponse(document(request.app.routes))


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
