"""OpenAI chat completions read into answers, whole or piece by piece; pure."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routewright.errors import UpstreamError
from routewright.experts.providers import Call, input_tokens, said, tokens, with_logprobs
from routewright.types import Answer, Delta, Message, content_text

# What reading a reply of any other shape than the documented one raises.
NONSENSE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
COUNTED = ("prompt_tokens", "completion_tokens")
SILENT = {"role", "content", "refusal"}  # keys that a delta may have without saying anything


def parse(written: bytes | str) -> Any:
    """The JSON that an upstream wrote, None if it is none.

    Python would also read NaN and Infinity, which are no JSON and which a client's own parser
    would not take from us: they are unknown, null.
    """
    try:
        return json.loads(written, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def answer(call: Call, completion: Mapping[str, Any], seconds: float) -> Answer:
    """A chat completion as an Answer; raises UpstreamError if it is none."""
    try:
        choice = completion["choices"][0]
        message = with_logprobs(choice["message"], choice)
        finish_reason = choice.get("finish_reason") or "stop"
        first = _answer(call, message, finish_reason, completion.get("usage"), seconds)
        return _with_choices(call, first, completion["choices"])
    except NONSENSE as error:
        reason = _complaint(completion) or "its reply is not a chat completion"
        cost = paid(call, completion)
        raise UpstreamError(call.expert.name, reason, cost=cost, sent=True) from error


def _with_choices(call: Call, first: Answer, choices: Sequence[Mapping[str, Any]]) -> Answer:
    """The first choice, and the texts of all where a request asked for several."""
    if not call.body.get("n"):
        return first
    texts = tuple(content_text(choice["message"]) for choice in choices)
    more = sum(tokens(text) for text in texts[1:]) if first.estimated else 0
    return replace(
        first,
        choices=texts,
        output_tokens=first.output_tokens + more,
        cost=first.cost + call.expert.price(0, more),
    )


def paid(call: Call, body: object) -> float:
    """US$ that a reply without an answer cost: nothing, unless it names its usage."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    try:
        return call.expert.price(*_counts(usage)) if usage else 0.0
    except NONSENSE:
        return 0.0


class Transcript:
    """A streamed answer as far as it has been heard."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.began = time.monotonic()
        self.message: dict[str, Any] = {"role": "assistant", "content": None}
        self.usage: Mapping[str, Any] | None = None
        self.finish_reason: str | None = None
        self.held: list[Delta] = []
        self.begun = False

    def feed(self, event: str) -> Iterator[Delta]:
        """The deltas that an event lets pass.

        Deltas that say nothing wait for the first that does: until then somebody else may
        still answer.
        """
        try:
            self._read(_parse(self.call, event))
        except NONSENSE as error:
            raise UpstreamError(self.call.expert.name, "its stream makes no sense") from error
        if self.begun:
            yield from self.held
            self.held.clear()

    def _read(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("usage"):
            _counts(chunk["usage"])  # nonsense is better found now than at the end
            self.usage = chunk["usage"]
        for choice in (chunk.get("choices") or [])[:1]:
            delta = with_logprobs(choice.get("delta") or {}, choice)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            merge(self.message, delta)
            piece = Delta(
                self.call.expert.name,
                content_text(delta),
                delta,
                choice.get("finish_reason"),
            )
            self.held.append(piece)
            self.begun = self.begun or _says_something(piece)

    def answer(self) -> Answer:
        seconds = time.monotonic() - self.began
        return _answer(self.call, self.message, self.finish_reason or "stop", self.usage, seconds)


def merge(message: dict[str, Any], delta: Message) -> None:
    """Adds a delta to the message it belongs to: text is appended, tool calls go by index."""
    for key, value in delta.items():
        if value is None or key == "role":
            continue
        if key == "tool_calls":
            calls = message.setdefault(key, [])
            for piece in value:
                _merge_call(calls, piece)
        elif key == "logprobs":
            known = message.setdefault(key, {"content": []})
            known["content"].extend(value.get("content") or [])
        elif isinstance(value, str) and isinstance(message.get(key), str):
            message[key] += value
        else:
            message[key] = value


def _merge_call(calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
    place = piece.get("index", len(calls))
    while len(calls) <= place < 1000:
        calls.append({"function": {"name": "", "arguments": ""}})
    call, function = calls[place], piece.get("function") or {}
    call.update({key: piece[key] for key in ("id", "type") if piece.get(key)})
    for part in ("name", "arguments"):
        call["function"][part] += function.get(part) or ""


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, up to `[DONE]`. Lines may be of any length."""
    rest: list[bytes] = []  # of a line, joined once: a long one comes in many chunks
    async for chunk in chunks:
        if b"\n" not in chunk:
            rest.append(chunk)
            continue
        *lines, last = b"".join([*rest, chunk]).split(b"\n")
        rest = [last]
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments, event names and the blank line between events
            data = line[5:].strip().decode(errors="replace")
            if data == "[DONE]":
                return
            yield data


def _says_something(piece: Delta) -> bool:
    return bool(
        piece.text
        or piece.finish_reason
        or any(value for key, value in piece.message.items() if key not in SILENT)
        or piece.message.get("refusal")
    )


def _parse(call: Call, event: str) -> Mapping[str, Any]:
    chunk = parse(event)
    if not isinstance(chunk, dict) or "error" in chunk:
        raise UpstreamError(call.expert.name, _complaint(chunk) or "its stream makes no sense")
    return chunk


def _complaint(body: object) -> str | None:
    """What an OpenAI error object says, if this is one."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        return str(error.get("message") or error.get("code") or "unknown error")
    return str(error) if error else None


def _answer(
    call: Call,
    message: Message,
    finish_reason: str,
    usage: Mapping[str, Any] | None,
    seconds: float,
) -> Answer:
    expert = call.expert
    told = usage or {}
    sent, received, cached = _counts(told)
    unknown = [key for key in COUNTED if told.get(key) is None]
    if "prompt_tokens" in unknown:
        sent = input_tokens(call.body)
    if "completion_tokens" in unknown:
        received = tokens(said(message))
    return Answer(
        expert.name,
        content_text(message),
        cost=expert.price(sent, received, cached),
        latency=seconds,
        input_tokens=sent,
        cached_tokens=cached,
        output_tokens=received,
        finish_reason=finish_reason,
        message=message,
        logprobs=_logprobs(message),
        estimated=bool(unknown),
    )


def _counts(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Input, output and cached input tokens; never negative."""
    details = usage.get("prompt_tokens_details") or {}
    sent = max(0, int(usage.get("prompt_tokens") or 0))
    received = max(0, int(usage.get("completion_tokens") or 0))
    cached = max(0, int(details.get("cached_tokens") or 0))
    return sent, received, min(cached, sent)


def _logprobs(message: Message) -> tuple[float, ...] | None:
    """None also where they cannot be read: the answer is no worse for it."""
    try:
        content = message["logprobs"]["content"]
        return tuple(float(token["logprob"]) for token in content) or None
    except NONSENSE:
        return None
