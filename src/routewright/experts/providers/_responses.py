"""OpenAI Responses in the terms of chat completions, and back. Nothing here does I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routewright.errors import UpstreamError
from routewright.experts.providers import Call, _transcript
from routewright.experts.providers._events import DONE
from routewright.experts.spending import LIMITS, output_limit
from routewright.types import Answer, Delta, Message

MAKER = "routewright_expert"  # marks an item that only the expert of that name may read
LOGPROBS = "message.output_text.logprobs"
# Fields of a chat request that Responses has no place for.
UNCARRIED = (
    *("stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "audio"),
    *("modalities", "prediction", "functions", "function_call", "web_search_options", "n"),
)
RENAMED = (
    *("messages", "tools", "tool_choice", "response_format", "reasoning_effort", "verbosity"),
    *("logprobs", "stream_options", *LIMITS),
)
TERMINAL = {"response.completed", "response.incomplete"}
FAILED = {"response.failed", "response.cancelled"}
# Events that only open something: until others come, another expert may still answer.
OPENING = {
    *("response.created", "response.in_progress", "response.queued", "keepalive"),
    *("response.output_item.added", "response.content_part.added"),
    *("response.reasoning_summary_part.added",),
}
PIECES = {  # events with a piece of text ▶ the field of a chat delta
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "reasoning_content",
    "response.reasoning_text.delta": "reasoning_content",
}
# Fields of a response that say nothing beyond what the request or the answer says.
OF_RESPONSE = {
    *("id", "object", "created_at", "completed_at", "model", "output", "output_text", "status"),
    *("usage", "error", "incomplete_details", "instructions", "metadata", "parallel_tool_calls"),
    *("temperature", "tool_choice", "tools", "top_p", "top_logprobs", "truncation", "text"),
    *("reasoning", "store", "previous_response_id", "max_output_tokens", "max_tool_calls"),
    *("background", "user", "prompt_cache_key", "safety_identifier", "conversation", "prompt"),
}


# --- requests ------------------------------------------------------------------------------


def request(call: Call) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request to send, without the model, and the names of what it cannot carry."""
    body, lost = _translated(call.body) if call.native is None else _native(call, call.native)
    limits = [output_limit(call.body), body.get("max_output_tokens") or math.inf]
    if (limit := min(limits)) < math.inf:
        body["max_output_tokens"] = int(limit)
    return {**body, "store": False}, lost


