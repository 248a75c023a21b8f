"""A real OpenAI-compatible server on the loopback, with faults, and a gateway in front of it.

Tests put it where a provider would be. It speaks scripted texts or runs a sandbox model, counts
what reaches it, and goes wrong in the ways that providers do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from aiohttp import web
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from routewright.config import Config
from routewright.data.outcomes import Outcomes
from routewright.drive import decide, replay
from routewright.experts.client import Client
from routewright.gateway.app import build
from routewright.gateway.server import listen, url_of
from routewright.types import Answer, Expert

Fault = Callable[["Upstream", web.Request], Any]


@dataclass
class Upstream:
    """One provider. `says` is its text (or a function of the request body that gives one).

    `faults` are used up in order, one per request; then it answers properly.
    """

    says: str | Callable[[dict[str, Any]], str] = "hello there"
    message: dict[str, Any] | None = None  # a whole assistant message instead
    delay: float = 0.0  # seconds before an answer, and between the words of a stream
    usage: bool = True
    many: bool = False  # it gives the `n` choices that a request asks for
    logprob: float | None = None  # of every word, where a request asks for it
    faults: list[Any] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    finished: int = 0  # answers that were sent to their end
    billed: list[dict[str, Any]] = field(default_factory=list)  # their tokens and prompts
    cancelled: int = 0  # requests whose client went away
    models: Any = None  # what it answers to GET /v1/models: a list, or a whole response
    lists: int = 0  # how often it was asked for that
    url: str = ""

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def expert(self, name: str, **traits: Any) -> dict[str, Any]:
        """The config entry of an expert that lives here; a price that is easy to reckon with."""
        prices = {"input_per_mtok": 1.0, "output_per_mtok": 2.0}
        return {"name": name, "base_url": self.url, "timeout": 60, **prices, **traits}

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        self.lists += 1
        if callable(self.models):
            return self.models(request)
        if self.models is None:
            return web.Response(status=404)
        data = [{"id": m} if isinstance(m, str) else m for m in self.models]
        return web.json_response({"object": "list", "data": data})

    async def embed(self, request: web.Request) -> web.Response:
        """The embeddings of texts: the number of their characters, and 1."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.faults and (fault := self.faults.pop(0)) is not None:
            return await fault(self, request, body)
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [[float(len(text)), 1.0] for text in texts]
        packed = [base64.b64encode(struct.pack("<2f", *vector)).decode() for vector in vectors]
        rows = packed if body.get("encoding_format") == "base64" else vectors
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        self.finished += 1
        tokens = sum(len(str(text).split()) for text in texts)
        reply = {"object": "list", "model": body["model"], "data": data, "speed": "fast"}
        if self.usage:
            reply["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response(reply)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        try:
            if self.faults and (fault := self.faults.pop(0)) is not None:
                return await fault(self, request, body)
            await asyncio.sleep(self.delay)
            return await self.answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """A proper answer, sent to its end."""
        reply = await (self._stream(request, body) if body.get("stream") else self._whole(body))
        self.finished += 1
        return reply

    def bill(self, body: dict[str, Any], text: str) -> None:
        prompt = body["messages"][-1].get("content")
        self.billed.append({"prompt": prompt, **self.count(body, text)})

    def text(self, body: dict[str, Any]) -> str:
        text = self.says(body) if callable(self.says) else self.says
        room = body.get("max_tokens") or body.get("max_completion_tokens")
        return " ".join(text.split(" ")[:room])  # a word is a token here

    def count(self, body: dict[str, Any], text: str) -> dict[str, int]:
        sent = sum(len(str(message.get("content")).split()) for message in body["messages"])
        return {"prompt_tokens": sent, "completion_tokens": len(text.split())}

    async def _whole(self, body: dict[str, Any]) -> web.Response:
        texts = [self.text(body) for _ in range(body.get("n", 1) if self.many else 1)]
        messages = [self.message or {"role": "assistant", "content": text} for text in texts]
        choices = [
            {"index": i, "message": message, "finish_reason": "stop"}
            for i, message in enumerate(messages)
        ]
        if body.get("logprobs") and self.logprob is not None:
            for choice, text in zip(choices, texts, strict=True):
                tokens = [{"token": word, "logprob": self.logprob} for word in text.split()]
                choice["logprobs"] = {"content": tokens}
        head = {"id": "up", "object": "chat.completion", "created": 1, "model": "up"}
        reply: dict[str, Any] = {**head, "choices": choices}
        if self.usage:
            reply["usage"] = self.count(body, " ".join(texts))
        self.bill(body, " ".join(texts))
        return web.json_response(reply)

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        text = self.text(body)
        reply = await begin(request)
        for word in words(text):
            await send(reply, {"content": word})
            await asyncio.sleep(self.delay)
        for call in (self.message or {}).get("tool_calls", []):
            await send(reply, {"tool_calls": [{"index": 0, **call}]})
        await send(reply, {}, finish_reason="stop")
        if self.usage:
            await event(reply, {"choices": [], "usage": self.count(body, text)})
        await reply.write(b"data: [DONE]\n\n")
        self.bill(body, text)
        return reply


def words(text: str) -> list[str]:
    return [word if place == 0 else f" {word}" for place, word in enumerate(text.split(" "))]


async def begin(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await reply.prepare(request)
    await send(reply, {"role": "assistant", "content": ""})
    return reply


async def send(
    reply: web.StreamResponse, delta: dict[str, Any], finish_reason: str | None = None
) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    await event(reply, {"choices": [choice]})


async def event(reply: web.StreamResponse, value: dict[str, Any]) -> None:
    if "choices" in value:
        value = {
            "id": "up",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "up",
            **value,
        }
    await reply.write(b"data: " + json.dumps(value).encode() + b"\n\n")


# --- faults --------------------------------------------------------------------------------


def status(code: int, message: str = "no", **headers: str) -> Any:
    """Answers with an error object."""

    async def fault(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.json_response({"error": {"message": message}}, status=code, headers=named)

    return fault


async def hang(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
    """Accepts the request and says nothing."""
    await asyncio.sleep(60)
    raise AssertionError("the client waited a minute")


async def drop(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
    """Closes the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(upstream: Upstream, request: web.Request, body: Any) -> web.StreamResponse:
    """Streams one word, then closes the connection."""
    reply = await begin(request)
    await send(reply, {"content": "half"})
    assert request.transport is not None
    request.transport.close()
    return reply


async def stall(upstream: Upstream, request: web.Request, body: Any) -> web.StreamResponse:
    """Streams one word, then says nothing more."""
    reply = await begin(request)
    await send(reply, {"content": "half"})
    await asyncio.sleep(60)
    return reply


def once_all(count: int) -> Any:
    """Answers properly once so many requests wait for it, whichever upstreams they came to."""
    barrier = asyncio.Barrier(count)

    async def fault(upstream: Upstream, request: web.Request, body: Any) -> web.StreamResponse:
        await barrier.wait()
        return await upstream.answer(request, body)

    return fault


@dataclass
class Busy:
    """Says "too many requests", and that they are over in so many seconds; knows when they are."""

    seconds: float
    over: bool = False

    async def __call__(self, upstream: Upstream, request: web.Request, body: Any) -> web.Response:
        asyncio.get_running_loop().call_later(self.seconds, self._end)
        return await status(429, "busy", Retry_After=f"{self.seconds:g}")(upstream, request, body)

    def _end(self) -> None:
        self.over = True


# --- waiting, where a minute too late would be a fault ---------------------------------------


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def wait_until(true: Callable[[], Any]) -> None:
    last = time.monotonic() + 600
    while not true():
        assert time.monotonic() < last, "it never came to be"
        time.sleep(0.01)


# --- servers -------------------------------------------------------------------------------


@asynccontextmanager
async def running(*upstreams: Upstream) -> AsyncIterator[None]:
    """Upstreams listening, each on a port of its own."""

    def routes(upstream: Upstream) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", upstream.handle),
            web.post("/v1/embeddings", upstream.embed),
            web.get("/v1/models", upstream.list_models),
        ]

    async with listening(upstreams, routes):
        yield


@asynccontextmanager
async def listening(
    upstreams: Iterable[Any], routes: Callable[[Any], list[web.RouteDef]], path: str = "/v1"
) -> AsyncIterator[None]:
    """Servers with these routes, each on a port of its own; `path` is that of their `url`."""
    runners = []
    for upstream in upstreams:
        app = web.Application()
        app.add_routes(routes(upstream))
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        runners.append(runner)
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


@contextmanager
def in_thread(*upstreams: Upstream) -> Iterator[None]:
    """Upstreams that listen in a thread, for commands that run in this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(step: Any) -> None:
        asyncio.run_coroutine_threadsafe(step, loop).result(600)

    servers = running(*upstreams)
    do(servers.__aenter__())
    try:
        yield
    finally:
        do(servers.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def gateway(config: Config) -> AsyncIterator[str]:
    """The gateway for a config, on a socket; gives its URL."""
    listener = listen("127.0.0.1", 0)
    settings = uvicorn.Config(
        build(config), log_level="error", lifespan="on", timeout_graceful_shutdown=1
    )
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    await server.startup([listener])  # not serve(), which looks for its end ten times a second
    try:
        yield url_of(listener)
    finally:
        await server.shutdown([listener])


def config_of(*experts: dict[str, Any], **sections: Any) -> Config:
    """A config with these experts; the first is the policy unless `policies` says otherwise."""
    first = {"strategy": "fixed", "options": {"expert": experts[0]["name"]}}
    policies = sections.pop("policies", {"default": first})
    return Config.model_validate(
        {"version": 1, "experts": list(experts), "policies": policies, **sections}
    )


@asynccontextmanager
async def front(config: Config, api_key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    """The official client, without retries of its own, in front of a gateway."""
    http = DefaultAsyncHttpxClient(verify=False)  # reading certificates takes long
    async with (
        gateway(config) as url,
        AsyncOpenAI(
            base_url=f"{url}/v1", api_key=api_key, max_retries=0, http_client=http
        ) as client,
    ):
        yield client


def asked(text: str = "What is two and two?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def expert(config_entry: dict[str, Any]) -> Expert:
    """The noun behind a config entry."""
    return config_of(config_entry).experts[0].expert()


def paths_live_as_replayed(strategies: Iterable[Any], rows: Outcomes) -> set[str]:
    """Decides every row over HTTP, its experts saying what is recorded of them, and checks that
    a replay decides the same; the ways that were taken."""
    said = {
        name: {q.text: rows.answers[i, m] or "?" for i, q in enumerate(rows.queries)}
        for m, name in enumerate(rows.experts)
    }

    def speaks(name: str) -> Upstream:
        return Upstream(says=lambda body: said[name][body["messages"][0]["content"]])

    upstreams = {name: speaks(name) for name in rows.experts}

    async def run() -> list[Any]:
        async with running(*upstreams.values()):
            experts = [expert(upstream.expert(name)) for name, upstream in upstreams.items()]
            async with Client(experts) as client:
                return [
                    (strategy, query, await decide(strategy, query, experts, client))
                    for strategy in strategies
                    for query in rows.queries
                ]

    paths = set()
    for strategy, query, lived in asyncio.run(run()):
        record = {name: Answer(name, said[name][query.text]) for name in rows.experts}
        replayed = replay(strategy, query, record)
        paths.add(lived.path)
        assert (lived.path, lived.because) == (replayed.path, replayed.because)
        assert lived.answer.expert == replayed.answer.expert
    return paths
