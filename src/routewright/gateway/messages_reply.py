"""Writes decisions as Anthropic's messages, whole or as the events of a stream.

The reply of an expert that speaks the protocol is written as it came, with another `id` and the
expert as its `model`. The answer of any other one is translated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from routewright.experts.providers._messages_request import tool_id, tool_input
from routewright.experts.providers._tool_calls import ToolCalls
from routewright.experts.providers._usage import counts
from routewright.gateway.body import ChatRequest
from routewright.gateway.errors import error_event
from routewright.gateway.replies import event
from routewright.types import Answer, Decision, Delta, Message, content_text

STOP_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
# The fields of a chat message that become blocks. All others are passed on unread.
READ = {
    *("role", "content", "refusal", "tool_calls", "function_call", "reasoning_content", "logprobs"),
    *("reasoning", "thinking_blocks", "content_blocks"),
}
Block = dict[str, Any]


class MessagesReply:
    """Writes one decision as a message or as its events.

    The reasoning of an expert becomes a thinking block, without a signature, if the client has
    thinking enabled.
    """

    protocol: ClassVar[str] = "messages"

    def __init__(self, decision_id: str, request: ChatRequest) -> None:
        self.id = f"msg_{decision_id}"
        native = request.query.native
        body = {} if native is None else native.body
        thinking = body.get("thinking") or {}
        self.thinks = thinking.get("type") in ("enabled", "adaptive")
        self.stops = body.get("stop_sequences") or []
        self._is_native = False
        self._is_begun = False
        self._last: Mapping[str, Any] = {}  # the event that ends a native stream
        self._blocks = Blocks(self.thinks)

    def whole(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._message(decision.answer), "routewright": explanation}

    def piece(self, delta: Delta) -> Iterator[bytes]:
        if delta.native:
            self._is_native = True
            for value in delta.native:
                yield from self._native(value, delta.expert)
        elif not self._is_native:
            yield from self._begin(delta.expert)
            yield from map(_named, self._blocks.add(delta.message))

    def end(
        self, decision: Decision, last: Delta | None, explanation: Mapping[str, Any]
    ) -> Iterator[bytes]:
        answer = decision.answer
        if self._is_native or (last is not None and last.native):
            for value in last.native if last else ():
                yield from self._native(value, answer.expert)
            yield from self._begin(answer.expert)
            yield _named({"type": "message_stop", **self._last, "routewright": explanation})
            return
        yield from self._begin(answer.expert)
        if last is not None:
            yield from map(_named, self._blocks.add(last.message))
        yield from map(_named, self._blocks.end())
        delta = self._stop(answer)
        yield _named({"type": "message_delta", "delta": delta, "usage": usage(answer)})
        yield _named({"type": "message_stop", "routewright": explanation})

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return error_event(self.protocol, error)

    # --- as the expert wrote it ---

    def _native(self, value: Mapping[str, Any], expert: str) -> Iterator[bytes]:
        """An event of an expert, or all events of its whole message."""
        if value.get("type") == "message":
            for part in _events_of(value):
                yield from self._native(part, expert)
        elif value.get("type") == "message_stop":
            self._last = value
        elif value.get("type") != "message_start":
            if not self._is_begun and value.get("type") != "ping":
                yield from self._begin(expert)
            yield _named(value)
        elif not self._is_begun:
            self._is_begun = True
            message = {**(value.get("message") or {}), "id": self.id, "model": expert}
            yield _named({**value, "message": message})

    # --- translated ---

    def _message(self, answer: Answer) -> dict[str, Any]:
        own = {"id": self.id, "model": answer.expert}
        if answer.native is not None:
            return {**answer.native, **own}
        blocks = Blocks(self.thinks)
        message: Message = answer.message or {"content": answer.text}
        return {
            **{name: value for name, value in message.items() if name not in READ},
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": answer.expert,
            "content": blocks.whole(message),
            **self._stop(answer),
            "usage": usage(answer),
        }

    def _stop(self, answer: Answer) -> dict[str, Any]:
        """Why the answer ended; vLLM and others tell the stop sequence beside the reason."""
        choices: list[Mapping[str, Any]] = answer.extra.get("choices") or [{}]
        sequence = choices[0].get("stop_reason")
        if isinstance(sequence, str) and sequence in self.stops and answer.finish_reason == "stop":
            return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
        reason = STOP_REASONS.get(answer.finish_reason, "end_turn")
        written: Message = answer.message or {}
        if written.get("tool_calls") and reason == "end_turn":
            reason = "tool_use"
        elif written.get("refusal") and reason == "end_turn":
            reason = "refusal"
        return {"stop_reason": reason, "stop_sequence": None}

    def _begin(self, expert: str) -> Iterator[bytes]:
        """The event that begins a stream, once. The tokens are known at its end."""
        if not self._is_begun:
            self._is_begun = True
            message: dict[str, Any] = {
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "model": expert,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 0, "output_tokens": 0},
            }
            yield _named({"type": "message_start", "message": message})


class Blocks:
    """Makes the blocks of a message from the pieces of a chat answer, as the events of a stream.

    Blocks follow one another. So the pieces of a tool call wait until the call before it is whole.
    """

    def __init__(self, thinks: bool) -> None:
        self.thinks = thinks
        self._index = -1  # of the last block
        self._open: str | None = None  # the kind of the block that is open
        self._calls = ToolCalls()
        self._call = 0  # number of the tool call that is written
        self._written = 0  # fragments of its arguments that have been
        self._waiting: list[tuple[Block, Block]] = []  # texts that wait for its end

    def whole(self, message: Message) -> list[Block]:
        """The blocks of a whole message."""
        blocks: list[Block] = []
        for value in (*self.add(message), *self.end()):
            if value["type"] == "content_block_start":
                blocks.append(dict(value["content_block"]))
            elif value["type"] == "content_block_delta":
                _join(blocks[-1], value["delta"])
        return [_without_text(block) for block in blocks]

    def add(self, message: Message) -> Iterator[dict[str, Any]]:
        """The events for a piece of a message, or for a whole one."""
        thought = message.get("reasoning_content") or message.get("reasoning")
        if self.thinks and isinstance(thought, str) and thought:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            yield from self._write(block, {"type": "thinking_delta", "thinking": thought})
        for text in (content_text(message), message.get("refusal")):
            if isinstance(text, str) and text:
                block = {"type": "text", "text": ""}
                yield from self._write(block, {"type": "text_delta", "text": text})
        if calls := message.get("tool_calls"):
            numbers = enumerate(calls) if isinstance(calls, list | tuple) else ()
            self._calls.add([{"index": number, **call} for number, call in numbers])
            yield from self._write_calls()

    def end(self) -> Iterator[dict[str, Any]]:
        """The events for the end of the message."""
        while self._call < len(self._calls.calls):
            yield from self._write_call()
            yield from self._next_call()
        texts, self._waiting = self._waiting, []
        for block, delta in texts:
            yield from self._write(block, delta)
        yield from self._close()

    def _write(self, block: Block, delta: Block) -> Iterator[dict[str, Any]]:
        """A piece of a text; opens a block of its kind unless that is open."""
        if self._call < len(self._calls.calls):
            if not self._calls.calls[self._call].has_ended:
                self._waiting.append((block, delta))
                return
            yield from self._next_call()
        if self._open != block["type"]:
            yield from self._begin(block)
        yield {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _write_calls(self) -> Iterator[dict[str, Any]]:
        """The pieces of the tool calls that can be written now."""
        calls = self._calls.calls
        while self._call < len(calls):
            yield from self._write_call()
            if self._call == len(calls) - 1 or not calls[self._call].has_ended:
                return
            yield from self._next_call()

    def _next_call(self) -> Iterator[dict[str, Any]]:
        yield from self._close()
        self._call, self._written = self._call + 1, 0

    def _write_call(self) -> Iterator[dict[str, Any]]:
        call = self._calls.calls[self._call]
        if self._open != "tool_use":
            block = {"type": "tool_use", "id": tool_id(call.id), "name": call.name, "input": {}}
            yield from self._begin(block)
        text = "".join(call.arguments[self._written :])
        self._written = len(call.arguments)
        if text:
            delta = {"type": "input_json_delta", "partial_json": text}
            yield {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _begin(self, block: Block) -> Iterator[dict[str, Any]]:
        yield from self._close()
        self._index, self._open = self._index + 1, block["type"]
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._index}


def usage(answer: Answer) -> dict[str, Any]:
    """The tokens of an answer, those of the cache beside the others."""
    written = counts(answer.extra.get("usage")).written
    return {
        "input_tokens": max(0, answer.input_tokens - answer.cached_tokens - written),
        "cache_read_input_tokens": answer.cached_tokens,
        "cache_creation_input_tokens": written,
        "output_tokens": answer.output_tokens,
    }


def _named(value: Mapping[str, Any]) -> bytes:
    return event(value, str(value.get("type", "message")))


def _join(block: Block, delta: Block) -> None:
    """Adds a delta to a block, in place; a tool's input is its text until it is whole."""
    if delta["type"] == "input_json_delta":
        block["input"] = (block["input"] or "") + delta["partial_json"]
    else:
        name = "thinking" if delta["type"] == "thinking_delta" else "text"
        block[name] += delta[name]