def _native(call: Call, native: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The client's own request, with what the config says in chat's words."""
    own = {key: value for key, value in native.items() if key not in RENAMED}
    own |= {key: native[key] for key in ("tools", "tool_choice", "stream_options") if key in native}
    chat = ("reasoning_effort", "verbosity", "response_format")
    said = {key: native[key] for key in chat if key in native}
    own = _with_options(own, said)
    if not isinstance(own.get("input"), list):
        return own, ()
    name = call.expert.name
    items = [item for item in own["input"] if _may_read(name, item)]
    lost = ("reasoning items of another expert",) if len(items) < len(own["input"]) else ()
    own["input"] = [_unmarked(item) for item in items]
    return own, lost


def _may_read(expert: str, item: Mapping[str, Any]) -> bool:
    """Whether an item is no reasoning, or the reasoning of this expert."""
    return item.get("type") != "reasoning" or item.get(MAKER) == expert


def _unmarked(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return {k: value for k, value in item.items() if k != MAKER} if MAKER in item else item


def _translated(body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A chat request as a Responses request."""
    left_out = {*RENAMED, *UNCARRIED}
    own = {key: value for key, value in body.items() if key not in left_out}
    lost = [name for name in UNCARRIED if body.get(name) not in (None, [], {}, 0, 1)]
    own["input"] = [item for message in body["messages"] for item in _items(message, lost)]
    if body.get("tools"):
        own["tools"] = [_flat(tool) for tool in body["tools"]]
    if body.get("tool_choice") is not None:
        own["tool_choice"] = _tool_choice(body["tool_choice"])
    if body.get("logprobs"):
        own["include"] = [*(own.get("include") or []), LOGPROBS]
    return _with_options(own, body), tuple(dict.fromkeys(lost))


def _with_options(own: Mapping[str, Any], chat: Mapping[str, Any]) -> dict[str, Any]:
    """A Responses request with the options of chat that it groups in objects."""
    body = dict(own)
    if (effort := chat.get("reasoning_effort")) is not None:
        body["reasoning"] = {**(body.get("reasoning") or {}), "effort": effort}
    if (verbosity := chat.get("verbosity")) is not None:
        body["text"] = {**(body.get("text") or {}), "verbosity": verbosity}
    form = chat.get("response_format")
    if isinstance(form, Mapping):
        schema = form.get("json_schema")
        inner = schema if isinstance(schema, Mapping) else {}
        body["text"] = {**(body.get("text") or {}), "format": {"type": form.get("type"), **inner}}
    return body


def _items(message: Message, lost: list[str]) -> Iterator[dict[str, Any]]:
    """A chat message as items."""
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        output = _parts(content, lost) if isinstance(content, list) else content or ""
        call = message.get("tool_call_id")
        yield {"type": "function_call_output", "call_id": call, "output": output}
        return
    if role == "assistant":
        text = _text(content) or message.get("refusal")
        if text:
            yield {"role": role, "content": text}
    elif content:
        parts = _parts(content, lost) if isinstance(content, list) else content
        yield {"role": role, "content": parts}
    for call in message.get("tool_calls") or ():
        if isinstance(call, Mapping):
            yield _call_item(call)


def _call_item(call: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(custom := call.get("custom"), Mapping):
        return {"type": "custom_tool_call", "call_id": call.get("id"), **custom}
    function = call.get("function") or {}
    fields = {name: function.get(name) or "" for name in ("name", "arguments")}
    return {"type": "function_call", "call_id": call.get("id"), **fields}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content or () if isinstance(part, Mapping)]
    return "".join(text for text in parts if isinstance(text, str))


def _parts(content: Sequence[Any], lost: list[str]) -> list[dict[str, Any]]:
    """The parts of a chat message; a kind that Responses does not know is left out."""
    parts = []
    for part in content:
        kind = part.get("type")
        inner = part.get(kind) if isinstance(kind, str) else None
        if kind == "text":
            parts.append({"type": "input_text", "text": part.get("text")})
        elif kind == "image_url" and isinstance(inner, Mapping):
            detail = {"detail": inner["detail"]} if inner.get("detail") else {}
            parts.append({"type": "input_image", "image_url": inner.get("url"), **detail})
        elif kind == "file" and isinstance(inner, Mapping):
            parts.append({"type": "input_file", **inner})
        elif kind == "input_audio":
            parts.append(dict(part))
        else:
            lost.append(f"{str(kind)[:60]} parts")
    return parts


def _flat(tool: Any) -> Any:
    """A chat tool as Responses writes it, without the object inside."""
    inner = tool.get(tool.get("type")) if isinstance(tool, Mapping) else None
    return {"type": tool["type"], **inner} if isinstance(inner, Mapping) else tool


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, Mapping) and isinstance(allowed := choice.get("allowed_tools"), Mapping):
        tools = [_flat(tool) for tool in allowed.get("tools") or ()]
        return {"type": "allowed_tools", **allowed, "tools": tools}
    return _flat(choice)


# --- replies -------------------------------------------------------------------------------


def answer(call: Call, reply: Any, seconds: float) -> Answer:
    """A response as an Answer; raises UpstreamError if it is none, or failed."""
    is_response = isinstance(reply, Mapping) and isinstance(reply.get("output"), list)
    if not is_response and not (isinstance(reply, Mapping) and reply.get("error")):
        raise UpstreamError(call.expert.name, "its reply is not a response", sent=True)
    read = _transcript.answer(call, completion(reply), seconds)
    native = reply if call.native is not None else None
    return replace(read, native=native, lost=request(call)[1])


