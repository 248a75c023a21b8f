"""Prepares a request that its client wrote in Anthropic's Messages for one expert.

It is sent as it is, but for the options of the config, the output limit, thinking that no model has
signed, and what the expert's model is known to refuse: a client that names a policy cannot know
which model will answer. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from routewright.experts.providers import Call
from routewright.experts.providers._messages_request import (
    ADAPTIVE,
    BUDGETS,
    FEWEST_THINKING,
    UNKNOWN,
    WITHOUT_SAMPLING,
    limit_sampling,
    output_limit,
    version,
    with_options,
)

# Options of chat that an expert's config may add to a request.
OPTIONS = UNKNOWN | {
    *("max_completion_tokens", "stop", "user", "response_format", "reasoning_effort"),
    *("safety_identifier", "parallel_tool_calls", "stream_options"),
}
Version = tuple[int, int]


def prepared(call: Call, native: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request to send, and what of it the expert cannot be sent."""
    model = call.expert.model or call.expert.name
    lost: list[str] = []
    request = {name: value for name, value in native.items() if name not in OPTIONS}
    if "messages" in request:
        request["messages"] = without_unsigned(request["messages"])
    limits = [output_limit(native), output_limit(call.body)]
    if present := [limit for limit in limits if limit is not None]:
        request["max_tokens"] = min(present)
    options = {name: value for name, value in native.items() if name in OPTIONS}
    with_options(request, options, model, lost)
    if (number := version(model)) is not None:
        _fit_thinking(request, number, lost)
        if number >= WITHOUT_SAMPLING:
            limit_sampling(request, number, lost)
    _fit_budget(request, lost)
    return request, tuple(dict.fromkeys(lost))


def _fit_thinking(request: dict[str, Any], model: Version, lost: list[str]) -> None:
    """Writes thinking as a model knows it: with a budget before 4.6, from 4.7 on without."""
    thinking, config = _mapping(request.get("thinking")), _mapping(request.get("output_config"))
    effort = config.get("effort")
    if model < ADAPTIVE and effort is not None:
        del config["effort"]
        lost.append("output_config.effort")
    if model < ADAPTIVE and thinking.get("type") == "adaptive":
        budget = BUDGETS.get(str(effort), BUDGETS["medium"])
        thinking |= {"type": "enabled", "budget_tokens": budget}
    elif model >= WITHOUT_SAMPLING and thinking.get("type") == "enabled":
        thinking |= {"type": "adaptive"}
        if thinking.pop("budget_tokens", None) is not None:
            lost.append("thinking.budget_tokens")
    for name, fields in (("thinking", thinking), ("output_config", config)):
        if fields:
            request[name] = fields
        elif request.get(name):
            del request[name]


def _fit_budget(request: dict[str, Any], lost: list[str]) -> None:
    """Keeps a budget of thinking below the output limit, as the protocol requires."""
    thinking, limit = _mapping(request.get("thinking")), request.get("max_tokens")
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or type(limit) is not int or budget < limit:
        return
    if limit > FEWEST_THINKING:
        request["thinking"] = {**thinking, "budget_tokens": limit - 1}
    else:
        del request["thinking"]
    lost.append("thinking.budget_tokens beyond the output limit")


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def without_unsigned(messages: object) -> Any:
    """The messages without thinking that no model of Anthropic has signed.

    Such blocks are a gateway's, for the reasoning of a model that signs none.
    """
    if not isinstance(messages, list):
        return messages
    if not any(_is_unsigned(block) for message in messages for block in _blocks(message)):
        return messages
    signed = [_signed(message) for message in messages]
    return [m for m in signed if not isinstance(m, Mapping) or m.get("content") != []]


def _blocks(message: object) -> Sequence[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list) else ()


def _is_unsigned(block: object) -> bool:
    if not isinstance(block, Mapping) or block.get("type") != "thinking":
        return False
    return not block.get("signature")


def _signed(message: Any) -> Any:
    blocks = _blocks(message)
    if not any(map(_is_unsigned, blocks)):
        return message
    return {**message, "content": [block for block in blocks if not _is_unsigned(block)]}
