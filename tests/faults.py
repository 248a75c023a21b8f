"""The faults that the gateway is tested with, and what must follow from each.

`test_gateway_faults.py` gives each fault of `UPSTREAM` to a real upstream on a socket, and checks
what its row says. A row of `OTHERS` names the test that checks it. `docs/security.md` prints both.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from upstream import Upstream, begin, break_off, drop, event, hang, send, status

ALL = "test_gateway_faults.py::test_a_fault_has_the_consequences_of_the_table"
NOTHING = "nothing"
ESTIMATE = "an estimate"  # of what was sent and of what arrived


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    `client` is what the client sees if no other expert may answer, and `billed` is what the failed
    ask costs. `status` is the HTTP status for the client. A fault `in_answer` comes after the first
    piece of a stream: the stream then has status 200 and ends with an error.
    """

    happens: str
    client: str
    billed: str = NOTHING
    test: str = ALL
    inject: Any = None  # how an Upstream does it
    status: int = 0
    in_answer: bool = False
    traits: dict[str, Any] = field(default_factory=dict)  # of the expert


def replied(raw: bytes, content_type: str = "application/json", **headers: str) -> Any:
    """Answers with these bytes."""

    async def fault(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.Response(body=raw, content_type=content_type, headers=named)

    return fault


def bytes_only(raw: bytes) -> Any:
    """Writes bytes that need not be HTTP, and closes the connection."""

    async def fault(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
        assert request.transport is not None
        request.transport.write(raw)
        request.transport.close()
        return web.Response()

    return fault


async def error_in_stream(upstream: Upstream, request: web.Request, body: Any) -> Any:
    """Streams one word and then an error object; sends an error object if nothing is streamed."""
    error = {"error": {"message": "the model crashed"}}
    if not body.get("stream"):
        return web.json_response(error)
    reply = await begin(request)
    await send(reply, {"content": "half"})
    await event(reply, error)
    return reply


async def redirect(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
    raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/elsewhere")


CUT = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"choices": ['
)
WHOLE = {"choices": [{"message": {"content": "x" * 1000}, "finish_reason": "stop"}]}
HALF_GZIP = gzip.compress(json.dumps(WHOLE).encode(), compresslevel=0, mtime=0)[:-100]

UPSTREAM = (
    Fault("it answers 500", "502", inject=status(500), status=502),
    Fault(
        "it answers 503 with `Retry-After`",
        "503 with its `Retry-After`",
        inject=status(503, Retry_After="30"),
        status=503,
    ),
    Fault(
        "it answers 429 with `Retry-After`",
        "429 with its `Retry-After`",
        inject=status(429, Retry_After="30"),
        status=429,
    ),
    Fault(
        "it refuses our key (401 or 403)", "502, without the key", inject=status(401), status=502
    ),
    Fault("it does not know the model (404)", "502", inject=status(404), status=502),
    Fault("it refuses the request (400)", "400, with its message", inject=status(400), status=400),
    Fault(
        "it redirects to another address",
        "502; the text goes nowhere else",
        inject=redirect,
        status=502,
    ),
    Fault(
        "it closes the connection without an answer",
        "502",
        billed=ESTIMATE,
        inject=drop,
        status=502,
    ),
    Fault(
        "it accepts the request and says nothing",
        "504 after the expert's `timeout`",
        billed=ESTIMATE,
        inject=hang,
        status=504,
        traits={"timeout": 0.5},
    ),
    Fault(
        "it answers with bytes that are not HTTP",
        "502",
        billed=ESTIMATE,
        inject=bytes_only(b"\x16\x03\x01\x02\x00\x01"),
        status=502,
    ),
    Fault(
        "it answers with a page instead of JSON",
        "502",
        billed=ESTIMATE,
        inject=replied(b"<html>hello", "text/html"),
        status=502,
    ),
    Fault(
        "it answers with JSON that is no chat completion",
        "502",
        billed=ESTIMATE,
        inject=replied(b'{"choices": []}'),
        status=502,
    ),
    Fault("it answers with nothing", "502", billed=ESTIMATE, inject=replied(b""), status=502),
    Fault(
        "its answer is shorter than its `Content-Length`",
        "502",
        billed=ESTIMATE,
        inject=bytes_only(CUT),
        status=502,
    ),
    Fault(
        "its compressed answer is damaged",
        "502",
        billed=ESTIMATE,
        inject=replied(HALF_GZIP, Content_Encoding="gzip"),
        status=502,
    ),
    Fault(
        "its stream breaks after the first word",
        "the words so far, an error event, no `[DONE]`",
        billed="what arrived",
        inject=break_off,
        status=502,
        in_answer=True,
    ),
    Fault(
        "its stream states an error after the first word",
        "the words so far, an error event, no `[DONE]`",
        billed="what arrived",
        inject=error_in_stream,
        status=502,
        in_answer=True,
    ),
)


OTHERS = (
    Fault(
        "nobody listens at the upstream's address",
        "502",
        test="test_gateway_faults.py::test_an_expert_that_nobody_serves_is_replaced",
    ),
    Fault(
        "an upstream fails five times in a row",
        "503 with `Retry-After`, at once, until the upstream has had a pause",
        test="test_gateway_faults.py::test_nobody_waits_for_an_expert_that_keeps_failing",
    ),
    Fault(
        "an upstream's answer has no end",
        "502 after 64 MiB",
        ESTIMATE,
        "test_gateway_hostile.py::test_a_reply_without_end_is_refused_before_memory_is_full",
    ),
    Fault(
        "the request's own `max_latency_ms` is over",
        "everything in progress is cancelled; the best answer that has arrived, or else 504",
        "what arrived",
        "test_gateway_faults.py::test_the_deadline_holds",
    ),
    Fault(
        "the client disconnects",
        "nothing; the upstream's work is cancelled",
        "what arrived",
        "test_gateway_faults.py::test_a_client_that_goes_away_cancels_the_work",
    ),
    Fault(
        "the client disconnects before its request is complete",
        "nothing; no expert is asked",
        test="test_gateway_hostile.py"
        "::test_a_client_that_leaves_before_its_request_is_whole_is_no_failure_of_ours",
    ),
    Fault(
        "the client reads nothing of its stream for a minute",
        "the connection is closed; the upstream's work is cancelled",
        "what arrived",
        "test_gateway_hostile.py"
        "::test_a_client_that_stops_reading_does_not_keep_an_upstream_waiting",
    ),
    Fault(
        "the gateway is stopped, and a request takes longer than it may",
        "503, or an error event at the end of the stream",
        "what arrived",
        "test_gateway_hostile.py"
        "::test_a_client_is_told_when_the_gateway_is_stopped_under_its_request",
    ),
    Fault(
        "the disk has no room for a score",
        "503; the client can send the score again",
        test="test_feedback.py::test_a_score_that_the_disk_has_no_room_for_can_be_sent_again",
    ),
    Fault(
        "an interview is killed (kill -9)",
        "the same command continues, and asks for nothing again that was answered",
        "asks in progress, at their bound",
        "test_interview.py"
        "::test_after_kill_9_nothing_in_the_journal_is_asked_again_and_the_budget_holds",
    ),
    Fault(
        "a crash cuts off the last line of a journal",
        "the line is dropped; all others are read",
        test="test_fuzz_files.py::test_a_journal_that_is_cut_anywhere_loses_at_most_its_last_entry",
    ),
    Fault(
        "two processes use the same journal",
        "the second one ends with a message",
        test="test_ledger.py::test_two_processes_cannot_write_to_the_same_journal",
    ),
)