def completion(response: Mapping[str, Any]) -> dict[str, Any]:
    """A response as a chat completion."""
    if failure := _failure(response):
        return failure
    output = response.get("output")
    items = [i for i in output or () if isinstance(i, Mapping)] if isinstance(output, list) else []
    message: dict[str, Any] = {"role": "assistant", "content": _texts(items, "output_text")}
    if refusal := _texts(items, "refusal"):
        message["refusal"] = refusal
    if reasoning := _reasoning(items):
        message["reasoning_content"] = reasoning
    if calls := [call for call in map(_tool_call, items) if call is not None]:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    extra = {key: value for key, value in response.items() if key not in OF_RESPONSE}
    extra = {key: value for key, value in extra.items() if value is not None}
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(response, message)}
    return {**extra, "choices": [choice], "usage": usage(response.get("usage"))}


def usage(reported: Any) -> dict[str, Any] | None:
    """The usage of a response in chat's names; fields that are not known stay."""
    if not isinstance(reported, Mapping):
        return None
    names = {
        "input_tokens": "prompt_tokens",
        "output_tokens": "completion_tokens",
        "input_tokens_details": "prompt_tokens_details",
        "output_tokens_details": "completion_tokens_details",
    }
    return {names.get(str(name), str(name)): value for name, value in reported.items()}


def _failure(response: Mapping[str, Any]) -> dict[str, Any] | None:
    """The error object of a response that is no answer."""
    status, error = response.get("status", "completed"), response.get("error")
    if not error and status in ("completed", "incomplete", None):
        return None
    error = error or {"message": f"its response is {str(status)[:60]}"}
    return {"error": error, "usage": usage(response.get("usage"))}


def _finish_reason(response: Mapping[str, Any], message: Message) -> str:
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, Mapping) else None
        return "content_filter" if reason == "content_filter" else "length"
    return "tool_calls" if message.get("tool_calls") else "stop"


def _texts(items: Sequence[Mapping[str, Any]], kind: str) -> str:
    """The texts of all parts of one kind in the messages."""
    field = "refusal" if kind == "refusal" else "text"
    contents = [i.get("content") for i in items if i.get("type", "message") == "message"]
    parts = [p for content in contents if isinstance(content, list) for p in content]
    texts = [p.get(field) for p in parts if isinstance(p, Mapping) and p.get("type") == kind]
    return "".join(text for text in texts if isinstance(text, str))


