"""Reads replies of Anthropic's Messages, whole or streamed, as chat completions, which
`_transcript` makes answers of. Nothing here does I/O.

What OpenAI's messages have no field for is kept beside them, where a client may send it back:
signed thinking in `thinking_blocks`, blocks of other kinds in `content_blocks`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routewright.errors import UpstreamError
from routewright.experts.providers import Call, _transcript
from routewright.experts.providers._events import parse
from routewright.experts.providers._transcript import MALFORMED, reported_cost
from routewright.types import Answer, Delta

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
THINKING = ("thinking", "redacted_thinking")
READ = {"type", "role", "content", "stop_reason", "usage", "id", "model", "error"}
Block = Mapping[str, Any]


def answer(call: Call, reply: Any, seconds: float, lost: tuple[str, ...] = ()) -> Answer:
    """A whole message as an Answer; raises UpstreamError if it is not a message."""
    try:
        completion = _completion(reply) if isinstance(reply, Mapping) else {}
    except MALFORMED as error:
        cost = reported_cost(call, reply)
        reason = "its reply is not a message"
        raise UpstreamError(call.expert.name, reason, cost=cost, sent=True) from error
    native = reply if call.native is not None else None
    return replace(_transcript.answer(call, completion, seconds), native=native, lost=lost)


def _completion(reply: Mapping[str, Any]) -> dict[str, Any]:
    """A message as a chat completion; fields that are not read are kept as they are."""
    rest = {name: value for name, value in reply.items() if name not in READ}
    if "error" in reply or reply.get("type") == "error":
        return dict(reply)
    if not isinstance(reply.get("content"), list):
        return {**rest, "usage": reply.get("usage")}  # `_transcript` says what is wrong
    reason = reply.get("stop_reason")
    choice = {
        "message": message(reply["content"]),
        "finish_reason": FINISH_REASONS.get(reason, reason) if reason else None,
        **({"stop_reason": reason} if reason else {}),
    }
    return {**rest, "choices": [choice], "usage": reply.get("usage")}


def message(blocks: Sequence[Block]) -> dict[str, Any]:
    """The blocks of an answer as one chat message."""
    texts = [block.get("text") or "" for block in blocks if block.get("type") == "text"]
    thoughts = [block.get("thinking") or "" for block in blocks if block.get("type") == "thinking"]
    calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
    signed = [dict(block) for block in blocks if block.get("type") in THINKING]
    others = [dict(block) for block in blocks if _is_other(block)]
    citations = [item for block in blocks for item in block.get("citations") or ()]
    fields = {
        "reasoning_content": "".join(thoughts),
        "thinking_blocks": signed,
        "content_blocks": others,
        "citations": citations,
        "tool_calls": calls,
    }
    content = "".join(texts) if texts else None
    present = {name: value for name, value in fields.items() if value}
    return {"role": "assistant", "content": content, **present}


def _is_other(block: Block) -> bool:
    return block.get("type") not in ("text", "tool_use", *THINKING)


def _tool_call(block: Block) -> dict[str, Any]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


class Transcript(_transcript.Transcript):
    """The part of a streamed message that has been received.

    Where the client speaks the protocol itself, every delta carries the events since the last one.
    Until the first content another expert may still answer, so the events before it are held back.
    """

    def __init__(self, call: Call, lost: tuple[str, ...] = ()) -> None:
        super().__init__(call)
        self.lost = lost
        self._blocks: dict[int, dict[str, Any]] = {}  # by index; as far as they are received
        self._inputs: dict[int, list[str]] = {}  # fragments of the arguments of tool calls
        self._tools: dict[int, int] = {}  # index of a block ▶ number of the tool call
        self._message: dict[str, Any] = {}  # fields of the message itself
        self._pending: list[Mapping[str, Any]] = []  # events that no delta has carried yet

    def feed(self, event: Any) -> Iterator[Delta]:
        if not isinstance(event, Mapping) or event.get("error") or event.get("type") == "error":
            yield from super().feed(event)
            return
        name = self.call.expert.name
        try:
            chunk, is_content = self._chunk(event)
        except MALFORMED as error:
            raise UpstreamError(name, "its stream cannot be read", sent=True) from error
        deltas = list(super().feed(chunk))
        if self.call.native is not None:
            self._pending.append(event)
            self.has_content = self.has_content or is_content
            is_end = event.get("type") in ("message_delta", "message_stop")
            if not deltas and self.has_content and not is_end:
                deltas = [Delta(name, "", {})]
        for delta in deltas:
            events, self._pending = tuple(self._pending), []
            yield replace(delta, native=events, lost=self.lost)

    def last(self) -> Delta:
        events, self._pending = tuple(self._pending), []
        return replace(super().last(), native=events, lost=self.lost)

    def answer(self) -> Answer:
        answer = replace(super().answer(), lost=self.lost)
        if self.call.native is None:
            return answer
        content = [self._block(index) for index in sorted(self._blocks)]
        native = {**self._message, "content": content, "usage": self._usage}
        return replace(answer, native=native)

    def _chunk(self, event: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """An event as a chunk of a chat completion, and whether it holds content of any kind."""
        kind, index = event.get("type"), event.get("index", 0)
        if kind == "message":  # instead of a stream
            if not isinstance(event["content"], list):
                raise TypeError("its content is no list")
            self._message, self._blocks = dict(event), dict(enumerate(event["content"]))
            return _completion(event), True
        if kind == "message_start":
            self._message = dict(event["message"])
            rest = {k: v for k, v in self._message.items() if k not in READ and v is not None}
            return {**rest, "usage": _at_start(self._message.get("usage"))}, False
        if kind == "content_block_start":
            return self._begin(index, event["content_block"])
        if kind == "content_block_delta":
            return self._add(index, event["delta"])
        if kind == "content_block_stop":
            return _delta(self._end(index)), False
        if kind == "message_delta":
            return self._finish(event), False
        if kind == "message_stop":
            self.is_done = True
        return {}, False

    def _begin(self, index: int, block: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        self._blocks[index] = dict(block)
        if block.get("citations"):
            self._blocks[index]["citations"] = list(block["citations"])
        kind = block.get("type")
        if kind == "tool_use":
            number = self._tools[index] = len(self._tools)
            function = {"name": block.get("name"), "arguments": ""}
            call = {"index": number, "id": block.get("id"), "type": "function"}
            return _delta({"tool_calls": [{**call, "function": function}]}), True
        if kind == "text":
            return _delta({"content": block.get("text") or ""}), bool(block.get("text"))
        if kind == "thinking":
            thought = block.get("thinking") or ""
            return _delta({"reasoning_content": thought}), bool(thought)
        return _delta({}), True

    def _add(self, index: int, delta: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        block, kind = self._blocks.setdefault(index, {}), delta.get("type")
        if kind == "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
            return _delta({"content": delta["text"]}), True
        if kind == "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
            return _delta({"reasoning_content": delta["thinking"]}), True
        if kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            if not block.get("citations"):
                block["citations"] = []
            block["citations"].append(delta["citation"])
            return _delta({"citations": [delta["citation"]]}), True
        elif kind == "input_json_delta":
            self._inputs.setdefault(index, []).append(delta["partial_json"])
            if index in self._tools:
                function = {"arguments": delta["partial_json"]}
                call = {"index": self._tools[index], "function": function}
                return _delta({"tool_calls": [call]}), True
        return _delta({}), False

    def _end(self, index: int) -> dict[str, Any]:
        """The delta for the end of a block, which tells all of it where a message needs that."""
        block = self._block(index)
        if index in self._tools:
            if "".join(self._inputs.get(index, ())).strip():
                return {}
            function = {"arguments": json.dumps(block.get("input") or {}, ensure_ascii=False)}
            return {"tool_calls": [{"index": self._tools[index], "function": function}]}
        if block.get("type") in THINKING:
            return {"thinking_blocks": [block]}
        return {} if block.get("type") in ("text", None) else {"content_blocks": [block]}

    def _block(self, index: int) -> dict[str, Any]:
        """A block as it stands in a message that is not streamed."""
        block = self._blocks.get(index, {})
        if text := "".join(self._inputs.get(index, ())):
            value = parse(text)
            block = {**block, "input": text if value is None else value}
        return block

    def _finish(self, event: Mapping[str, Any]) -> dict[str, Any]:
        delta = event.get("delta") or {}
        self._message |= {k: v for k, v in {**event, **delta}.items() if k not in ("type", "delta")}
        reason = delta.get("stop_reason")
        choice: dict[str, Any] = {"index": 0, "delta": {}}
        if reason:
            choice |= {"finish_reason": FINISH_REASONS.get(reason, reason), "stop_reason": reason}
        if delta.get("stop_sequence"):
            choice["stop_sequence"] = delta["stop_sequence"]
        return {"choices": [choice], "usage": event.get("usage")}


def _at_start(usage: object) -> object:
    """The usage of a message that begins, without its output: that is a token or so, whatever
    follows, and would be the count of a stream that breaks."""
    if not isinstance(usage, Mapping):
        return usage
    return {name: value for name, value in usage.items() if name != "output_tokens"}


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": message}]}
