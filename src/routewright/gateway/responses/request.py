"""Reads a Responses request. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from routewright.experts.providers._responses import MAKER
from routewright.gateway import body as chat
from routewright.gateway.body import LIMITS, MAX_NAME, MAX_TOKENS, ChatRequest, excerpt
from routewright.gateway.errors import BadRequest
from routewright.gateway.responses import tools as tool_reader
from routewright.gateway.responses.messages import REFERENCE, chat_messages, checked, kind_of
from routewright.gateway.responses.tools import Tools
from routewright.types import DataClass, Native

# Fields that the gateway reads or that are written in chat's words; all others go to the expert.
READ = {
    *("input", "instructions", "tools", "tool_choice", "text", "reasoning", "max_output_tokens"),
    *("include", "store", "previous_response_id", "background", "conversation", "stream_options"),
    *("parallel_tool_calls", "top_logprobs"),
}
# Fields of the Responses API for which chat has no place, and the values that mean nothing.
UNCARRIED: Mapping[str, Any] = {
    "truncation": "disabled",
    "max_tool_calls": None,
    "client_metadata": None,
    "context_management": None,
    "prompt_cache_options": None,
    "moderation": None,
}
OF_GATEWAY = {"model", "stream", "routewright", "metadata", "previous_response_id", "store"}
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"


@dataclass(frozen=True)
class ResponsesRequest(ChatRequest):
    """A validated Responses request.

    `body` is the request as it was sent, `items` is its own input, and `history` are the items of
    the responses that it continues.
    """

    body: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    tools: Tools = field(default_factory=Tools)
    keeps: bool = False  # whether its response is stored
    default_data_class: DataClass = "public"

    @property
    def previous(self) -> str | None:
        """The id of the response that it continues."""
        return self.body.get("previous_response_id")

    @property
    def references(self) -> tuple[str, ...]:
        """The ids of the items that it refers to instead of sending them."""
        return tuple(item["id"] for item in self.items if kind_of(item) == REFERENCE)


def parse(body: Any, default_data_class: DataClass) -> ResponsesRequest:
    """Validates a JSON body; raises BadRequest, which names the field and its value."""
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    body = chat.unpacked(body)
    _check_types(body)
    _refuse(body)
    return _request(body, tuple(checked(body.get("input"))), (), default_data_class)


def continued(
    request: ResponsesRequest,
    items: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
) -> ResponsesRequest:
    """The request with its references resolved, after the items of what it continues."""
    body, default = dict(request.body), request.default_data_class
    return _request(body, tuple(items), tuple(history), default, is_whole=True)


def _request(
    body: dict[str, Any],
    items: tuple[Mapping[str, Any], ...],
    history: tuple[Mapping[str, Any], ...],
    default_data_class: DataClass,
    is_whole: bool = False,
) -> ResponsesRequest:
    tools = tool_reader.read(body.get("tools"))
    sent = [item for item in (*history, *items) if kind_of(item) != REFERENCE]
    messages, lost = chat_messages(body.get("instructions"), sent, tools)
    options, more = _options(body, tools)
    is_whole = is_whole or not (body.get("previous_response_id") or len(sent) < len(items))
    if is_whole and not sent:
        raise BadRequest("input must be a text or a list with at least one item", "input")
    # A request that continues another may say nothing itself; it is read again with the others.
    messages = messages or [{"role": "user", "content": ""}]
    request = chat.parse({**options, "messages": messages}, default_data_class)
    native = Native("responses", _native(body, sent), (*tools.lost, *more, *lost))
    query = replace(request.query, native=native)
    return ResponsesRequest(
        query,
        model=request.model,
        stream=request.stream,
        has_data_class=request.has_data_class,
        built_in=tools.built_in,
        body=body,
        items=items,
        history=history,
        tools=tools,
        default_data_class=default_data_class,
    )


def _options(body: Mapping[str, Any], tools: Tools) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields beside the messages in chat's words, and the names of what is lost."""
    left_out = READ | UNCARRIED.keys()
    options = {key: value for key, value in body.items() if key not in left_out}
    lost = [name for name, none in UNCARRIED.items() if body.get(name) not in (None, none)]
    if body.get("max_output_tokens") is not None:
        options["max_completion_tokens"] = body["max_output_tokens"]
    choice, lost_choice = tool_reader.choice(body.get("tool_choice"), tools)
    if tools.functions:
        options["tools"] = list(tools.functions)
        lost += [lost_choice] if lost_choice else []
        parallel = body.get("parallel_tool_calls")
        options |= {"tool_choice": choice, "parallel_tool_calls": parallel}
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    options |= {"reasoning_effort": reasoning.get("effort"), "verbosity": text.get("verbosity")}
    options["response_format"] = _response_format(text.get("format"))
    lost += [f"reasoning.{key}" for key, value in reasoning.items() if value and key != "effort"]
    include = body.get("include") or []
    if LOGPROBS in include:
        options |= {"logprobs": True, "top_logprobs": body.get("top_logprobs")}
    lost += ["include"] if set(map(str, include)) - {LOGPROBS} else []
    given = {key: value for key, value in options.items() if value is not None}
    return given, tuple(lost)


