"""Reads a request of Anthropic's Messages: the fields that it may have, and the same conversation
as OpenAI chat. Pure functions.

The whole request goes to experts that speak the protocol. All others get the chat, and what that
cannot carry is named in `Native.lost`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool

from routewright.gateway.body import (
    LIMIT_FIELDS,
    MAX_MESSAGES,
    MAX_TOKENS,
    ChatRequest,
    Limits,
    Metadata,
    Name,
    Open,
    Share,
    excerpt,
    own_metadata,
    unpacked,
    validated,
)
from routewright.gateway.body import parse as parse_chat
from routewright.gateway.errors import BadRequest
from routewright.types import DataClass, Native

BETAS = "anthropic_beta"  # the field of a body for the header `anthropic-beta`
EFFORTS = {"max": "xhigh"}  # of Anthropic ▶ of OpenAI, where they differ
LOW, MEDIUM = 4096, 16_384  # tokens of thinking, up to which an effort is low or medium
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
HIDDEN = {"thinking": "thinking blocks", "redacted_thinking": "thinking blocks"}
NEEDS = {"document from": "files", "image from": "vision"}
# The fields of a body, and of a tool, that are read here.
READ = {
    *("model", "messages", "system", "max_tokens", "stream", "stop_sequences", "temperature"),
    *("top_p", "tools", "tool_choice", "thinking", "output_config", "output_format", "metadata"),
    *("routewright", "cache_control", "service_tier", BETAS),
}
READ_OF_TOOL = {"type", "name", "description", "input_schema", "strict", "cache_control"}
Json = dict[str, Any]


# --- the fields of a request ----------------------------------------------------------------


def _content(value: object) -> object:
    """Refuses a content that is neither a text nor a list of blocks."""
    blocks = value if isinstance(value, list) else []
    if not isinstance(value, str | list) or not all(
        isinstance(block, dict) and isinstance(block.get("type"), str) for block in blocks
    ):
        raise ValueError("must be a text or a list of blocks, each with a `type`")
    return value


class Block(Open):
    """A block of a message: text, image, document, tool use, tool result, thinking or another."""

    type: str


Content = Annotated[str | list[Block], BeforeValidator(_content)]


class Turn(Open):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


class Tool(Open):
    """A tool of the client; one whose `type` is not `custom` runs at Anthropic."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(Open):
    """Which tools the answer must use."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: StrictBool | None = None


class Thinking(Open):
    """Whether and how much the model thinks."""

    type: str
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS, strict=True)] | None = None


class OutputConfig(Open):
    """The form of the answer and the effort for it."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class CountBody(Open):
    """A request whose input tokens are counted."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: Name | None = Field(None, description="A policy, an expert or `auto`.")
    system: Content | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    anthropic_beta: str | list[str] | None = None
    routewright: Limits | None = Field(None, description="The limits of this request.")
    metadata: Metadata | None = None


class MessagesBody(CountBody):
    """A request of Anthropic's Messages.

    Fields that are not named here go to experts that speak the protocol. Limits stand in
    `routewright` or in `metadata`: at the top level they are refused.
    """

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS, strict=True)]
    stream: StrictBool | None = None
    stop_sequences: list[str] | None = None
    temperature: Share | None = None
    top_p: Share | None = None


_check, _check_count = validated(MessagesBody), validated(CountBody)


# --- requests ------------------------------------------------------------------------------


def parse(
    body: Any, default_data_class: DataClass, betas: Sequence[str] = (), counted: bool = False
) -> ChatRequest:
    """Validates a body; raises BadRequest, which names the field and its value.

    `betas` are those of the header `anthropic-beta`. With `counted`, only the tokens of the request
    are of interest, and it may lack an output limit.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    body = {name: value for name, value in unpacked(body).items() if value is not None}
    if not counted and "max_tokens" not in body:
        raise BadRequest("max_tokens is missing: say how long the answer may be", "max_tokens")
    limits = {name: body[name] for name in LIMIT_FIELDS if name in body}
    (_check_count if counted else _check)({**body, **dict.fromkeys(limits)})
    lost: list[str] = []
    chat = {**_chat(body, lost), **limits}
    request = parse_chat(chat, default_data_class)
    native = Native("messages", _native(body, betas), tuple(dict.fromkeys(lost)))
    needs = request.query.needs | _needs(lost)
    query = replace(request.query, native=native, needs=needs)
    kinds = (str(tool.get("type") or "custom") for tool in body.get("tools") or ())
    built_in = tuple(dict.fromkeys(kind for kind in kinds if kind != "custom"))
    return replace(request, query=query, built_in=built_in)


def _needs(lost: Sequence[str]) -> set[str]:
    """The capabilities that a request needs for what no chat can carry."""
    return {need for name, need in NEEDS.items() if any(item.startswith(name) for item in lost)}


