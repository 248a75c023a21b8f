"""Writes decisions as OpenAI chat completions, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from routewright.experts.providers import without_logprobs
from routewright.experts.providers._usage import is_count
from routewright.gateway.body import ChatRequest
from routewright.gateway.errors import error_event
from routewright.gateway.replies import event
from routewright.types import Answer, Decision, Delta, Message

DONE = b"data: [DONE]\n\n"


class ChatReply:
    """Writes one decision as a chat completion or as its chunks."""

    protocol: ClassVar[str] = "chat"

    def __init__(self, decision_id: str, request: ChatRequest) -> None:
        self.decision_id = decision_id
        # Whether the client requested them; a strategy may do so for itself.
        self.logprobs = bool(request.query.options.get("logprobs"))
        self.include_usage = request.include_usage
        self.created = int(time.time())
        self._is_first = True

    def whole(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
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
            **of_completion(answer),
            **self._frame(answer.expert, "chat.completion", [choice]),
            "usage": usage(decision),
            "routewright": explanation,
        }

    def piece(self, delta: Delta) -> Iterator[bytes]:
        yield event(self._chunk(delta))

    def end(
        self, decision: Decision, last: Delta | None, explanation: Mapping[str, Any]
    ) -> Iterator[bytes]:
        if last is not None:
            yield event({**self._chunk(last), "routewright": explanation})
        if self.include_usage:
            frame = self._frame(decision.answer.expert, "chat.completion.chunk", [])
            yield event({**frame, "usage": usage(decision)})
        yield DONE

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return error_event(self.protocol, error)

    def _chunk(self, delta: Delta) -> dict[str, Any]:
        """One chunk of a stream; the first one has the role."""
        message, logprobs = without_logprobs(delta.message)
        role = {"role": "assistant"} if self._is_first else {}
        self._is_first = False
        choice: dict[str, Any] = {
            **_of_choice(delta),
            "index": 0,
            "delta": {**role, **(_numbered(message) if delta.whole else message)},
            "finish_reason": delta.finish_reason,
        }
        if logprobs and self.logprobs:
            choice["logprobs"] = logprobs
        frame = self._frame(delta.expert, "chat.completion.chunk", [choice])
        return {**of_completion(delta), **frame}

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


def of_completion(piece: Answer | Delta) -> dict[str, Any]:
    """The fields of the upstream's reply that are passed on unread, beside its choices."""
    return {key: value for key, value in piece.extra.items() if key not in ("choices", "usage")}


def _of_choice(piece: Answer | Delta) -> Mapping[str, Any]:
    """The same for the fields of its choice."""
    choices: list[Mapping[str, Any]] = piece.extra.get("choices") or [{}]
    return choices[0]


def _message(answer: Answer) -> Message:
    return {"role": "assistant", "content": answer.text}


def _numbered(message: Message) -> Message:
    """A whole message as a delta, whose tool calls need numbers."""
    if not message.get("tool_calls"):
        return message
    calls = [{**call, "index": number} for number, call in enumerate(message["tool_calls"])]
    return {**message, "tool_calls": calls}
