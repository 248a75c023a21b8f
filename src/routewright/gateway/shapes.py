"""What the addresses of the gateway take and return, as Pydantic models for `/openapi.json`.

A model allows fields that it does not name where the gateway passes them on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from routewright.gateway.admin import BudgetBody
from routewright.gateway.body import MAX_MESSAGES, MAX_TOKENS, Limits, Metadata, Name, Open
from routewright.gateway.embeddings import MAX_TEXTS
from routewright.gateway.responses.messages import CALLS, OUTPUTS, REFERENCE

ITEMS = ("message", *CALLS, *OUTPUTS, REFERENCE)  # types of items that are read

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


class GoalSet(Open):
    """The goal that a policy has now."""

    object: Literal["policy"]
    name: str
    goal: str
    value: float


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
