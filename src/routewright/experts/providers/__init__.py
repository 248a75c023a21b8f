"""Who speaks to the experts: one file per kind of endpoint, found by the file's name.

A provider sends one call and hands back what was said, as OpenAI chat completions see it. All
of Routewright's traffic to models goes through here.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from routewright.types import Answer, Delta, Expert, Message, content_text


@dataclass(frozen=True)
class Call:
    """One request to one expert.

    `body` is an OpenAI chat completion request without `model` and `stream`. No new try begins
    more than `patience` seconds after the first one.
    """

    expert: Expert
    body: Mapping[str, Any]
    patience: float = math.inf


class Provider(Protocol):
    """Speaks to one kind of endpoint; one instance serves the whole process.

    Both calls raise UpstreamError before the first byte; `stream` raises StreamBroken after it,
    else it yields the pieces and then the whole answer. `verify_prompt` replaces
    `prompts.VERIFY` where the models need another one. `takes_n` says that a request may ask for
    several choices.
    """

    verify_prompt: ClassVar[str | None]
    takes_n: ClassVar[bool]

    async def ask(self, call: Call) -> Answer: ...

    def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]: ...

    async def close(self) -> None: ...


def tokens(text: str) -> int:
    """Tokens of a text, estimated at four characters each."""
    return math.ceil(len(text) / 4)


def input_tokens(body: Mapping[str, Any]) -> int:
    """What a request sends, estimated: its messages and the tools it describes."""
    spoken = "\n".join(content_text(message) for message in body["messages"])
    return tokens(spoken) + (tokens(json.dumps(body["tools"])) if body.get("tools") else 0)


def said(message: Message) -> str:
    """All the text that an expert wrote and charges for: content, reasoning and tool calls."""
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    parts = [content_text(message), message.get("reasoning_content"), message.get("refusal")]
    parts += [call.get(part) for call in calls for part in ("name", "arguments")]
    return "".join(part for part in parts if isinstance(part, str))


# A choice's `logprobs` lie beside its message. They travel inside it, under this key, so that
# they get to the client whole.
LOGPROBS = "logprobs"


def with_logprobs(message: Message, choice: Mapping[str, Any]) -> Message:
    return {**message, LOGPROBS: choice[LOGPROBS]} if choice.get(LOGPROBS) else message


def without_logprobs(message: Message) -> tuple[Message, Any]:
    """The message as the upstream wrote it, and the `logprobs` that lay beside it."""
    rest = {key: value for key, value in message.items() if key != LOGPROBS}
    return rest, message.get(LOGPROBS)
