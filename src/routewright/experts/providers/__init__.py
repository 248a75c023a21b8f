"""Providers call the experts: one file per kind of endpoint, named after the file.

A provider sends one call and returns the answer in the terms of OpenAI chat completions. All
traffic to models goes through providers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from routewright.types import Answer, Delta, Expert, Message, content_text


def _ignore(headers: Mapping[str, str]) -> None:
    """Heeds no headers."""


@dataclass(frozen=True)
class Call:
    """One request to one expert.

    `body` is an OpenAI chat completion request without `model` and `stream`. `native` is the
    request as the client wrote it, if the provider speaks its protocol; then the answer has the
    upstream's native reply too. The output limit of `body` holds in any case. The answer may take
    `timeout` seconds. The client repeats a call whose failure is `transient`; no further try begins
    later than `patience` seconds after the first one. A provider calls `heed` with the headers of
    every reply, so that the rate limits that they tell are kept.
    """

    expert: Expert
    body: Mapping[str, Any]
    patience: float = math.inf
    timeout: float = math.inf
    native: Mapping[str, Any] | None = None
    heed: Callable[[Mapping[str, str]], None] = _ignore


class Provider(Protocol):
    """Calls one kind of endpoint; one instance serves the whole process.

    `ask` returns the whole answer; `stream` yields the pieces and then the whole answer. Both
    raise UpstreamError before the first byte, and `stream` raises StreamBroken after it. An error
    tells whether it is `transient` and whether the request was `sent`.
    `verify_prompt` replaces `prompts.VERIFY` for models that need another prompt. `takes_n` tells
    whether one request can ask for several choices. `protocol` is the one that it can be asked in
    natively (see `types.Native`), beside OpenAI chat completions. A provider may have
    `async def warm(expert)`, which prepares the first ask, for example with a connection, and
    sends no request, and `async def embed(call)`, whose answer has the list of embeddings in its
    message, under `data`.
    """

    verify_prompt: ClassVar[str | None]
    takes_n: ClassVar[bool]
    protocol: ClassVar[str | None]

    async def ask(self, call: Call) -> Answer: ...

    def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]: ...

    async def close(self) -> None: ...


def tokens(text: str) -> int:
    """The tokens of a text, estimated at four characters per token."""
    return math.ceil(len(text) / 4)


def input_tokens(body: Mapping[str, Any]) -> int:
    """The input tokens of a request, estimated from its messages and its tools."""
    text = "\n".join(content_text(message) for message in body["messages"])
    return tokens(text) + (tokens(json.dumps(body["tools"])) if body.get("tools") else 0)


def word_by_word(answer: Answer) -> Iterator[Delta]:
    """An answer that exists already, as the pieces of a stream.

    >>> [piece.text for piece in word_by_word(Answer("echo", "two  words"))]
    ['two', '  words', '']
    """
    for word in re.findall(r"\s*+\S+|\s+", answer.text):
        yield Delta(answer.expert, word, {"content": word})
    yield Delta(answer.expert, "", {}, answer.finish_reason)


def output_text(message: Message) -> str:
    """All text that an expert wrote and charges for: content, reasoning and tool calls."""
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    thoughts = message.get("reasoning_content") or message.get("reasoning")  # some send both
    parts = [content_text(message), thoughts, message.get("refusal")]
    parts += [call.get(part) for call in calls for part in ("name", "arguments")]
    return "".join(part for part in parts if isinstance(part, str))


# OpenAI puts the `logprobs` of a choice beside its message. Routewright keeps them in the message,
# under this key, so that they reach the client unchanged.
LOGPROBS = "logprobs"


def with_logprobs(message: Message, choice: Mapping[str, Any]) -> Message:
    """The message of a choice, with the choice's `logprobs` in it."""
    return {**message, LOGPROBS: choice[LOGPROBS]} if choice.get(LOGPROBS) else message


def without_logprobs(message: Message) -> tuple[Message, Any]:
    """The message as the upstream wrote it, and its `logprobs`."""
    rest = {key: value for key, value in message.items() if key != LOGPROBS}
    return rest, message.get(LOGPROBS)
