"""Calls any endpoint that speaks OpenAI chat completions: hosted, vLLM, llama.cpp or Ollama.

One HTTP session serves the process. It follows no redirects, keeps no cookies and ignores proxies
in the environment, so that a text goes to the address in the config and nowhere else.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, TypeVar

import aiohttp

from routewright.errors import StreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout
from routewright.experts.providers import Call
from routewright.experts.providers._events import TooLong, events, parse
from routewright.experts.providers._transcript import Transcript, answer, reported_cost
from routewright.types import Answer, Delta, Expert

DEFAULT_URL = "https://api.openai.com/v1"
TRANSIENT = {408, 409, 429}  # statuses that are retried, as is every 5xx
MAX_BYTES = 64 << 20  # of a reply, or of one event of a stream; they may contain images
LONGEST_WAIT = 86_400.0  # upper bound in seconds of a Retry-After that is passed on
LINGER = 10.0  # seconds that a stream may stay open after the finish reason, for its usage
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between tries
T = TypeVar("T")


class Openai:
    """Asks OpenAI-compatible endpoints. Until the first byte it retries transient failures.

    `connect` limits the seconds until the connection is made. The expert's `timeout` limits an
    answer that is not streamed, all tries together, and the wait for the first byte of a stream.
    From then on only silence ends a stream: `Expert.longest_silence` seconds without a byte.
    """

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = True

    def __init__(self, connect: float = 5.0) -> None:
        self.connect = connect
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, call: Call) -> Answer:
        return await _with_retries(call, self._ask_once)

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        first, rest = await _with_retries(call, self._open)
        async with aclosing(rest):
            yield first
            async for piece in rest:
                yield piece

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask_once(self, call: Call, left: float) -> Answer:
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=left, sock_connect=self.connect)
        async with self._post(call, call.body, timeout) as response:
            completion = parse(await _body(call, response))
            return answer(call, completion, time.monotonic() - began)

    async def _open(
        self, call: Call, left: float
    ) -> tuple[Delta | Answer, AsyncGenerator[Delta | Answer, None]]:
        """Opens a stream; returns its first piece and the rest."""
        pieces = self._pieces(call, left)
        return await anext(pieces), pieces

    async def _pieces(self, call: Call, left: float) -> AsyncGenerator[Delta | Answer, None]:
        body = {"stream_options": {"include_usage": True}, **call.body, "stream": True}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect)
        transcript = Transcript(call)
        patience = min(call.expert.longest_silence, left)
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(patience):
                        post = self._post(call, body, timeout)
                        response = await stack.enter_async_context(post)
                except TimeoutError as error:
                    reason = f"no first byte within {patience:.3g} s"
                    raise UpstreamTimeout(call.expert.name, reason, sent=True) from error
                async for event in events(self._chunks(response, transcript), MAX_BYTES):
                    for delta in transcript.feed(event):
                        yield delta
                if not transcript.is_complete(_is_framed(response)):
                    raise UpstreamError(call.expert.name, _why_unfinished(response, transcript))
        except TooLong as error:
            reason = f"an event of its stream is larger than {MAX_BYTES >> 20} MiB"
            raise _broken(transcript, UpstreamError(call.expert.name, reason, sent=True)) from error
        except UpstreamError as error:
            if not (transcript.has_content and transcript.finished_at):
                raise _broken(transcript, error) from error
        yield transcript.last()
        yield transcript.answer()

    async def _chunks(
        self, response: aiohttp.ClientResponse, transcript: Transcript
    ) -> AsyncIterator[bytes]:
        """The bytes of a stream; raises UpstreamTimeout if it is silent for too long.

        After the finish reason only the usage may follow, which is not worth a long wait.
        """
        expert = transcript.call.expert
        chunks = response.content.iter_any()
        while True:
            patience = expert.longest_silence
            if transcript.finished_at is not None:
                left = transcript.finished_at + LINGER - time.monotonic()
                patience = min(patience, max(0.0, left))
            try:
                async with asyncio.timeout(patience):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                reason = f"its stream was silent for {patience:.3g} s"
                raise UpstreamTimeout(expert.name, reason, sent=True) from error
            yield chunk

    @asynccontextmanager
    async def _post(
        self, call: Call, body: Mapping[str, Any], timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends a request; raises every failure of it as an UpstreamError."""
        expert = call.expert
        url = f"{(expert.base_url or DEFAULT_URL).rstrip('/')}/chat/completions"
        try:
            async with self._http().post(
                url,
                json=_without_nulls({"model": expert.model or expert.name, **body}),
                headers=_headers(expert),
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise _failure(call, response, await _body(call, response))
                yield response
        except aiohttp.ConnectionTimeoutError as error:
            reason = f"no connection within {self.connect:g} s"
            raise UpstreamError(expert.name, reason) from error
        except TimeoutError as error:
            reason = "it took too long or fell silent"
            raise UpstreamTimeout(expert.name, reason, sent=True) from error
        except aiohttp.ClientError as error:
            reason = scrub(f"connection failed: {error}", expert)
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise UpstreamError(expert.name, reason, sent=sent) from error
        except UpstreamError as error:
            error.reason = scrub(error.reason, expert)
            error.args = (f"expert '{expert.name}' failed: {error.reason}",)
            raise

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1000),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _with_retries(call: Call, attempt: Callable[[Call, float], Awaitable[T]]) -> T:
    """Repeats an attempt until it succeeds, with growing pauses, unless it cost money.

    The upstream's Retry-After is obeyed. If it exceeds the time that is left, the failure is raised
    at once, so that another expert can answer.
    """
    # Written by hand, because retry libraries support neither Retry-After nor a shrinking timeout.
    deadline = time.monotonic() + call.expert.timeout
    last_try = time.monotonic() + min(call.expert.timeout, call.patience)
    tries = 0
    while True:
        try:
            return await attempt(call, max(0.001, deadline - time.monotonic()))
        except (UpstreamRefused, UpstreamTimeout, StreamBroken):
            raise
        except UpstreamError as error:
            pause = _pause(tries, error.retry_after)
            too_late = pause > LONGEST_PAUSE or time.monotonic() + pause > last_try
            if tries >= call.expert.retries or error.cost or too_late:
                raise
        tries += 1
        await asyncio.sleep(pause)