def _response_format(form: Any) -> dict[str, Any] | None:
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") != "json_schema":
        return dict(form)
    schema = {key: value for key, value in form.items() if key != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _native(body: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The request for an expert that speaks the protocol: with every item, and no limits."""
    native = {key: value for key, value in body.items() if key not in OF_GATEWAY}
    metadata = body.get("metadata") or {}
    if own := {key: value for key, value in metadata.items() if key not in LIMITS}:
        native["metadata"] = own
    is_text = isinstance(body.get("input"), str) and len(items) == 1
    native["input"] = body["input"] if is_text else list(items)
    return native


# --- checks --------------------------------------------------------------------------------


def _check_types(body: Mapping[str, Any]) -> None:
    types: dict[str, tuple[type, str]] = {
        "model": (str, "a text"),
        "instructions": (str, "a text"),
        "previous_response_id": (str, "a text"),
        "stream": (bool, "true or false"),
        "store": (bool, "true or false"),
        "background": (bool, "true or false"),
        "parallel_tool_calls": (bool, "true or false"),
        "include": (list, "a list"),
        "tools": (list, "a list"),
        "text": (dict, "an object"),
        "reasoning": (dict, "an object"),
        "stream_options": (dict, "an object"),
    }
    for name, (kind, description) in types.items():
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise BadRequest(f"{name} must be {description}, not {excerpt(body[name])}", name)
    form = (body.get("text") or {}).get("format")
    if form is not None and not (isinstance(form, dict) and isinstance(form.get("type"), str)):
        message = f"text.format must be an object with a type, not {excerpt(form)}"
        raise BadRequest(message, "text.format")
    limit = body.get("max_output_tokens")
    if limit is not None and (type(limit) is not int or not 1 <= limit <= MAX_TOKENS):
        message = f"max_output_tokens must be from 1 to {MAX_TOKENS:,}, not {excerpt(limit)}"
        raise BadRequest(message, "max_output_tokens")
    if len(body.get("previous_response_id") or "") > MAX_NAME:
        message = f"previous_response_id has more than {MAX_NAME} characters"
        raise BadRequest(message, "previous_response_id")


def _refuse(body: Mapping[str, Any]) -> None:
    """Raises BadRequest for what this gateway does not do."""
    ways_out = {
        "background": "send the request without it, and stream the answer if it takes long",
        "conversation": "continue a response with `previous_response_id`, or send all items",
        "prompt": "send the `instructions` and the `input` themselves",
    }
    for name, way_out in ways_out.items():
        if body.get(name) is not None and not (name == "background" and body[name] is False):
            message = f"{name} is not supported by this gateway: {way_out}"
            raise BadRequest(message, name, code="unsupported_parameter")
    if body.get("messages") is not None:
        raise BadRequest(
            "messages belong to /v1/chat/completions: send them as `input`", "messages"
        )


def marked(item: Mapping[str, Any], maker: str | None) -> dict[str, Any]:
    """An item with the name of the expert that made it, which no client can choose."""
    rest = {key: value for key, value in item.items() if key != MAKER}
    return rest if maker is None else {**rest, MAKER: maker}
