"""Reads chat completion requests also as Cursor's agent writes them: in the words of Responses.

Cursor sends its items as `input`, or `messages` beside tools of which some are flat, as those of
Responses are. It reads chat completions in any case, and knows the call of a custom tool as that of
a function whose arguments are the plain text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from routewright.gateway import body as chat_body
from routewright.gateway.body import ChatRequest
from routewright.gateway.chat_reply import ChatReply
from routewright.gateway.errors import BadRequest
from routewright.gateway.replies import event
from routewright.gateway.responses import request as responses
from routewright.gateway.responses import tools as tool_reader
from routewright.types import Answer, DataClass, Decision, Delta, Message, Native


@dataclass(frozen=True)
class MixedRequest(ChatRequest):
    """A chat request with the names of its custom tools, which are functions to the expert."""

    custom: frozenset[str] = frozenset()


def reply(decision_id: str, request: ChatRequest) -> ChatReply:
    """What writes the answer to a request."""
    if isinstance(request, MixedRequest) and request.custom:
        return MixedReply(decision_id, request)
    return ChatReply(decision_id, request)


# --- requests ------------------------------------------------------------------------------


def parse(body: Any, default_data_class: DataClass) -> ChatRequest:
    """Validates a JSON body; raises BadRequest, which names the field and its value."""
    if not isinstance(body, dict):
        return chat_body.parse(body, default_data_class)
    if body.get("messages") is None and "input" in body:
        return _of_items(body, default_data_class)
    tools = body["tools"] if isinstance(body.get("tools"), list) else []
    if flat := [tool for tool in tools if _is_flat(tool)]:
        return _of_messages(body, flat, default_data_class)
    return chat_body.parse(body, default_data_class)


def _is_flat(tool: Any) -> bool:
    """Whether a tool is written as in Responses: its name beside its type."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind in ("function", "custom") and "name" in tool and kind not in tool


def _of_items(body: dict[str, Any], default_data_class: DataClass) -> MixedRequest:
    read = responses.parse(body, default_data_class)
    for name, value in (("previous_response_id", read.previous), ("input", read.references)):
        if value:
            raise BadRequest(f"{name} refers to a stored response: POST it to /v1/responses", name)
    query, lost = read.query, read.query.native.lost if read.query.native else ()
    custom = _custom(read.tools)
    messages = tuple(_with_objects(message, custom) for message in query.messages)
    options = read.body.get("stream_options") or {}
    return MixedRequest(
        replace(query, messages=messages, native=Native("chat", {}, lost)),
        model=read.model,
        stream=read.stream,
        include_usage=bool(options.get("include_usage")),
        has_data_class=read.has_data_class,
        built_in=read.built_in,
        custom=custom,
    )


def _of_messages(
    body: dict[str, Any], flat: list[dict[str, Any]], default_data_class: DataClass
) -> MixedRequest:
    tools = tool_reader.read(flat)
    functions = iter(tools.functions)
    nested = [next(functions) if _is_flat(tool) else tool for tool in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and "name" in choice:
        choice = tool_reader.choice(choice, tools)[0]
    read = chat_body.parse({**body, "tools": nested, "tool_choice": choice}, default_data_class)
    custom = _custom(tools)
    messages = tuple(_with_objects(message, custom) for message in read.query.messages)
    native = Native("chat", {}, tools.lost) if tools.lost else None
    return MixedRequest(
        replace(read.query, messages=messages, native=native),
        model=read.model,
        stream=read.stream,
        include_usage=read.include_usage,
        has_data_class=read.has_data_class,
        custom=custom,
    )


def _custom(tools: tool_reader.Tools) -> frozenset[str]:
    return frozenset(name for name, origin in tools.origins.items() if origin.is_custom)


def _with_objects(message: Message, custom: frozenset[str]) -> Message:
    """A message whose calls of custom tools have an object as arguments, as those of functions."""
    return _with_arguments(
        message, custom, lambda text: tool_reader.arguments_of(tool_reader.input_of(text))
    )


# --- replies -------------------------------------------------------------------------------


class MixedReply(ChatReply):
    """Writes the input of custom tools as the arguments of their calls.

    In a stream they are held back until the answer ends: before that no one can tell where the
    text within them ends.
    """

    def __init__(self, decision_id: str, request: MixedRequest) -> None:
        super().__init__(decision_id, request)
        self.custom = request.custom
        self._held: dict[int, str] = {}  # the arguments so far, by number of the call

    def whole(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
        answer: Answer = decision.answer
        if answer.message:
            answer = replace(answer, message=_with_inputs(answer.message, self.custom))
        return super().whole(replace(decision, answer=answer), explanation)

    def piece(self, delta: Delta) -> Iterator[bytes]:
        delta = self._without_inputs(delta)
        if delta.finish_reason:
            yield from self._release(delta)
        yield from super().piece(delta)

    def end(
        self, decision: Decision, last: Delta | None, explanation: Mapping[str, Any]
    ) -> Iterator[bytes]:
        if last is not None:
            last = self._without_inputs(last)
            yield from self._release(last)
        yield from super().end(decision, last, explanation)

    def _without_inputs(self, delta: Delta) -> Delta:
        """A delta without the arguments of custom tools, which are kept."""
        if delta.whole:
            return replace(delta, message=_with_inputs(delta.message, self.custom))
        calls = delta.message.get("tool_calls")
        if not calls:
            return delta
        return replace(delta, message={**delta.message, "tool_calls": list(self._kept(calls))})

    def _kept(self, calls: Iterable[Any]) -> Iterator[Any]:
        for call in calls:
            function = call.get("function") if isinstance(call, Mapping) else None
            number = call.get("index", 0) if isinstance(function, Mapping) else None
            if isinstance(function, Mapping) and isinstance(number, int):
                if str(function.get("name")) in self.custom:
                    self._held.setdefault(number, "")
                if number in self._held:
                    self._held[number] += str(function.get("arguments") or "")
                    call = {**call, "function": {**function, "arguments": ""}}
            yield call

    def _release(self, delta: Delta) -> Iterator[bytes]:
        """One chunk with all inputs that were held back."""
        calls = [
            {"index": number, "function": {"arguments": tool_reader.input_of(text)}}
            for number, text in self._held.items()
        ]
        self._held = {}
        if calls:
            yield event(self._chunk(Delta(delta.expert, "", {"tool_calls": calls})))


def _with_inputs(message: Message, custom: frozenset[str]) -> Message:
    """A message whose calls of custom tools have the plain text as arguments."""
    return _with_arguments(message, custom, tool_reader.input_of)


def _with_arguments(
    message: Message, custom: frozenset[str], translated: Callable[[str], str]
) -> Message:
    """A message with the arguments of its calls of custom tools translated."""
    calls = message.get("tool_calls")
    if not custom or not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_changed(call, custom, translated) for call in calls]}


def _changed(call: Any, custom: frozenset[str], translated: Callable[[str], str]) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or str(function.get("name")) not in custom:
        return call
    if not isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": translated(function["arguments"])}}
