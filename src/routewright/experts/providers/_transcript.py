"""Reads OpenAI chat completions, whole or streamed, into answers. Nothing here does I/O."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routewright.errors import UpstreamError
from routewright.experts.providers import Call, input_tokens, output_text, tokens, with_logprobs
from routewright.types import Answer, Delta, Message, content_text

# The exceptions that a reply of another shape than the documented one raises when it is read.
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
USAGE_KEYS = ("prompt_tokens", "completion_tokens")
NEUTRAL_KEYS = {"role", "content", "refusal"}  # keys that a delta may have without any content


def parse(raw: bytes | str) -> Any:
    """Parses the JSON of an upstream; None if it is not JSON.

    NaN and Infinity become None. Python would accept them, but they are not JSON, and a client's
    own parser would refuse them.
    """
    try:
        return json.loads(raw, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def answer(call: Call, completion: Mapping[str, Any], seconds: float) -> Answer:
    """A chat completion as an Answer; raises UpstreamError if it is not a chat completion."""
    try:
        choice = completion["choices"][0]
        message = with_logprobs(choice["message"], choice)
        finish_reason = choice.get("finish_reason") or "stop"
        first = _answer(call, message, finish_reason, completion.get("usage"), seconds)
        return _with_choices(call, first, completion["choices"])
    except MALFORMED as error:
        reason = _error_message(completion) or "its reply is not a chat completion"
        cost = reported_cost(call, completion)
        raise UpstreamError(call.expert.name, reason, cost=cost, sent=True) from error


def _with_choices(call: Call, first: Answer, choices: Sequence[Mapping[str, Any]]) -> Answer:
    """The first choice; if the request asked for several, with the texts and tokens of all."""
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


def reported_cost(call: Call, body: object) -> float:
    """The US$ of a reply without an answer: 0, unless the reply reports usage."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    try:
        return call.expert.price(*_counts(usage)) if usage else 0.0
    except MALFORMED:
        return 0.0


class Transcript:
    """The part of a streamed answer that has been received."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.began = time.monotonic()
        self.message: dict[str, Any] = {"role": "assistant", "content": None}
        self.usage: Mapping[str, Any] | None = None
        self.finish_reason: str | None = None
        self.pending: list[Delta] = []
        self.has_content = False

    def feed(self, event: str) -> Iterator[Delta]:
        """Reads an event and yields the deltas that may be passed on.

        Deltas without content are held back until the first delta with content, because until
        then another expert may still answer.
        """
        try:
            self._read(_parse(self.call, event))
        except MALFORMED as error:
            raise UpstreamError(self.call.expert.name, "its stream cannot be read") from error
        if self.has_content:
            yield from self.pending
            self.pending.clear()

    def _read(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("usage"):
            _counts(chunk["usage"])  # raises now, rather than at the end, if it is malformed
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
            self.pending.append(piece)
            self.has_content = self.has_content or _has_content(piece)

    def answer(self) -> Answer:
        """The answer, as far as it has been received."""
        seconds = time.monotonic() - self.began
        return _answer(self.call, self.message, self.finish_reason or "stop", self.usage, seconds)


def merge(message: dict[str, Any], delta: Message) -> None:
    """Adds a delta to its message: appends texts, and merges tool calls by their index."""
    for key, value in delta.items():
        if value is None or key == "role":
            continue
        if key == "tool_calls":
            calls = message.setdefault(key, [])
            for piece in value:
                _merge_call(calls, piece)
        elif key == "logprobs":
            logprobs = message.setdefault(key, {"content": []})
            logprobs["content"].extend(value.get("content") or [])
        elif isinstance(value, str) and isinstance(message.get(key), str):
            message[key] += value
        else:
            message[key] = value


def _merge_call(calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
    index = piece.get("index", len(calls))
    while len(calls) <= index < 1000:
        calls.append({"function": {"name": "", "arguments": ""}})
    call, function = calls[index], piece.get("function") or {}
    call.update({key: piece[key] for key in ("id", "type") if piece.get(key)})
    for part in ("name", "arguments"):
        call["function"][part] += function.get(part) or ""


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, up to `[DONE]`. Lines may have any length."""
    rest: list[bytes] = []  # the chunks of an incomplete line, joined once
    async for chunk in chunks:
        if b"\n" not in chunk:
            rest.append(chunk)
            continue
        *lines, last = b"".join([*rest, chunk]).split(b"\n")
        rest = [last]
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # a comment, an event's name or the blank line between events
            data = line[5:].strip().decode(errors="replace")
            if data == "[DONE]":
                return
            yield data


def _has_content(piece: Delta) -> bool:
    return bool(
        piece.text
        or piece.finish_reason
        or any(value for key, value in piece.message.items() if key not in NEUTRAL_KEYS)
        or piece.message.get("refusal")
    )


def _parse(call: Call, event: str) -> Mapping[str, Any]:
    chunk = parse(event)
    if not isinstance(chunk, dict) or "error" in chunk:
        raise UpstreamError(call.expert.name, _error_message(chunk) or "its stream cannot be read")
    return chunk


def _error_message(body: object) -> str | None:
    """The message of an OpenAI error object; None if the body is not one."""
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
    usage = usage or {}
    sent, received, cached = _counts(usage)
    unknown = [key for key in USAGE_KEYS if usage.get(key) is None]
    if "prompt_tokens" in unknown:
        sent = input_tokens(call.body)
    if "completion_tokens" in unknown:
        received = tokens(output_text(message))
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
    """The input, output and cached input tokens of a usage object; none is negative."""
    details = usage.get("prompt_tokens_details") or {}
    sent = max(0, int(usage.get("prompt_tokens") or 0))
    received = max(0, int(usage.get("completion_tokens") or 0))
    cached = max(0, int(details.get("cached_tokens") or 0))
    return sent, received, min(cached, sent)


def _logprobs(message: Message) -> tuple[float, ...] | None:
    """The log-probabilities in nats; None if there are none or they cannot be read."""
    try:
        content = message["logprobs"]["content"]
        return tuple(float(token["logprob"]) for token in content) or None
    except MALFORMED:
        return None
