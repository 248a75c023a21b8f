"""A real server on the loopback that speaks OpenAI Responses, whole and streamed, from a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from upstream import listening

USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 18,
}


def message(text: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"id": "msg_up", "type": "message", "role": "assistant", "status": "completed"}
    return {**item, "content": [part], **fields}


def reasoning(secret: str, summary: str = "it adds") -> dict[str, Any]:
    parts = [{"type": "summary_text", "text": summary}]
    return {"id": "rs_up", "type": "reasoning", "summary": parts, "encrypted_content": secret}


def function_call(name: str, arguments: str) -> dict[str, Any]:
    fields = {"call_id": "call_up", "name": name, "arguments": arguments}
    return {"id": "fc_up", "type": "function_call", "status": "completed", **fields}


@dataclass
class ResponsesUpstream:
    """One endpoint. `output` are the items of its answer, or a list of such lists in order.

    `fails_after` events it reports a failure; `odd` are further events in the middle of a stream.
    """

    output: list[Any] = field(default_factory=lambda: [message("four")])
    turns: list[list[Any]] = field(default_factory=list)
    status: str = "completed"
    incomplete: str | None = None
    error: tuple[int, dict[str, Any]] | None = None
    fails_after: int | None = None
    breaks_after: int | None = None
    odd: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)  # further fields of the response
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def expert(self, name: str, **traits: Any) -> dict[str, Any]:
        prices = {"input_per_mtok": 1.0, "output_per_mtok": 2.0}
        address = {"provider": "responses", "base_url": self.url, "timeout": 60}
        return {"name": name, **address, **prices, **traits}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.error is not None:
            status, error = self.error
            return web.json_response({"error": error}, status=status)
        if self.turns:
            self.output = self.turns.pop(0)
        response = self.response(body)
        self.replies.append(response)
        return (
            await self._stream(request, response)
            if body.get("stream")
            else web.json_response(response)
        )

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        details = {"reason": self.incomplete} if self.incomplete else None
        return {
            "id": "resp_up",
            "object": "response",
            "created_at": 1_700_000_000,
            "status": "incomplete" if self.incomplete else self.status,
            "error": None,
            "incomplete_details": details,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata") or {},
            "model": "gpt-up-2026",
            "output": self.output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto",
            "tools": body.get("tools") or [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": USAGE,
            **self.more,
        }

    async def _stream(self, request: web.Request, response: dict[str, Any]) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        for number, event in enumerate(self._events(response)):
            if number == self.breaks_after:
                assert request.transport is not None
                request.transport.close()
                return reply
            if number == self.fails_after:
                error = {"code": "rate_limit_exceeded", "message": "slow down"}
                failed = {**response, "status": "failed", "error": error, "output": []}
                event = {"type": "response.failed", "response": failed}
            value = {**event, "sequence_number": number + 100}
            self.events.append(value)
            await reply.write(f"event: {event['type']}\ndata: {json.dumps(value)}\n\n".encode())
            await asyncio.sleep(0)
            if number == self.fails_after:
                return reply
        return reply

    def _events(self, response: dict[str, Any]) -> Iterator[dict[str, Any]]:
        begun = {**response, "status": "in_progress", "output": [], "usage": None}
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for place, item in enumerate(response["output"]):
            yield from _events_of(item, place)
            yield from self.odd
        yield {"type": f"response.{response['status']}", "response": response}


def _events_of(item: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
    at = {"item_id": item.get("id"), "output_index": place}
    kind = item["type"]
    if kind == "message":
        yield {
            "type": "response.output_item.added",
            "output_index": place,
            "item": {**item, "status": "in_progress", "content": []},
        }
        for number, part in enumerate(item["content"]):
            where = {**at, "content_index": number}
            yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
            for word in part["text"].split(" "):
                yield {
                    "type": "response.output_text.delta",
                    **where,
                    "delta": word,
                    "logprobs": [],
                    "obfuscation": "x",
                }
            yield {
                "type": "response.output_text.done",
                **where,
                "text": part["text"],
                "logprobs": [],
            }
            yield {"type": "response.content_part.done", **where, "part": part}
    elif kind == "reasoning":
        yield {
            "type": "response.output_item.added",
            "output_index": place,
            "item": {**item, "summary": []},
        }
        for number, part in enumerate(item["summary"]):
            where = {**at, "summary_index": number}
            yield {
                "type": "response.reasoning_summary_part.added",
                **where,
                "part": {**part, "text": ""},
            }
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": part["text"]}
            yield {"type": "response.reasoning_summary_text.done", **where, "text": part["text"]}
            yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
    elif kind == "function_call":
        yield {
            "type": "response.output_item.added",
            "output_index": place,
            "item": {**item, "arguments": ""},
        }
        yield {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]}
        yield {
            "type": "response.function_call_arguments.done",
            **at,
            "arguments": item["arguments"],
            "name": item["name"],
        }
    elif kind == "web_search_call":
        yield {
            "type": "response.output_item.added",
            "output_index": place,
            "item": {**item, "status": "in_progress"},
        }
        for stage in ("in_progress", "searching", "completed"):
            yield {"type": f"response.web_search_call.{stage}", **at}
    else:
        yield {"type": "response.output_item.added", "output_index": place, "item": item}
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


@asynccontextmanager
async def responding(*upstreams: ResponsesUpstream) -> AsyncIterator[None]:
    """Such endpoints listening, each on a port of its own."""
    async with listening(upstreams, lambda one: [web.post("/v1/responses", one.handle)]):
        yield