def _native(body: Json, betas: Sequence[str]) -> Json:
    """The request as its client wrote it, without what the gateway reads itself."""
    own = {"model", "stream", *LIMIT_FIELDS}
    rest = {name: value for name, value in body.items() if name not in own}
    names = [*_list(body.get(BETAS)), *betas]
    return {
        **rest,
        **own_metadata(body.get("metadata") or {}),
        **({BETAS: list(dict.fromkeys(names))} if names else {}),
    }


def _chat(body: Json, lost: list[str]) -> Json:
    """The same request as OpenAI chat."""
    messages = _system(body.get("system"), lost)
    for place, turn in enumerate(body["messages"]):
        messages += _messages(turn, f"messages[{place}]", lost)
    if body["messages"][-1]["role"] == "assistant":
        lost.append("the beginning of the answer")
    lost += sorted(name[:80] for name in body if name not in READ)
    if "cache_control" in body:
        lost.append("cache_control")
    names = ("model", "stream", "max_tokens", "temperature", "top_p")
    return {
        **{name: body[name] for name in names if name in body},
        # Turns of which chat carries nothing leave none.
        "messages": messages or [{"role": "user", "content": ""}],
        **({"stop": body["stop_sequences"]} if body.get("stop_sequences") else {}),
        **_tools(body, lost),
        **_effort(body, lost),
        **_format(body, lost),
    }


# --- options -------------------------------------------------------------------------------


def _tools(body: Json, lost: list[str]) -> Json:
    functions = (_tool(tool, lost) for tool in body.get("tools") or ())
    tools = [function for function in functions if function is not None]
    if not tools:
        return {}
    choice = body.get("tool_choice") or {}
    fields: Json = {"tools": tools}
    if choice.get("type") == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice.get("type") in CHOICES:
        fields["tool_choice"] = CHOICES[choice["type"]]
    elif choice:
        lost.append(f"tool_choice {str(choice.get('type'))[:60]}")
    if choice.get("disable_parallel_tool_use"):
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Json, lost: list[str]) -> Json | None:
    """A tool of the client as a function; None for one that runs at Anthropic."""
    if tool.get("type") not in (None, "custom"):
        lost.append(f"server tool {tool.get('name') or tool['type']}"[:80])
        return None
    if "cache_control" in tool:
        lost.append("cache_control")
    lost += sorted(f"tools.{name}"[:80] for name in tool if name not in READ_OF_TOOL)
    function = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
    parameters = tool.get("input_schema") or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _effort(body: Json, lost: list[str]) -> Json:
    """The effort that a client states, or that its budget of thinking amounts to."""
    config, thinking = body.get("output_config") or {}, body.get("thinking") or {}
    lost += sorted(f"output_config.{n}"[:80] for n in config if n not in ("effort", "format"))
    if body.get("service_tier", "auto") != "auto":
        lost.append("service_tier")
    if thinking.get("type") == "disabled":
        lost.append("thinking disabled")
        return {}
    if effort := config.get("effort"):
        return {"reasoning_effort": EFFORTS.get(effort, effort)}
    budget = thinking.get("budget_tokens")
    if thinking.get("type") != "enabled" or budget is None:
        return {}
    effort = "low" if budget <= LOW else "medium" if budget <= MEDIUM else "high"
    return {"reasoning_effort": effort}


def _format(body: Json, lost: list[str]) -> Json:
    form = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        lost += ["output_config.format"] if form else []
        return {}
    schema = {"name": "answer", "strict": _is_strict(form["schema"]), "schema": form["schema"]}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI accepts a schema as strict: each object requires all of its properties and
    has no others."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if isinstance(properties, Mapping) or schema.get("type") == "object":
        names = set(properties) if isinstance(properties, Mapping) else set()
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if names != {str(name) for name in required}:
            return False
    return all(_is_strict(value) for value in schema.values())


# --- messages ------------------------------------------------------------------------------


def _system(content: str | list[Json] | None, lost: list[str]) -> list[Json]:
    text = content if isinstance(content, str) else _text(content or (), "system", lost)
    return [{"role": "system", "content": text}] if text else []


def _text(blocks: Sequence[Json], field: str, lost: list[str]) -> str:
    """The texts of blocks, line by line; blocks of other kinds are lost."""
    parts = list(_parts(blocks, field, lost))
    lost += [f"{part['type']} in {field}" for part in parts if part["type"] != "text"]
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def _messages(turn: Json, field: str, lost: list[str]) -> Iterator[Json]:
    """A turn as chat messages: the results of tools each in one, then the rest of it."""
    role, content = turn["role"], turn["content"]
    if isinstance(content, str):
        yield {"role": role, "content": content}
    elif role == "assistant":
        yield _assistant(content, field, lost)
    elif role == "system":
        yield from _system(content, lost)
    else:
        yield from _user(content, field, lost)