def _reasoning(items: Sequence[Mapping[str, Any]]) -> str:
    """What reasoning items say: their text, or else its summary."""
    texts = []
    for item in items:
        if item.get("type") == "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            texts += [p.get("text") for p in parts if isinstance(p, Mapping)]
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _tool_call(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """The call of a function or of a custom tool as chat writes it."""
    kind = item.get("type")
    if kind == "function_call":
        arguments = item.get("arguments") or ""
    elif kind == "custom_tool_call":
        arguments = json.dumps({"input": item.get("input") or ""}, ensure_ascii=False)
    else:
        return None
    function = {"name": item.get("name") or "", "arguments": arguments}
    return {"id": item.get("call_id"), "type": "function", "function": function}


# --- streams -------------------------------------------------------------------------------


class Transcript(_transcript.Transcript):
    """The part of a streamed response that has been received, as events and as chat deltas."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.lost = request(call)[1]
        self.response: dict[str, Any] | None = None  # of the event that ends the stream
        self._events: list[Mapping[str, Any]] = []  # that no delta has carried yet
        self._items: dict[Any, Any] = {}  # whole items by output_index
        self._numbers: dict[Any, int] = {}  # output_index of a call ▶ its number
        self._with_arguments: set[Any] = set()

    def feed(self, event: Any) -> Iterator[Delta]:
        if event == DONE or not isinstance(event, Mapping):
            yield from super().feed(event)
            return
        kind = event.get("type")
        try:
            chunk = self._chunk(event, kind)
        except _transcript.MALFORMED as error:
            name = self.call.expert.name
            raise UpstreamError(name, "its stream cannot be read", sent=True) from error
        deltas = [] if chunk is None else list(super().feed(chunk))
        if self.call.native is not None and _is_no_failure(chunk):
            self._events.append(event)
            if kind in TERMINAL:  # `last` carries it
                deltas = [delta for delta in deltas if delta.message]
            elif not deltas and (self.has_content or self._is_content(event, kind)):
                self.has_content = True
                deltas = [Delta(self.call.expert.name, "", {})]
        for delta in deltas:
            events = () if kind in TERMINAL else self._take()
            yield replace(delta, native=events, lost=self.lost)

    def is_complete(self, has_ended: bool) -> bool:
        """Whether the event has come that ends every whole response."""
        return self.response is not None

    def last(self) -> Delta:
        return replace(super().last(), native=self._take(), lost=self.lost)

    def answer(self) -> Answer:
        native = self.response if self.call.native is not None else None
        return replace(super().answer(), native=native, lost=self.lost)

    def _take(self) -> tuple[Mapping[str, Any], ...]:
        events, self._events = tuple(self._events), []
        return events

    def _is_content(self, event: Mapping[str, Any], kind: Any) -> bool:
        """Whether an event tells of something that the model did, beside its words and calls."""
        if kind == "response.output_item.added":
            item = event.get("item")
            inner = item.get("type") if isinstance(item, Mapping) else None
            return inner not in ("message", "reasoning", "function_call", "custom_tool_call", None)
        return isinstance(kind, str) and kind.startswith("response.") and kind not in OPENING

    def _chunk(self, event: Mapping[str, Any], kind: Any) -> dict[str, Any] | None:
        """An event as a chat chunk; None if chat has nothing like it."""
        if kind in PIECES:
            return _delta({PIECES[kind]: event.get("delta")}, event)
        if kind == "response.function_call_arguments.delta":
            return self._arguments(event, event.get("delta"))
        if kind == "response.output_item.added":
            return self._begun(event)
        if kind == "response.output_item.done":
            return self._ended(event)
        if kind in TERMINAL:
            return self._end(event["response"])
        if kind in FAILED:
            return _failure({"status": "failed", **event["response"]})
        if kind == "error" or event.get("error"):
            return {"error": event.get("error") or event}
        return None

    def _begun(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        item, place = event["item"], event.get("output_index")
        if item.get("type") != "function_call":
            return None
        self._numbers[place] = len(self._numbers)
        function = {"name": item.get("name") or "", "arguments": item.get("arguments") or ""}
        if function["arguments"]:
            self._with_arguments.add(place)
        call = {"index": self._numbers[place], "id": item.get("call_id"), "type": "function"}
        return _delta({"tool_calls": [{**call, "function": function}]})

    def _arguments(self, event: Mapping[str, Any], text: Any) -> dict[str, Any] | None:
        place = event.get("output_index")
        if place not in self._numbers:
            return None
        self._with_arguments.add(place)
        call = {"index": self._numbers[place], "function": {"arguments": text}}
        return _delta({"tool_calls": [call]})

    def _ended(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """The call of an item that has ended, as far as its deltas did not tell of it."""
        item, place = event["item"], event.get("output_index")
        self._items[place] = item
        call = _tool_call(item)
        if call is None or place in self._with_arguments:
            return None
        if place in self._numbers:
            return self._arguments(event, call["function"]["arguments"])
        self._numbers[place] = len(self._numbers)
        return _delta({"tool_calls": [{**call, "index": self._numbers[place]}]})

    def _end(self, response: Mapping[str, Any]) -> dict[str, Any]:
        self.response = dict(response)
        if not response.get("output") and self._items:
            self.response["output"] = [self._items[place] for place in sorted(self._items, key=str)]
        chat = completion(self.response)
        if "choices" not in chat:
            return chat
        self.is_done = True
        (choice,) = chat["choices"]
        message = dict(choice["message"]) if not self.has_content else {}
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [{**call, "index": i} for i, call in enumerate(calls)]
        choice = {"index": 0, "delta": message, "finish_reason": choice["finish_reason"]}
        return {**chat, "choices": [choice]}


def _is_no_failure(chunk: Mapping[str, Any] | None) -> bool:
    return chunk is None or "error" not in chunk


def _delta(delta: dict[str, Any], event: Mapping[str, Any] | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta}
    if event is not None and event.get("logprobs"):
        choice["logprobs"] = {"content": event["logprobs"]}
    return {"choices": [choice]}
