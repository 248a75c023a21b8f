"""What is sent to a gateway, and what that takes: whole replies by wrk, streams by us."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import numpy as np

WRITTEN = re.compile(rb"t=(\d+) ")  # when the upstream wrote a chunk, in ns
END = b"0\r\n\r\n"
STREAM_SECONDS = 60.0  # of one measure of streams

LUA = """
local bodies = {%s}
local i = 0
request = function()
  i = i %% #bodies + 1
  return wrk.format("POST", %s, {%s}, bodies[i])
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status))
end
"""


@dataclass(frozen=True)
class Target:
    """A gateway that answers: where, with which headers and model name, and its processes."""

    name: str
    url: str  # of chat completions
    pids: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = "echo"

    def body(self, prompt: str, **options: object) -> str:
        messages = [{"role": "user", "content": prompt}]
        return json.dumps({"model": self.model, "messages": messages, **options})

    def cpu(self) -> float:
        """Seconds of processor time that its processes have used; NaN where /proc is missing."""
        try:
            return sum(_cpu(pid) for pid in self.pids)
        except OSError:
            return float("nan")

    def memory(self) -> float:
        """Resident megabytes (10⁶ bytes) of its processes; NaN where /proc is missing."""
        try:
            return sum(_resident(pid) for pid in self.pids) / 1e6
        except OSError:
            return float("nan")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # USER_HZ


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


@dataclass(frozen=True)
class Whole:
    """Of whole replies: requests/s, milliseconds at the median and the 99th percentile,
    microseconds of processor time per request of the gateway, and failures."""

    rps: float
    p50: float
    p99: float
    cpu: float
    failures: int


def whole(target: Target, prompts: Sequence[str], connections: int, seconds: float) -> Whole:
    """Sends the prompts in turn on so many connections. Raises FileNotFoundError without wrk."""
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed: apt-get install wrk")
    bodies = [json.dumps(target.body(prompt)) for prompt in prompts]
    headers = {"content-type": "application/json", **target.headers}
    pairs = ", ".join(f"[{json.dumps(k)}] = {json.dumps(v)}" for k, v in headers.items())
    script = Path(f"/tmp/wrk-{time.monotonic_ns()}.lua")
    script.write_text(LUA % (", ".join(bodies), json.dumps(urlsplit(target.url).path), pairs))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout=30s"]
    before = target.cpu()
    try:
        ran = subprocess.run([*command, "-s", script, target.url], capture_output=True, text=True)
    finally:
        script.unlink()
    used = target.cpu() - before
    count, duration, p50, p99, failures = map(int, ran.stdout.partition("RESULT ")[2].split())
    each = used / max(count, 1) * 1e6
    return Whole(count / duration * 1e6, p50 / 1000, p99 / 1000, each, failures)


# --- streams -------------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """Reads one stream; `first` and `delays` are in seconds."""

    def __init__(self, request: bytes) -> None:
        self.request, self.rest = request, b""
        self.first: float | None = None
        self.delays: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.sent = time.monotonic()
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now, self.rest = time.monotonic_ns(), self.rest + data
        end = 0
        for match in WRITTEN.finditer(self.rest):
            end = match.end()
            self.delays.append((now - int(match[1])) / 1e9)
        if self.first is None and self.delays:
            self.first = now / 1e9 - self.sent
        is_over = self.rest.endswith(END)
        self.rest = self.rest[max(end, len(self.rest) - 64) :]
        if is_over:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _stream(target: Target, prompt: str, chunks: int, gap: int) -> Reader:
    body = target.body(prompt, stream=True, max_tokens=chunks, seed=gap).encode()
    url = urlsplit(target.url)
    headers = {"host": url.netloc, "content-type": "application/json", **target.headers}
    lines = [f"POST {url.path} HTTP/1.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
    loop, place = asyncio.get_running_loop(), (url.hostname or "", url.port or 80)
    _, reader = await loop.create_connection(lambda: Reader(request), *place)
    await reader.done
    return reader


@dataclass(frozen=True)
class Streams:
    """Of streams: milliseconds to the first chunk of one at a time, of the delay of a chunk of
    `live` ones (median, 99th percentile), chunks/s as fast as they go, and their processor time
    in microseconds per chunk."""

    first: float
    delay: float
    late: float
    rate: float
    cpu: float


def streams(target: Target, prompts: Sequence[str], live: int = 64) -> Streams:
    """Raises AssertionError if chunks are lost, TimeoutError after STREAM_SECONDS."""
    return asyncio.run(asyncio.wait_for(_streams(target, prompts, live), STREAM_SECONDS))


async def _streams(target: Target, prompts: Sequence[str], live: int) -> Streams:
    readers = [await _stream(target, prompt, 4, 0) for prompt in prompts[:40]]
    first = median(reader.first or float("nan") for reader in readers) * 1000
    many = [_stream(target, prompts[i % len(prompts)], 100, 20) for i in range(live)]
    delays = np.concatenate([reader.delays for reader in await asyncio.gather(*many)])
    began, before = time.perf_counter(), target.cpu()
    fast = await asyncio.gather(*(_stream(target, prompts[0], 2000, 0) for _ in range(8)))
    seconds, used = time.perf_counter() - began, target.cpu() - before
    count = sum(len(reader.delays) for reader in fast)
    # A budget may take a token off what it just covers.
    assert count >= 15_900, f"{target.name} lost chunks: {count} of 16,000"
    p50, p99 = np.percentile(delays, (50, 99)) * 1000
    return Streams(first, float(p50), float(p99), count / seconds, used / count * 1e6)
