"""Writes decisions as OpenAI chat completions, chunks and headers; pure functions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from routewright.experts.providers import without_logprobs
from routewright.experts.providers._usage import is_count
from routewright.types import Answer, Decision, Delta, Message, estimated_cost, path_of, total_cost

LONGEST_HEADER = 500  # characters
DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"  # a server-sent event that clients ignore


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
            **_of_choice(answer),
            "index": 0,
            "message": {"role": "assistant", **message},
            "logprobs": logprobs if self.logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        return {
            **_of_completion(answer),
            **self._frame(answer.expert, "chat.completion", [choice]),
            "usage": usage(decision),
            "routewright": explanation,
        }

    def chunk(self, delta: Delta, *, first: bool = False) -> dict[str, Any]:
        """One chunk of a stream; the first one has the role."""
        message, logprobs = without_logprobs(delta.message)
        role = {"role": "assistant"} if first else {}
        choice: dict[str, Any] = {
            **_of_choice(delta),
            "index": 0,
            "delta": {**role, **(_numbered(message) if delta.whole else message)},
            "finish_reason": delta.finish_reason,
        }
        if logprobs and self.logprobs:
            choice["logprobs"] = logprobs
        frame = self._frame(delta.expert, "chat.completion.chunk", [choice])
        return {**_of_completion(delta), **frame}

    def usage_chunk(self, decision: Decision) -> dict[str, Any]:
        """The last chunk of a stream, for clients that request usage."""
        frame = self._frame(decision.answer.expert, "chat.completion.chunk", [])
        return {**frame, "usage": usage(decision)}

    def headers(self, expert: str | None = None) -> dict[str, str]:
        """The headers that are known as soon as an expert answers, or (None) before that."""
        headers = {
            "x-routewright-decision-id": self.decision_id,
            "x-routewright-policy": header(self.policy),
        }
        return headers if expert is None else {**headers, "x-routewright-expert": header(expert)}

    def _frame(self, expert: str, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.decision_id}",
            "object": kind,
            "created": self.created,
            "model": expert,
            "choices": choices,
        }


def usage(decision: Decision) -> dict[str, Any]:
    """The tokens of the answer itself, and as `cost` the US$ of all asks of the decision.

    Fields of the upstream's own `usage` that Routewright does not read are passed on.
    """
    answer = decision.answer
    reported: Mapping[str, Any] = answer.extra.get("usage") or {}
    details = reported.get("prompt_tokens_details")
    total = answer.input_tokens + answer.output_tokens
    if not answer.estimated and is_count(reported.get("total_tokens")):
        total = max(total, reported["total_tokens"])  # some count reasoning in the total only
    return {
        **reported,
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {
            **(details if isinstance(details, Mapping) else {}),
            "cached_tokens": answer.cached_tokens,
        },
        "cost": decision.cost,
    }


def _of_completion(piece: Answer | Delta) -> dict[str, Any]:
    """The fields of the upstream's reply that are passed on unread, beside its choices."""
    return {key: value for key, value in piece.extra.items() if key not in ("choices", "usage")}


def _of_choice(piece: Answer | Delta) -> Mapping[str, Any]:
    """The same for the fields of its choice."""
    choices: list[Mapping[str, Any]] = piece.extra.get("choices") or [{}]
    return choices[0]


def cost_headers(spent: Sequence[Answer]) -> dict[str, str]:
    """Headers with the path and the cost of all asks, whether or not one was answered."""
    if not spent:
        return {}
    estimated = estimated_cost(spent)
    return {
        "x-routewright-path": header(path_of(spent)),
        "x-routewright-cost": f"{total_cost(spent):.10f}",
        **({"x-routewright-cost-estimated": f"{estimated:.10f}"} if estimated else {}),
    }


def header(value: str) -> str:
    """A value that an HTTP header can hold: one line of ASCII with a limited length."""
    return quote(value, safe=" !#$&'()*+,/:;<=>?@[]^`{|}~")[:LONGEST_HEADER]


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _message(answer: Answer) -> Message:
    return {"role": "assistant", "content": answer.text}


def _numbered(message: Message) -> Message:
    """A whole message as a delta, whose tool calls need numbers."""
    if not message.get("tool_calls"):
        return message
    calls = [{**call, "index": number} for number, call in enumerate(message["tool_calls"])]
    return {**message, "tool_calls": calls}