def _pause(tries: int, retry_after: float | None) -> float:
    pause = min(FIRST_PAUSE * 2.0**tries, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    return max(pause, retry_after or 0.0)


def _is_framed(response: aiohttp.ClientResponse) -> bool:
    """Whether the end of the reply shows that it is whole; else the connection's end is the only
    sign, and it ends like that too if the upstream fails."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return chunked or "Content-Length" in response.headers


def _broken(transcript: Transcript, error: UpstreamError) -> UpstreamError:
    """The failure of a stream; StreamBroken, with the cost so far, if it had any content."""
    if not transcript.has_content or isinstance(error, StreamBroken):
        return error
    return StreamBroken(
        error.expert,
        error.reason,
        status=error.status,
        retry_after=error.retry_after,
        cost=transcript.answer().cost,
        sent=error.sent,
        code=error.code,
        param=error.param,
        kind=error.kind,
    )


def _why_unfinished(response: aiohttp.ClientResponse, transcript: Transcript) -> str:
    if response.content_type == "text/event-stream" or transcript.has_content:
        return "its stream ended before the answer did"
    return f"it answered with {response.content_type} instead of a stream"


def _without_nulls(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without null fields. An option that is null in the config removes a field that the
    endpoint would refuse, such as `stream_options`."""
    return {key: value for key, value in body.items() if value is not None}


def _headers(expert: Expert) -> dict[str, str]:
    return {"Authorization": f"Bearer {expert.api_key}"} if expert.api_key else {}


async def _body(call: Call, response: aiohttp.ClientResponse) -> bytes:
    return b"".join([chunk async for chunk in _limited(call, response.content.iter_any())])


async def _limited(call: Call, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks of a reply; raises UpstreamError if they exceed MAX_BYTES."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_BYTES:
            reason = f"its reply is larger than {MAX_BYTES >> 20} MiB"
            raise UpstreamError(call.expert.name, reason, sent=True)
        yield chunk


def _failure(call: Call, response: aiohttp.ClientResponse, raw: bytes) -> UpstreamError:
    status, body = response.status, parse(raw)
    message = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(message, dict):
        message = message.get("message")
    kind = UpstreamError if status in TRANSIENT or status >= 500 else UpstreamRefused
    return kind(
        call.expert.name,
        f"HTTP {status}" + (f": {message}" if message else ""),
        status=status,
        retry_after=_retry_after(response.headers),
        cost=reported_cost(call, body),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header, in either of its two forms; None if it has none."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), LONGEST_WAIT) if math.isfinite(seconds) else None


def scrub(text: str, expert: Expert) -> str:
    """An upstream's message, made fit for logs and clients: short and without keys.

    >>> scrub("Incorrect API key: sk-ab***cd", Expert("cloud", api_key="sk-abXXcd"))
    'Incorrect API key: [key]'
    """
    if expert.api_key:
        text = text.replace(expert.api_key, "[key]")
    text = re.sub(r"\bsk-[\w*.-]+|(?<=Bearer )\S+", "[key]", text)
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    return text if len(text) <= 300 else f"{text[:300]}…"
