"""Reads OpenAI chat completions, whole or streamed, into answers. Nothing here does I/O."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routewright.errors import UpstreamError
from routewright.experts.providers import (
    Call,
    _faults,
    input_tokens,
    output_text,
    tokens,
    with_logprobs,
)
from routewright.experts.providers._events import DONE
from routewright.experts.providers._tool_calls import ToolCalls, arguments_text, join
from routewright.experts.providers._usage import counts, merged
from routewright.types import Answer, Delta, Message, content_text

# The exceptions that a reply of another shape than the documented one raises when it is read.
MALFORMED = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError),
    RecursionError,  # hundreds of levels of objects and lists
)
MOST_TEXT = 64 << 20  # characters of a streamed answer
EMPTY: tuple[Any, ...] = (None, "", [], {})
UNFINISHED = {"", "null", "none"}  # finish reasons that some upstreams write for "not yet"
# The fields of a completion and of its choice that are read; all others are passed on unread.
MOST_CHARACTERS = 8  # of a token, in the mean of a text
READ = {"id", "object", "created", "model", "choices", "usage", "error", "routewright"}
READ_OF_CHOICE = {
    "index",
    "message",
    "delta",
    "text",
    "finish_reason",
    "logprobs",
    "usage",
    "error",
}


def answer(call: Call, completion: Mapping[str, Any], seconds: float) -> Answer:
    """A chat completion as an Answer; raises UpstreamError if it is not a chat completion."""
    try:
        if failure := stated_failure(call, completion):
            raise failure
        choices = sorted(completion["choices"], key=_index)
        choice = choices[0]
        message = _message(choice)
        reason = _finish_reason(choice) or _default_reason(message)
        if reason == "error":
            raise ValueError(reason)
        usage = _usage(completion, choice)
        extra = _extra(completion, choice, usage)
        first = _answer(call, with_logprobs(message, choice), reason, usage, seconds, extra)
        return _with_choices(call, first, choices)
    except MALFORMED as error:
        reason = "its reply is not a chat completion"
        cost = reported_cost(call, completion)
        raise UpstreamError(call.expert.name, reason, cost=cost, sent=True) from error


def embeddings(call: Call, reply: Mapping[str, Any], seconds: float) -> Answer:
    """The reply of an embeddings endpoint; raises UpstreamError if it is none.

    Its message holds the whole reply, without `model` and `usage`.
    """
    try:
        if failure := stated_failure(call, reply):
            raise failure
        rows, texts = reply["data"], call.body["input"]
        number = len(texts) if _is_batch(texts) else 1
        if len(rows) != number or any(not row["embedding"] for row in rows):
            raise ValueError("embeddings are missing")
    except MALFORMED as error:
        reason = "its reply holds no embeddings"
        cost = reported_cost(call, reply)
        raise UpstreamError(call.expert.name, reason, cost=cost, sent=True) from error
    reported = reply.get("usage")
    usage = dict(reported) if isinstance(reported, Mapping) else {}
    message = {key: value for key, value in reply.items() if key not in ("model", "usage")}
    counted, sent = counts(usage), input_tokens(call.body)
    tokens_sent = counted.sent or sent
    return Answer(
        call.expert.name,
        cost=call.expert.price(tokens_sent, 0),
        latency=seconds,
        input_tokens=tokens_sent,
        message=message,
        estimated=counted.sent is None,
        extra={"usage": usage} if usage else {},
    )


def _is_batch(texts: Any) -> bool:
    """Whether the `input` of embeddings is several texts, and not one text or its tokens."""
    return isinstance(texts, list) and not isinstance(texts[0], int)


def _with_choices(call: Call, first: Answer, choices: Sequence[Mapping[str, Any]]) -> Answer:
    """The first choice; if the request asked for several, with the texts and tokens of all.

    Some servers, as llama.cpp's, report the tokens of the first choice alone: the others are
    estimated where the report is less than what all texts must have taken.
    """
    if not call.body.get("n"):
        return first
    texts = tuple(content_text(_message(choice)) for choice in choices)
    least = sum(max(1, len(text) // MOST_CHARACTERS) for text in texts if text)
    misses = first.estimated or first.output_tokens < least
    more = sum(tokens(text) for text in texts[1:]) if misses else 0
    return replace(
        first,
        choices=texts,
        output_tokens=first.output_tokens + more,
        cost=first.cost + call.expert.price(0, more),
        estimated=first.estimated or more > 0,
    )


def reported_cost(call: Call, body: object) -> float:
    """The US$ of a reply without an answer: 0, unless the reply reports usage."""
    usage = counts(body.get("usage") if isinstance(body, Mapping) else None)
    sent, received = usage.sent or 0, usage.received or 0
    return call.expert.price(sent, received, usage.cached, usage.written)


class Transcript:
    """The part of a streamed answer that has been received.

    `has_content` tells whether it has any content, `is_done` whether the upstream has said that
    nothing follows, and `finished_at` when it gave a finish reason that no content has followed.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.began = time.monotonic()
        self.finish_reason: str | None = None
        self.finished_at: float | None = None
        self.has_content = False
        self.is_done = False
        self._index: int | None = None  # of the choice that is read
        self._texts: defaultdict[str, list[str]] = defaultdict(list)  # field ▶ its fragments
        self._fields: dict[str, Any] = {}  # fields of the message other than texts
        self._calls = ToolCalls()
        self._usage: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._unsent: dict[str, Any] = {}  # the part of `extra` that no delta has carried yet
        self._size = 0

    def feed(self, event: Any) -> Iterator[Delta]:
        """Reads an event (see EventReader) and yields the delta that may be passed on, if any.

        Chunks without content are not passed on: until the first content another expert may still
        answer. The finish reason is passed on at the end, by `last`, wherever it stood.
        """
        name = self.call.expert.name
        if event == DONE:
            self.is_done = True
            return
        if not isinstance(event, Mapping):
            raise UpstreamError(name, f"its stream cannot be read: {str(event)[:200]}", sent=True)
        try:
            if failure := stated_failure(self.call, event):
                raise failure
            delta = self._read(event)
        except MALFORMED as error:
            raise UpstreamError(name, "its stream cannot be read", sent=True) from error
        if self._size > MOST_TEXT:
            reason = f"its answer is longer than {MOST_TEXT >> 20} Mi characters"
            raise UpstreamError(name, reason, sent=True)
        if delta is not None:
            yield delta

    def _read(self, chunk: Mapping[str, Any]) -> Delta | None:
        choice = self._choice(chunk)
        self._usage = merged(self._usage, _usage(chunk, choice))
        extra = _extra(chunk, choice)
        self._extra, self._unsent = _updated(self._extra, extra), _updated(self._unsent, extra)
        message = self._normalised(self._delta(chunk, choice))
        has_content = any(value not in EMPTY for key, value in message.items() if key != "role")
        reason = _finish_reason(choice)
        if has_content:
            self.has_content, self.finished_at = True, None
        if reason:
            self.finished_at = None if reason == "error" else time.monotonic()
            if reason != "stop" or self.finish_reason is None:
                self.finish_reason = reason
        if not has_content:
            return None
        extra = {}
        if not reason:  # otherwise `last` carries it, beside the finish reason
            extra, self._unsent = self._unsent, {}
        return Delta(self.call.expert.name, content_text(message), message, extra=extra)

    def _choice(self, chunk: Mapping[str, Any]) -> Mapping[str, Any]:
        """The choice of the one answer that is read, although a chunk may hold several."""
        choices = chunk.get("choices")
        choices = [choice for choice in choices or () if isinstance(choice, Mapping)]
        if self._index is None and choices:
            self._index = min(map(_index, choices))
        return next((choice for choice in choices if _index(choice) == self._index), {})

    def _delta(self, chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> Message:
        """The delta of a choice. A whole message counts only if no delta has come before it."""
        delta = choice.get("delta")
        if not delta and isinstance(choice.get("message"), Mapping):
            if str(chunk.get("object")).endswith("chunk"):
                delta = choice["message"]
            else:
                self.is_done = True
                delta = {} if self.has_content else _message(choice)
        if not delta and choice.get("text"):
            delta = {"content": choice["text"]}
        if isinstance(delta, str):
            delta = {"content": delta}
        return with_logprobs(delta or {}, choice)

    def _normalised(self, delta: Message) -> dict[str, Any]:
        """The delta as OpenAI writes it, after it has been added to the answer."""
        message = _with_text(delta)
        message.pop("role", None)  # of the first chunk that the client gets
        if message.get("tool_calls"):
            message["tool_calls"] = self._calls.add(message["tool_calls"])
        for key, value in message.items():
            if isinstance(value, str):
                self._texts[key].append(value)
                self._size += len(value)
            elif value is not None and key != "tool_calls":
                join(self._fields, {key: value})
        return message

    def is_complete(self, has_ended: bool) -> bool:
        """Whether the answer is whole. `has_ended` means that the connection ended in order.

        An upstream that gives no finish reason must end in order after some content; if it does
        not say [DONE] either, its tool calls must be whole.
        """
        if self.finish_reason == "error":
            return False
        if self.finish_reason is not None:
            return self.finished_at is not None or self.is_done or has_ended
        if not self.has_content:
            return False
        return self.is_done or (has_ended and all(call.is_whole for call in self._calls.calls))

    def last(self) -> Delta:
        """The last delta, with the finish reason and the fields that no other delta carried."""
        name, reason = self.call.expert.name, self.answer().finish_reason
        return Delta(name, "", {}, reason, extra=self._unsent)

    def answer(self) -> Answer:
        """The answer, as far as it has been received."""
        message: dict[str, Any] = {"role": "assistant", "content": None, **self._fields}
        for key, texts in self._texts.items():
            message[key] = "".join(texts)
        if self._calls.calls:
            message["tool_calls"] = self._calls.messages()
        reason = self.finish_reason or _default_reason(message)
        seconds = time.monotonic() - self.began
        extra = {**self._extra, **({"usage": self._usage} if self._usage else {})}
        return _answer(self.call, message, reason, self._usage, seconds, extra)


# --- messages ------------------------------------------------------------------------------


def _message(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The message of a choice that is not streamed, as OpenAI writes it."""
    message = choice.get("message")
    if message is None:
        message = choice.get("delta") or {"content": choice["text"]}
    message = {**_with_text(message), "role": message.get("role") or "assistant"}
    calls = message.get("tool_calls")
    if calls:
        calls = [calls] if isinstance(calls, Mapping) else calls
        message["tool_calls"] = [_tool_call(call) for call in calls]
    return message


def _tool_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return call
    arguments = arguments_text(function.get("arguments"))
    return {**call, "function": {**function, "arguments": arguments}}


def _with_text(message: Message) -> dict[str, Any]:
    """The message with its content as one text, as OpenAI writes it.

    Some upstreams write a list of parts, with the model's reasoning among them, or JSON itself.
    A list that holds other parts, such as images, stays as it is.
    """
    message = dict(message)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    parts = content if isinstance(content, list) else [content]
    texts = [_part_text(part, ("text", "output_text"), "text") for part in parts]
    thoughts = [_part_text(part, ("thinking", "reasoning"), "thinking", "text") for part in parts]
    if (None, None) not in zip(texts, thoughts, strict=True):
        message["content"] = "".join(text for text in texts if text is not None)
        if any(thoughts):
            reasoning = "".join(thought for thought in thoughts if thought)
            message["reasoning_content"] = (message.get("reasoning_content") or "") + reasoning
    elif not isinstance(content, list):
        message["content"] = arguments_text(content)
    return message


def _part_text(part: object, kinds: Sequence[str], *keys: str) -> str | None:
    """The text of a part of one of these kinds; None if it is another part."""
    if isinstance(part, str):
        return part if "text" in kinds else None
    if not isinstance(part, Mapping) or part.get("type", kinds[0]) not in kinds:
        return None
    if any(value not in EMPTY for key, value in part.items() if key not in ("type", *keys)):
        return None
    value = next((part[key] for key in keys if key in part), None)
    if isinstance(value, list):
        texts = [_part_text(item, ("text",), "text") for item in value]
        return None if None in texts else "".join(text for text in texts if text)
    return value if isinstance(value, str) else None


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason.lower() not in UNFINISHED else None


def _default_reason(message: Message) -> str:
    """The finish reason of a whole answer that an upstream sends without one."""
    if message.get("tool_calls"):
        return "tool_calls"
    return "function_call" if message.get("function_call") else "stop"


# --- fields that are passed on unread ------------------------------------------------------


def _extra(
    completion: Mapping[str, Any],
    choice: Mapping[str, Any],
    usage: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields that Routewright does not read, in the shape of a completion (`Answer.extra`)."""
    extra = {key: value for key, value in completion.items() if key not in READ}
    rest = {key: value for key, value in choice.items() if key not in READ_OF_CHOICE}
    if rest:
        extra["choices"] = [rest]
    if usage:
        extra["usage"] = usage
    return extra


def _updated(extra: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` with that of a further chunk. Null does not replace a value."""
    result = {**extra, **{k: v for k, v in more.items() if v is not None or k not in extra}}
    if "choices" in extra and "choices" in more:
        result["choices"] = [_updated(extra["choices"][0], more["choices"][0])]
    return result


# --- failures and usage --------------------------------------------------------------------


def stated_failure(call: Call, body: object) -> UpstreamError | None:
    """The failure that a reply with status 200 states in its body; None if it states none."""
    if not isinstance(body, Mapping):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error") or (choice.get("error") if isinstance(choice, Mapping) else None)
    if not error and "error" in (body.get("object"), body.get("type")):
        error = body
    if not error:
        return None
    fault = _faults.of(body if error is body else {**body, "choices": None, "error": error})
    return _faults.failure(call.expert.name, fault, cost=reported_cost(call, body))


def _usage(completion: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of a reply; Moonshot writes that of a stream into its choice."""
    usage: dict[str, Any] = {}
    for place in (choice, completion):
        if isinstance(place.get("usage"), Mapping):
            usage = merged(usage, place["usage"])
    return usage


def _answer(
    call: Call,
    message: Message,
    finish_reason: str,
    usage: Mapping[str, Any],
    seconds: float,
    extra: Mapping[str, Any],
) -> Answer:
    """The answer with its cost. Tokens that the upstream does not report are estimated.

    So are zero tokens of an input or output that has some.
    """
    expert, reported = call.expert, counts(usage)
    sent, received = reported.sent, reported.received
    text_sent, text_received = input_tokens(call.body), tokens(output_text(message))
    estimated = reported.doubtful
    if not sent and sent != text_sent:
        sent, estimated = text_sent, True
    if not received and received != text_received:
        received, estimated = text_received, True
    sent, received = sent or 0, received or 0
    return Answer(
        expert.name,
        content_text(message),
        cost=expert.price(sent, received, reported.cached, reported.written),
        latency=seconds,
        input_tokens=sent,
        cached_tokens=reported.cached,
        output_tokens=received,
        finish_reason=finish_reason,
        message=message,
        logprobs=_logprobs(message),
        estimated=estimated,
        extra=extra,
    )


def _logprobs(message: Message) -> tuple[float, ...] | None:
    """The log-probabilities in nats; None if there are none or they cannot be read."""
    try:
        content = message["logprobs"]["content"]
        return tuple(float(token["logprob"]) for token in content) or None
    except MALFORMED:
        return None