def _assistant(blocks: Sequence[Json], field: str, lost: list[str]) -> Json:
    texts, calls = [], []
    for place, block in enumerate(blocks):
        at = f"{field}.content[{place}]"
        if block["type"] == "tool_use":
            calls.append(_tool_call(block, at, lost))
        elif block["type"] in HIDDEN:
            lost.append(HIDDEN[block["type"]])
        elif block["type"] == "text":
            texts += [part["text"] for part in _part(block, at, lost)]
        else:
            lost.append(f"{block['type']} blocks"[:80])
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None}
    return {**message, "tool_calls": calls} if calls else {**message, "content": "".join(texts)}


def _tool_call(block: Json, field: str, lost: list[str]) -> Json:
    if "cache_control" in block:
        lost.append("cache_control")
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise BadRequest(f"{field}.input must be an object, not {excerpt(arguments)}", field)
    function = {"name": _field(block, "name", field), "arguments": _dumped(arguments)}
    return {"id": _field(block, "id", field), "type": "function", "function": function}


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _user(blocks: Sequence[Json], field: str, lost: list[str]) -> Iterator[Json]:
    """The results of tools, and then one message with the rest.

    A result holds text alone in OpenAI chat, so its images and files stand in that message.
    """
    rest: list[Json] = []
    for place, block in enumerate(blocks):
        at = f"{field}.content[{place}]"
        if block["type"] == "tool_result":
            parts = _result_parts(block, at, lost)
            text = "\n".join(part["text"] for part in parts if part["type"] == "text")
            rest += [part for part in parts if part["type"] != "text"]
            id = _field(block, "tool_use_id", at)
            yield {"role": "tool", "tool_call_id": id, "content": text}
        else:
            rest += _part(block, at, lost)
    if len(rest) == 1 and rest[0]["type"] == "text":
        yield {"role": "user", "content": rest[0]["text"]}
    elif rest or not any(block["type"] == "tool_result" for block in blocks):
        yield {"role": "user", "content": rest or ""}


def _result_parts(block: Json, field: str, lost: list[str]) -> list[Json]:
    if "cache_control" in block:
        lost.append("cache_control")
    if block.get("is_error"):
        lost.append("tool_result.is_error")
    content = block.get("content") or ""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    _checked(content, f"{field}.content")
    return list(_parts(content, f"{field}.content", lost))


def _checked(content: object, field: str) -> None:
    try:
        _content(content)
    except ValueError as error:
        raise BadRequest(f"{field} ({excerpt(content)}): {error}", field) from error


def _parts(blocks: Sequence[Json], field: str, lost: list[str]) -> Iterator[Json]:
    for place, block in enumerate(blocks):
        yield from _part(block, f"{field}[{place}]", lost)


def _part(block: Json, field: str, lost: list[str]) -> list[Json]:
    """A block as parts of a chat message; none where chat has no such part."""
    if "cache_control" in block:
        lost.append("cache_control")
    kind = block["type"]
    if kind == "text":
        if block.get("citations"):
            lost.append("citations")
        return [{"type": "text", "text": _field(block, "text", field)}]
    if kind == "image":
        return _image(_source(block, field), field, lost)
    if kind == "document":
        return _document(block, field, lost)
    if kind == "search_result":
        lost.append("search_result.source")
        _checked(content := block.get("content") or [], f"{field}.content")
        return list(_parts(content, f"{field}.content", lost))
    lost.append(f"{kind} blocks"[:80])
    return []


def _image(source: Json, field: str, lost: list[str]) -> list[Json]:
    if source.get("type") == "base64":
        kind, data = (_field(source, name, f"{field}.source") for name in ("media_type", "data"))
        url = f"data:{kind};base64,{data}"
    elif source.get("type") == "url":
        url = _field(source, "url", f"{field}.source")
    else:
        lost.append(f"image from a {str(source.get('type'))[:60]}")
        return []
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Json, field: str, lost: list[str]) -> list[Json]:
    """A document: its text, or its file. Chat has no documents by address or by id."""
    source = _source(block, field)
    lost += sorted(f"document.{name}" for name in ("context", "citations") if block.get(name))
    if source.get("type") == "text":
        return [{"type": "text", "text": _field(source, "data", f"{field}.source")}]
    if source.get("type") == "content":
        content = source.get("content") or ""
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        _checked(content, f"{field}.source.content")
        return list(_parts(content, f"{field}.source.content", lost))
    if source.get("type") == "base64":
        kind, data = (_field(source, name, f"{field}.source") for name in ("media_type", "data"))
        name = block.get("title") or "document.pdf"
        file = {"filename": name, "file_data": f"data:{kind};base64,{data}"}
        return [{"type": "file", "file": file}]
    lost.append(f"document from a {str(source.get('type'))[:60]}")
    return []


def _source(block: Json, field: str) -> Json:
    source = block.get("source")
    if not isinstance(source, Mapping):
        raise BadRequest(f"{field}.source must be an object, not {excerpt(source)}", field)
    return dict(source)


def _field(block: Mapping[str, Any], name: str, field: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        message = f"{field}.{name} must be a text, not {excerpt(value)}"
        raise BadRequest(message, f"{field}.{name}")
    return value


def _list(value: object) -> list[str]:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []
