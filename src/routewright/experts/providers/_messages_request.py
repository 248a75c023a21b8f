"""Writes a chat completion request as one of Anthropic's Messages. Nothing here does I/O.

What the protocol cannot carry is named in the second value of `translated`, never dropped in
silence. Fields that OpenAI does not have, such as `thinking` or `top_k`, are sent as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from routewright.experts.providers._events import parse
from routewright.types import Message

DEFAULT_TOKENS = 16_384  # output limit of a request without one; the protocol needs one
FEWEST_THINKING = 1024  # tokens of a thinking budget
BUDGETS = {  # tokens of thinking, for models that know no effort
    **{"minimal": 1024, "low": 1024, "medium": 4096, "high": 16_384, "xhigh": 32_000},
    "max": 32_000,
}
EFFORTS = {"minimal": "low"}  # of OpenAI ▶ of Anthropic, where they differ
TIERS = {"auto": "auto", "default": "standard_only"}
# Fields of OpenAI that no model of Anthropic has.
UNKNOWN = {
    *("n", "seed", "logit_bias", "logprobs", "top_logprobs", "frequency_penalty", "store"),
    *("presence_penalty", "modalities", "audio", "prediction", "verbosity", "web_search_options"),
    *("functions", "function_call", "prompt_cache_key", "prompt_cache_retention"),
}
MEANINGLESS = {"n": 1, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0}
TRANSLATED = {
    *("messages", "max_tokens", "max_completion_tokens", "temperature", "stop", "tools", "user"),
    *("tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "metadata"),
    *("service_tier", "safety_identifier", "stream_options"),
}
SAMPLING = ("temperature", "top_p", "top_k")
ADAPTIVE, WITHOUT_SAMPLING = (4, 6), (4, 7)  # the first versions that think so, and sample alone
VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)", re.IGNORECASE)
DATA_URL = re.compile(r"data:([\w.+/-]+);base64,", re.ASCII)
Block = dict[str, Any]


def translated(body: Mapping[str, Any], model: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A chat request as a request for Messages, and what of it cannot be carried.

    >>> body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "seed": 1}
    >>> translated(body, "claude-haiku-4-5")
    ({'max_tokens': 9, 'messages': [{'role': 'user', 'content': 'hi'}]}, ('seed',))
    """
    lost: list[str] = []
    system, messages = _conversation(body["messages"], lost)
    request = {
        **{k: v for k, v in body.items() if k not in TRANSLATED | UNKNOWN and v is not None},
        "max_tokens": output_limit(body) or DEFAULT_TOKENS,
        "messages": messages,
        **({"system": system} if system else {}),
        **_tools(body, lost),
    }
    with_options(request, body, model, lost)
    limit_sampling(request, version(model), lost)
    return request, tuple(dict.fromkeys(lost))


def output_limit(body: Mapping[str, Any]) -> int | None:
    """The smallest output limit of a request, in tokens; None if it has none."""
    limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return min((limit for limit in limits if limit is not None), default=None)


def with_options(
    request: dict[str, Any], options: Mapping[str, Any], model: str, lost: list[str]
) -> None:
    """Adds chat options, under the names of the protocol, to a request."""
    present = {name: value for name, value in options.items() if value is not None}
    lost += [name for name in UNKNOWN & present.keys() if present[name] != MEANINGLESS.get(name)]
    if "stop" in present:
        stop = present["stop"]
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if "temperature" in present:
        request["temperature"] = present["temperature"]
    if (user := present.get("user") or present.get("safety_identifier")) is not None:
        request["metadata"] = {"user_id": user}
    if "metadata" in present:
        _add_metadata(request, present["metadata"], lost)
    if "service_tier" in present:
        _add_tier(request, present["service_tier"], lost)
    if "response_format" in present:
        _add_format(request, present["response_format"], lost)
    if "reasoning_effort" in present:
        _add_effort(request, present["reasoning_effort"], version(model), lost)


# --- options -------------------------------------------------------------------------------


def version(model: str) -> tuple[int, int] | None:
    """The version of a model of Anthropic; None if its name tells none.

    >>> version("claude-haiku-4-5-20251001"), version("claude-3-7-sonnet"), version("claude-opus-5")
    ((4, 5), (3, 7), (5, 0))
    """
    match = VERSION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _add_metadata(request: dict[str, Any], metadata: object, lost: list[str]) -> None:
    """Adds the user of a client's metadata, which is all that the protocol knows of it."""
    fields = metadata if isinstance(metadata, Mapping) else {}
    if "user_id" in fields:
        request["metadata"] = {"user_id": fields["user_id"]}
    lost += [f"metadata.{name}" for name in fields if name != "user_id"]


def _add_tier(request: dict[str, Any], tier: object, lost: list[str]) -> None:
    if tier == "standard_only" or tier in TIERS:
        request["service_tier"] = TIERS.get(str(tier), tier)
    else:
        lost.append("service_tier")


def _add_format(request: dict[str, Any], form: Mapping[str, Any], lost: list[str]) -> None:
    schema = form.get("json_schema")
    if form.get("type") == "json_schema" and isinstance(schema, Mapping):
        config = {"type": "json_schema", "schema": schema.get("schema") or {}}
        request["output_config"] = {**request.get("output_config", {}), "format": config}
    elif form.get("type") != "text":
        lost.append(f"response_format {form.get('type')}")


def _add_effort(
    request: dict[str, Any], effort: str, model: tuple[int, int] | None, lost: list[str]
) -> None:
    """Adds an effort: as thinking that adapts, or as a budget for the models before that."""
    forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
    if effort == "none" or "thinking" in request:
        return
    if model is not None and model < ADAPTIVE:
        budget = min(BUDGETS.get(effort, 0), request["max_tokens"] - 1)
        if budget < FEWEST_THINKING or forced:
            lost.append("reasoning_effort")
            return
        request["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if request.get("temperature", 1) != 1:  # no model that thinks accepts another one
            lost.append("temperature")
        request.pop("temperature", None)
        return
    config = {**request.get("output_config", {}), "effort": EFFORTS.get(effort, effort)}
    request["output_config"] = config
    if not forced:
        request["thinking"] = {"type": "adaptive"}


def limit_sampling(request: dict[str, Any], model: tuple[int, int] | None, lost: list[str]) -> None:
    """Brings the temperature to at most 1, or takes all sampling away where a model has none."""
    if model is not None and model >= WITHOUT_SAMPLING:
        lost += [name for name in SAMPLING if request.pop(name, None) not in (None, 1)]
    temperature = request.get("temperature")
    if isinstance(temperature, int | float) and temperature > 1:
        request["temperature"] = 1.0
        lost.append("temperature above 1")


def _tools(body: Mapping[str, Any], lost: list[str]) -> dict[str, Any]:
    """The fields `tools` and `tool_choice`; a tool that is none of OpenAI's is sent as it is."""
    fields: dict[str, Any] = {}
    if tools := body.get("tools"):
        fields["tools"] = [_tool(tool, lost) for tool in tools]
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and isinstance(choice.get("function"), Mapping):
        fields["tool_choice"] = {"type": "tool", "name": choice["function"].get("name")}
    elif isinstance(choice, Mapping):
        fields["tool_choice"] = dict(choice)
    elif choice is not None:
        fields["tool_choice"] = {"type": {"required": "any"}.get(choice, choice)}
    if body.get("parallel_tool_calls") is False and tools:
        fields["tool_choice"] = fields.get("tool_choice", {"type": "auto"})
        if fields["tool_choice"]["type"] != "none":
            fields["tool_choice"] |= {"disable_parallel_tool_use": True}
    if not tools:
        fields.pop("tool_choice", None)
    return fields


def _tool(tool: Any, lost: list[str]) -> Any:
    if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
        return tool
    function = tool["function"]
    lost += [f"tools.{name}" for name in function if name not in _FUNCTION]
    return {
        **{name: value for name, value in tool.items() if name not in ("type", "function")},
        "name": function.get("name"),
        **({"description": function["description"]} if function.get("description") else {}),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
        **({"strict": function["strict"]} if function.get("strict") is not None else {}),
    }


_FUNCTION = {"name", "description", "parameters", "strict"}


# --- messages ------------------------------------------------------------------------------


def _conversation(
    messages: Sequence[Message], lost: list[str]
) -> tuple[str | list[Block], list[dict[str, Any]]]:
    """The system prompt and the turns. Results of tools stand in one turn of the user, with the
    text that follows them."""
    system: list[Message] = []
    turns: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        if message.get("role") in ("system", "developer"):
            if place > len(system):
                lost.append("the place of a system message")
            system.append(message)
    rest = [m for m in messages if m.get("role") not in ("system", "developer")]
    for is_tool, group in groupby(rest, lambda message: message.get("role") == "tool"):
        if is_tool:
            results = [_tool_result(message, lost) for message in group]
            turns.append({"role": "user", "content": results})
            continue
        for message in group:
            turn = _assistant(message, lost) if _is_assistant(message) else _user(message, lost)
            if turn["role"] == "user" and turns and _has_results(turns[-1]):
                turns[-1]["content"] += _as_blocks(turn["content"])
            elif turn["content"]:
                turns.append(turn)
    return _system(system), turns


def _is_assistant(message: Message) -> bool:
    return message.get("role") == "assistant"


def _has_results(turn: Mapping[str, Any]) -> bool:
    content = turn["content"]
    is_open = isinstance(content, list) and content[-1].get("type") == "tool_result"
    return bool(turn["role"] == "user" and is_open)


def _as_blocks(content: str | list[Block]) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _system(messages: Sequence[Message]) -> str | list[Block]:
    if len(messages) == 1 and isinstance(messages[0].get("content"), str):
        return str(messages[0]["content"])
    return [block for message in messages for block in _texts(message)]


def _texts(message: Message) -> Iterator[Block]:
    """The texts of a message, with what stands beside them, such as `cache_control`."""
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    for part in parts:
        if isinstance(part, Mapping) and part.get("text"):
            yield {**part, "type": "text"}


def _user(message: Message, lost: list[str]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return {"role": "user", "content": content or ""}
    blocks = [block for part in content for block in _user_block(part, lost)]
    return {"role": "user", "content": blocks}


def _user_block(part: Mapping[str, Any], lost: list[str]) -> list[Block]:
    """A part of a user's message as a block; none if the protocol has no such block."""
    kind = part.get("type", "text")
    rest = {name: part[name] for name in ("cache_control",) if name in part}
    if kind == "text":
        return [{**part, "type": "text"}] if part.get("text") else []
    if kind == "image_url":
        image = part.get("image_url")
        if isinstance(image, Mapping) and image.get("detail") not in (None, "auto"):
            lost.append("image detail")
        url = image.get("url") if isinstance(image, Mapping) else image
        return [{"type": "image", "source": _source(str(url)), **rest}]
    if kind == "file" and isinstance(part.get("file"), Mapping):
        return [{**_document(part["file"]), **rest}]
    if kind == "input_audio":
        lost.append("input_audio")
        return []
    return [dict(part)]  # a block of the protocol itself, or one for it to refuse


def _source(url: str) -> Block:
    """An image or a file: its data, or its address.

    >>> _source("data:image/png;base64,AAAA")
    {'type': 'base64', 'media_type': 'image/png', 'data': 'AAAA'}
    """
    if match := DATA_URL.match(url):
        return {"type": "base64", "media_type": match[1], "data": url[match.end() :]}
    return {"type": "url", "url": url}


def _document(file: Mapping[str, Any]) -> Block:
    title = {"title": file["filename"]} if file.get("filename") else {}
    if file.get("file_id"):
        return {"type": "document", "source": {"type": "file", "file_id": file["file_id"]}, **title}
    return {"type": "document", "source": _source(str(file.get("file_data", ""))), **title}


def _tool_result(message: Message, lost: list[str]) -> Block:
    content = message.get("content")
    if isinstance(content, list):
        content = [block for part in content for block in _user_block(part, lost)]
    result = {"type": "tool_result", "tool_use_id": tool_id(message.get("tool_call_id"))}
    return {**result, "content": content or ""}


def _assistant(message: Message, lost: list[str]) -> dict[str, Any]:
    """A turn of the assistant: its signed thinking, its text, its tool calls."""
    calls = message.get("tool_calls") or ()
    blocks = [
        *_list(message.get("thinking_blocks")),
        *_list(message.get("content_blocks")),
        *(_text_blocks(message)),
        *(_tool_use(call) for call in calls if isinstance(call, Mapping)),
    ]
    if message.get("audio"):
        lost.append("audio")
    if len(blocks) == 1 and blocks[0] == {"type": "text", "text": blocks[0].get("text")}:
        return {"role": "assistant", "content": blocks[0]["text"]}
    return {"role": "assistant", "content": blocks}


def _list(blocks: object) -> Iterable[Any]:
    return blocks if isinstance(blocks, list) else ()


def _text_blocks(message: Message) -> Iterator[Block]:
    blocks = list(_texts(message))
    if not blocks and (refusal := message.get("refusal")):
        blocks = [{"type": "text", "text": refusal}]
    yield from ({**block, "text": str(block["text"])} for block in blocks)


def _tool_use(call: Mapping[str, Any]) -> Block:
    function = call.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments")
    return {
        "type": "tool_use",
        "id": tool_id(call.get("id")),
        "name": name,
        "input": tool_input(arguments),
    }


def tool_id(id: object) -> str:
    """The id of a tool call with the characters that the protocol allows.

    >>> tool_id("functions.get:0")
    'functions_get_0'
    """
    return re.sub(r"[^\w-]", "_", str(id or "call"), flags=re.ASCII)


def tool_input(arguments: object) -> dict[str, Any]:
    """The arguments of a call as an object; a text that is none stands under `arguments`."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    text = arguments if isinstance(arguments, str) else ""
    if not text.strip():
        return {}
    value = parse(text)
    return value if isinstance(value, dict) else {"arguments": text}