def _without_text(block: Block) -> Block:
    if block["type"] != "tool_use":
        return block
    return {**block, "input": tool_input(block["input"])}


# --- a whole message of an expert as events ---------------------------------------------------


def _events_of(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a message that came whole."""
    ends = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    more = {name: message[name] for name in ("stop_details", "container") if message.get(name)}
    start = {**message, "content": [], **dict.fromkeys(ends)}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(message.get("content") or ()):
        empty, deltas = _taken_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {**ends, **more}
    yield {"type": "message_delta", "delta": delta, "usage": message.get("usage") or {}}


def _taken_apart(block: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Block]]:
    """A block without what its deltas bring, and these deltas."""
    kind = block.get("type")
    if kind == "text":
        citations = block.get("citations") or ()
        text: Block = {"type": "text_delta", "text": block.get("text", "")}
        sources = [{"type": "citations_delta", "citation": citation} for citation in citations]
        return {**block, "text": "", **({"citations": []} if citations else {})}, [text, *sources]
    if kind == "thinking":
        thought = {"type": "thinking_delta", "thinking": block.get("thinking", "")}
        signature = {"type": "signature_delta", "signature": block.get("signature", "")}
        return {**block, "thinking": "", "signature": ""}, [thought, signature]
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
        arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": arguments}]
    return block, []
