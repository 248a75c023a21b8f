"""Writes decisions as OpenAI chat completions, chunks and headers; pure functions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from routewright.experts.providers import without_logprobs
from routewright.types import Answer, Decision, Delta, Message, path_of, total_cost

LONGEST_HEADER = 500  # characters
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class ReplyFormat:
    """Writes one decision as OpenAI JSON, chunks and headers."""

    decision_id: str
    policy: str
    logprobs: bool = False  # whether the client requested them; a strategy may do so for itself
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        answer = decision.answer
        message, logprobs = without_logprobs(answer.message or _message(answer))
        choice = {
            "index": 0,
            "message": {"role": "assistant", **message},
            "logprobs": logprobs if self.logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        return {
            **self._frame(answer.expert, "chat.completion", [choice]),
            "usage": usage(decision),
            "routewright": explanation,
        }

    def chunk(self, delta: Delta, *, first: bool = False) -> dict[str, Any]:
        """One chunk of a stream; the first one has the role."""
        message, logprobs = without_logprobs(delta.message)
        role = {"role": "assistant"} if first else {}
        choice: dict[str, Any] = {
            "index": 0,
            "delta": {**role, **_with_indices(message)},
            "finish_reason": delta.finish_reason,
        }
        if logprobs and self.logprobs:
            choice["logprobs"] = logprobs
        return self._frame(delta.expert, "chat.completion.chunk", [choice])

    def usage_chunk(self, decision: Decision) -> dict[str, Any]:
        """The last chunk of a stream, for clients that request usage."""
        frame = self._frame(decision.answer.expert, "chat.completion.chunk", [])
        return {**frame, "usage": usage(decision)}

    def headers(self, expert: str) -> dict[str, str]:
        """The headers that are known as soon as an expert answers."""
        return {
            "x-routewright-decision-id": self.decision_id,
            "x-routewright-policy": header(self.policy),
            "x-routewright-expert": header(expert),
        }

    def _frame(self, expert: str, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.decision_id}",
            "object": kind,
            "created": self.created,
            "model": expert,
            "choices": choices,
        }


def usage(decision: Decision) -> dict[str, Any]:
    """The tokens of the answer itself, and as `cost` the US$ of all asks of the decision."""
    answer = decision.answer
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "cost": decision.cost,
    }


def cost_headers(spent: Sequence[Answer]) -> dict[str, str]:
    """Headers with the path and the cost of all asks, whether or not one was answered."""
    if not spent:
        return {}
    return {
        "x-routewright-path": header(path_of(spent)),
        "x-routewright-cost": f"{total_cost(spent):.10f}",
    }


def header(value: str) -> str:
    """A value that an HTTP header can hold: one line of ASCII with a limited length."""
    return quote(value, safe=" !#$&'()*+,/:;<=>?@[]^`{|}~")[:LONGEST_HEADER]


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _message(answer: Answer) -> Message:
    return {"role": "assistant", "content": answer.text}


def _with_indices(message: Message) -> Message:
    """Adds the indices that tool calls of a delta need and those of a whole message lack."""
    if not message.get("tool_calls"):
        return message
    calls = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
    return {**message, "tool_calls": calls}
