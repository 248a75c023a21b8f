"""Writes one decision as an OpenAI response, or as the events of its stream."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from routewright.experts.providers import without_logprobs
from routewright.gateway.body import LIMITS, ChatRequest
from routewright.gateway.chat_reply import of_completion, usage
from routewright.gateway.replies import event
from routewright.gateway.responses.output import Output, written
from routewright.gateway.responses.request import ResponsesRequest
from routewright.types import Answer, Decision, Delta

OPENING = {"response.created", "response.in_progress", "response.queued"}
ENDING = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
ECHO = (  # fields of a request that its response repeats
    *("instructions", "max_output_tokens", "max_tool_calls", "temperature", "top_p", "user"),
    *("top_logprobs", "prompt_cache_key", "safety_identifier", "service_tier"),
)
FAILURE = "server_error"  # the code of an error that has none of an upstream's
CODES: Mapping[str | None, str] = {  # of the gateway's own errors, in the words of OpenAI
    **dict.fromkeys((None, "failed", "timeout", "internal", "out_of_resources"), FAILURE),
    "upstream_rate_limited": "rate_limit_exceeded",
}


class ResponsesReply:
    """Writes one decision as a response or as its events.

    The reply of an expert that speaks Responses is written as it came, with our `id`, and the
    expert's name as `model`. `final` is the response once it is whole.
    """

    protocol: ClassVar[str] = "responses"

    def __init__(self, decision_id: str, request: ChatRequest) -> None:
        assert isinstance(request, ResponsesRequest)
        self.request = request
        self.id = f"resp_{decision_id}"
        self.created = int(time.time())
        self.final: dict[str, Any] | None = None
        summarises = bool((request.body.get("reasoning") or {}).get("summary"))
        self._output = Output(decision_id, request.tools, summarises)
        self._number = 0  # of the next event
        self._is_open = False  # whether the first two events were written

    def whole(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
        answer = decision.answer
        if answer.native is None:
            message, logprobs = without_logprobs(
                answer.message or {"role": "assistant", "content": answer.text}
            )
            for _ in self._output.add(message, logprobs):
                pass
            for _ in self._output.close(_status(answer)):
                pass
        return self._finished(decision, explanation)

    def piece(self, delta: Delta) -> Iterator[bytes]:
        yield from self._events(delta)

    def end(
        self, decision: Decision, last: Delta | None, explanation: Mapping[str, Any]
    ) -> Iterator[bytes]:
        if last is not None:
            yield from self._events(last)
        yield from self._opened(decision.answer.expert)
        if decision.answer.native is None:
            yield from self._written(self._output.close(_status(decision.answer)))
        response = self._finished(decision, explanation)
        yield self._event({"type": f"response.{_ending(response)}", "response": response})

    def failure(self, error: Mapping[str, Any]) -> bytes:
        details = error["error"]
        code = details.get("code")
        failed = {"code": CODES.get(code, code), "message": details["message"]}
        response = self._response("failed", self.request.model or "", self._output.items)
        ending = {"type": "response.failed", "response": {**response, "error": failed}}
        return b"".join([*self._opened(self.request.model or ""), self._event(ending)])

    # --- events -------------------------------------------------------------------------------

    def _events(self, delta: Delta) -> Iterator[bytes]:
        if delta.whole and delta.native:
            (response,) = delta.native
            yield from self._opened(delta.expert, response)
            yield from self._written(written(response.get("output") or ()))
        elif delta.native:
            for native in delta.native:
                yield from self._passed_on(delta.expert, native)
        elif delta.message:
            yield from self._opened(delta.expert)
            message, logprobs = without_logprobs(delta.message)
            yield from self._written(self._output.add(message, logprobs))

    def _passed_on(self, expert: str, native: Mapping[str, Any]) -> Iterator[bytes]:
        """An event of the upstream; the last one is written by `end`."""
        kind, response = native.get("type"), native.get("response")
        response = response if isinstance(response, Mapping) else None
        if kind in OPENING:
            yield from self._opened(expert, response)
        elif kind not in ENDING:
            yield from self._opened(expert)
            ours: dict[str, Any] = {"response": self._ours(expert, response)} if response else {}
            ours |= {"response_id": self.id} if "response_id" in native else {}
            yield self._event({**native, **ours})

    def _opened(self, expert: str, native: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """The two events with which a stream begins, unless they were written."""
        if self._is_open:
            return
        self._is_open = True
        response = self._response("in_progress", expert)
        if native is not None:
            started = {"status": "in_progress", "output": []}
            response = {**self._ours(expert, native), **started}
            response |= {"usage": None} if "usage" in response else {}
        for kind in ("response.created", "response.in_progress"):
            yield self._event({"type": kind, "response": response})

    def _written(self, events: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
        for value in events:
            yield self._event(value)

    def _event(self, value: Mapping[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({**value, "sequence_number": number}, str(value.get("type")))

    # --- responses ----------------------------------------------------------------------------

    def _finished(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
        answer = decision.answer
        if answer.native is not None:
            response = self._ours(answer.expert, answer.native)
        else:
            status = _status(answer)
            response = self._response(status, answer.expert, self._output.items)
            response |= {"usage": _usage(decision), "completed_at": int(time.time())}
            if status == "incomplete":
                reason = INCOMPLETE[answer.finish_reason]
                response["incomplete_details"] = {"reason": reason}
            extra = of_completion(answer).items()
            response |= {k: value for k, value in extra if response.get(k) is None}
        self.final = {**response, "routewright": explanation}
        return self.final

    def _ours(self, expert: str, response: Mapping[str, Any]) -> dict[str, Any]:
        """An upstream's response as that of this gateway."""
        mine = {"previous_response_id": self.request.previous, "store": self.request.keeps}
        return {**response, "id": self.id, "model": expert, **mine}

    def _response(self, status: str, expert: str, output: Iterable[Any] = ()) -> dict[str, Any]:
        """A response without usage, with the fields of its request."""
        body = self.request.body
        reasoning = {"effort": None, "summary": None, **(body.get("reasoning") or {})}
        metadata = {k: v for k, v in (body.get("metadata") or {}).items() if k not in LIMITS}
        parallel = body.get("parallel_tool_calls")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            **{name: body.get(name) for name in ECHO},
            "model": expert,
            "output": list(output),
            "parallel_tool_calls": True if parallel is None else parallel,
            "previous_response_id": self.request.previous,
            "reasoning": reasoning,
            "store": self.request.keeps,
            "text": {"format": {"type": "text"}, **(body.get("text") or {})},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "truncation": body.get("truncation") or "disabled",
            "usage": None,
            "metadata": metadata,
        }


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish_reason in INCOMPLETE else "completed"


def _ending(response: Mapping[str, Any]) -> str:
    return "incomplete" if response.get("status") == "incomplete" else "completed"


def _usage(decision: Decision) -> dict[str, Any]:
    """The tokens of the answer as Responses counts them, and the US$ of all asks as `cost`."""
    counts = usage(decision)
    details = counts.pop("completion_tokens_details", None)
    details = details if isinstance(details, Mapping) else {}
    return {
        "input_tokens": counts.pop("prompt_tokens"),
        "input_tokens_details": {"cache_write_tokens": 0, **counts.pop("prompt_tokens_details")},
        "output_tokens": counts.pop("completion_tokens"),
        "output_tokens_details": {"reasoning_tokens": 0, **details},
        **counts,
    }
