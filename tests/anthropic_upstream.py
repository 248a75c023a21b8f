"""A real server on the loopback that speaks Anthropic's Messages, for tests.

It answers with scripted blocks, whole or as the events of a stream, keeps what reaches it, and
refuses what Anthropic refuses: thinking without a signature, roles and results out of order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from upstream import listening

SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
FIELDS = {
    *("model", "messages", "system", "max_tokens", "stream", "stop_sequences", "temperature"),
    *("top_p", "top_k", "tools", "tool_choice", "thinking", "output_config", "metadata"),
    *("service_tier", "container", "context_management", "mcp_servers", "cache_control"),
}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def thinking(words: str, signature: str = SIGNATURE) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": signature}


def tool_use(name: str, id: str = "toolu_1", **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


@dataclass
class AnthropicUpstream:
    """`says` are the blocks of its answers, or a function of the request that gives them.

    `faults` are used up in order, one per request; then it answers properly.
    """

    says: Any = field(default_factory=lambda: [text("hello there")])
    stop_reason: str | None = None  # None: by the blocks
    usage: dict[str, Any] = field(default_factory=lambda: {"input_tokens": 10, "output_tokens": 5})
    faults: list[Any] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)  # further fields of its messages
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    counted: list[dict[str, Any]] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)  # messages, and lists of events
    url: str = ""

    def expert(self, name: str, **traits: Any) -> dict[str, Any]:
        """The config entry of an expert that lives here; prices that are easy to reckon with."""
        prices = {"input_per_mtok": 1.0, "output_per_mtok": 2.0}
        kind = {"provider": "anthropic", "api_key": "sk-ant-test", "model": "claude-haiku-4-5"}
        return {"name": name, "base_url": self.url, "timeout": 60, **kind, **prices, **traits}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.faults and (fault := self.faults.pop(0)) is not None:
            return await fault(self, request, body)
        if mistake := mistake_in(body):
            return error(400, "invalid_request_error", mistake)
        message = self.message(body)
        if not body.get("stream"):
            self.sent.append(message)
            return web.json_response(message)
        reply = await begin(request)
        events = list(events_of(message))
        self.sent.append(events)
        for value in events:
            await write(reply, value)
        return reply

    async def count(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.counted.append(body)
        self.headers.append(request.headers)
        if self.faults:
            return await self.faults.pop(0)(self, request, body)
        return web.json_response({"input_tokens": 321})

    def message(self, body: dict[str, Any]) -> dict[str, Any]:
        blocks = self.says(body) if callable(self.says) else self.says
        has_tool = any(block["type"] == "tool_use" for block in blocks)
        return {
            "id": "msg_upstream",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": blocks,
            "stop_reason": self.stop_reason or ("tool_use" if has_tool else "end_turn"),
            "stop_sequence": None,
            "usage": self.usage,
            **self.more,
        }


def events_of(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A message as Anthropic streams it, with a ping, and in small pieces."""
    usage = {**message["usage"], "output_tokens": 1}
    empty = {"content": [], "stop_reason": None, "usage": usage}
    yield {"type": "message_start", "message": {**message, **empty}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        start, deltas = taken_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    yield {"type": "message_delta", "delta": delta, "usage": message["usage"]}
    yield {"type": "message_stop"}


def taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def pieces(words: str) -> list[str]:
        return [words[i : i + 7] for i in range(0, len(words), 7)]

    if block["type"] == "text":
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        return {**block, "text": ""}, deltas
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])
        ]
        signature = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*deltas, signature]
    if block["type"] in ("tool_use", "server_tool_use"):
        fragments = ["", *pieces(json.dumps(block["input"]))] if block["input"] else [""]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in fragments]
        return {**block, "input": {}}, deltas
    return block, []


def mistake_in(body: dict[str, Any]) -> str | None:
    """What Anthropic would refuse."""
    if unknown := body.keys() - FIELDS:
        return f"{sorted(unknown)[0]}: Extra inputs are not permitted"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    if body.get("temperature", 0) > 1:
        return "temperature: range: 0..1"
    calls: list[str] = []
    for place, message in enumerate(body["messages"]):
        content = message["content"]
        blocks = [text(content)] if isinstance(content, str) else content
        if message["role"] not in ("user", "assistant", "system") or not blocks:
            return f"messages.{place}: a role and content are needed"
        if message["role"] == "system":  # the beta `mid-conversation-system`
            continue
        if any(block["type"] == "text" and not block["text"] for block in blocks):
            return f"messages.{place}: text content blocks must be non-empty"
        if any(block["type"] == "thinking" and not block["signature"] for block in blocks):
            return f"messages.{place}: Invalid `signature` in `thinking` block"
        results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        if sorted(results) != sorted(calls):
            return f"messages.{place}: `tool_use` ids without `tool_result` blocks: {calls}"
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return None


def error(status: int, kind: str, message: str, **headers: str) -> web.Response:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return web.json_response(body, status=status, headers=named)


def status(code: int, kind: str, message: str = "no", **headers: str) -> Callable[..., Any]:
    """A fault: an error object."""

    async def fault(upstream: Any, request: web.Request, body: Any) -> web.Response:
        return error(code, kind, message, **headers)

    return fault


def streamed(*events: dict[str, Any], cut: bool = False) -> Callable[..., Any]:
    """A fault: these events; with `cut` the connection then breaks."""

    async def fault(upstream: Any, request: web.Request, body: Any) -> web.StreamResponse:
        reply = await begin(request)
        for value in events:
            await write(reply, value)
        if cut:
            assert request.transport is not None
            request.transport.close()
        return reply

    return fault


async def begin(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await reply.prepare(request)
    return reply


async def write(reply: web.StreamResponse, value: dict[str, Any]) -> None:
    name, data = value["type"].encode(), json.dumps(value).encode()
    await reply.write(b"event: " + name + b"\ndata: " + data + b"\n\n")
    await asyncio.sleep(0)


@asynccontextmanager
async def running_anthropic(*upstreams: AnthropicUpstream) -> AsyncIterator[None]:
    """Upstreams listening, each on a port of its own."""

    def routes(upstream: AnthropicUpstream) -> list[web.RouteDef]:
        return [
            web.post("/v1/messages", upstream.handle),
            web.post("/v1/messages/count_tokens", upstream.count),
        ]

    async with listening(upstreams, routes, path=""):
        yield
