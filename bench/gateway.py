"""What the gateway adds to a request, and which HTTP client should carry it.

    python -m bench gateway

Upstream and gateways run as processes of their own on the loopback; the upstream answers at
once, so every difference is ours. One gateway has no store, one records every decision, and one
also keeps a key within its budget. All figures are from one run on one machine: compare the
ratios, not the absolute numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

SECONDS, AT_ONCE = 1.0, 16  # of each measure, three times; requests under way
REQUEST = {"model": "echo", "messages": [{"role": "user", "content": "What is two and two?"}]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "four"},
    "finish_reason": "stop",
}
REPLY = json.dumps(
    {"id": "1", "object": "chat.completion", "choices": [CHOICE], "usage": USAGE}
).encode()
Post = Callable[[], Awaitable[Any]]


# --- servers -------------------------------------------------------------------------------


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """An expert that answers at once."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": REPLY})


def serve(role: str, behind: str) -> None:
    """One of the servers; prints its URL first, and the key of a gateway that needs one."""
    import uvicorn

    from routewright.config import Config
    from routewright.gateway.app import build
    from routewright.gateway.server import SWITCH_SECONDS, listen, url_of
    from routewright.records import keys

    app: Any = upstream
    key = ""
    sys.setswitchinterval(SWITCH_SECONDS)
    with tempfile.TemporaryDirectory() as folder, listen("127.0.0.1", 0) as listener:
        if role != "upstream":
            url = "none" if role == "gateway" else f"sqlite:///{folder}/bench.db"
            expert = {"name": "echo", "base_url": behind, "output_per_mtok": 1.0}
            policy = {"strategy": "fixed", "options": {"expert": "echo"}}
            app = build(
                Config.model_validate(
                    {
                        "version": 1,
                        "experts": [expert],
                        "policies": {"default": policy},
                        "server": {"store": url},
                    }
                )
            )
            if role == "keyed":
                with app.state.lifecycle.records.store.begin() as connection:
                    key = keys.create(connection, "bench", keys.Budget(day=1000.0), rpm=10**8)
        print(f"{url_of(listener)}/v1 {key}", flush=True)
        settings = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(settings).run(sockets=[listener])


@contextlib.contextmanager
def started(role: str, behind: str = "") -> Iterator[tuple[str, str]]:
    command = [sys.executable, __file__, role, behind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url, _, key = process.stdout.readline().strip().partition(" ")
        yield url, key
    finally:
        process.terminate()
        process.wait()


# --- clients -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def with_aiohttp(url: str, key: str = "") -> Any:
    import aiohttp

    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def post() -> Any:
            async with session.post(f"{url}/chat/completions", json=REQUEST) as reply:
                assert reply.status == 200
                return json.loads(await reply.read())

        yield post


@contextlib.asynccontextmanager
async def with_httpx(url: str) -> Any:
    import httpx2  # httpx's successor, which the openai client uses

    async with httpx2.AsyncClient(verify=False) as client:

        async def post() -> Any:
            reply = await client.post(f"{url}/chat/completions", json=REQUEST)
            assert reply.status_code == 200
            return reply.json()

        yield post


# --- measures ------------------------------------------------------------------------------


async def rate(post: Post) -> float:
    """Requests per second with AT_ONCE under way all the time."""
    began, done = time.perf_counter(), 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() - began < SECONDS:
            await post()
            done += 1

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return done / (time.perf_counter() - began)


async def latency(post: Post) -> float:
    """Median milliseconds of one request at a time."""
    began, taken = time.perf_counter(), []
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        await post()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


async def measure(bare: str, fronts: dict[str, tuple[str, str]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        posts = {"bare": await stack.enter_async_context(with_aiohttp(bare))}
        for role, (url, key) in fronts.items():
            posts[role] = await stack.enter_async_context(with_aiohttp(url, key))
        posts["httpx"] = await stack.enter_async_context(with_httpx(bare))
        for _ in range(3):  # in turn, so that a busy neighbour disturbs all alike
            for name, post in posts.items():
                found.setdefault(f"{name}_rps", []).append(await rate(post))
                found.setdefault(f"{name}_ms", []).append(await latency(post))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    with contextlib.ExitStack() as stack:
        bare, _ = stack.enter_context(started("upstream"))
        roles = ("gateway", "recorded", "keyed")
        fronts = {role: stack.enter_context(started(role, bare)) for role in roles}
        time.sleep(1.5)  # until the gateway has read its key
        m = asyncio.run(measure(bare, fronts))
    print(f"{'':24}{'requests/s':>12}{'median ms':>12}")
    for name, words in (
        ("bare", "upstream, by aiohttp"),
        ("httpx", "upstream, by httpx"),
        ("gateway", "through the gateway"),
        ("recorded", "… that keeps records"),
        ("keyed", "… and a budget"),
    ):
        print(f"{words:24}{m[f'{name}_rps']:12.0f}{m[f'{name}_ms']:12.2f}")
    print(f"added by the gateway: {m['gateway_ms'] - m['bare_ms']:.2f} ms")
    print(f"gateway / bare upstream: {m['gateway_rps'] / m['bare_rps']:.2f} of the requests/s")
    for role, words in (("recorded", "records"), ("keyed", "records and a budget")):
        share, more = m[f"{role}_rps"] / m["gateway_rps"], m[f"{role}_ms"] - m["gateway_ms"]
        print(f"{words}: {share:.2f} of the gateway's requests/s, {more:.2f} ms more")
    print(f"aiohttp / httpx: {m['bare_rps'] / m['httpx_rps']:.2f} times the requests/s")


if __name__ == "__main__":  # as one of the servers
    serve(*sys.argv[1:])
