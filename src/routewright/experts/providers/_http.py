"""HTTP to the endpoints of providers: one session, its limits and timeouts, and its failures.

One HTTP session serves the process. It follows no redirects, keeps no cookies and ignores proxies
in the environment, so that a text goes to the address in the config, by the proxy in the config if
there is one, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from yarl import URL  # of aiohttp

from routewright.errors import StreamBroken, UpstreamError, UpstreamTimeout
from routewright.experts import rate_limits
from routewright.experts.providers import Call, _faults
from routewright.experts.providers._events import TooLong, events, parse
from routewright.experts.providers._transcript import reported_cost
from routewright.experts.redaction import without_keys
from routewright.experts.resources import connections
from routewright.experts.traces import trace_headers
from routewright.types import Answer, Delta, Expert

MAX_BYTES = 64 << 20  # of a reply, or of one event of a stream; they may contain images
MAX_HEADER, MAX_HEADERS = 1 << 18, 1024  # bytes of a reply's header, and the number of its headers
LINGER = 10.0  # seconds that a stream may stay open after the finish reason, for its usage
PIECE = 4096  # bytes of a stream that are read before other requests have their turn

log = logging.getLogger(__name__)


class Transcript(Protocol):
    """The part of a streamed answer that has been received; see `_transcript.Transcript`."""

    call: Call
    has_content: bool
    finished_at: float | None

    def feed(self, event: Any) -> Iterator[Delta]: ...

    def is_complete(self, has_ended: bool) -> bool: ...

    def last(self) -> Delta: ...

    def answer(self) -> Answer: ...


class Http(ABC):
    """Asks endpoints over HTTP. The client repeats transient failures.

    A provider says where it sends a call, and how it writes the request and reads the reply.

    `connect` limits the seconds until the connection is made. The expert's `timeout` limits an
    answer that is not streamed, all tries together, and the wait for the first byte of a stream.
    From then on only silence ends a stream: `Expert.longest_silence` seconds without a byte.
    """

    default_url: ClassVar[str]

    def __init__(self, connect: float = 5.0) -> None:
        self.connect = connect
        self._session: aiohttp.ClientSession | None = None

    @abstractmethod
    def path(self, base: str) -> str:
        """The path of an answer, below the path of `base_url`."""

    def headers(self, call: Call) -> dict[str, str]:
        """The headers with the key, unless the config sets them itself."""
        expert = call.expert
        if not expert.api_key or "authorization" in map(str.lower, expert.headers):
            return {}
        return {"Authorization": f"Bearer {expert.api_key}"}

    @abstractmethod
    def request(self, call: Call, stream: bool) -> dict[str, Any]:
        """The body to send, without the model."""

    @abstractmethod
    def answer(self, call: Call, reply: Any, seconds: float) -> Answer:
        """A whole reply as an Answer; raises UpstreamError."""

    @abstractmethod
    def transcript(self, call: Call) -> Transcript:
        """The reader of a stream."""

    async def ask(self, call: Call) -> Answer:
        reply, seconds = await self._reply(call, self.request(call, False))
        return self.answer(call, reply, seconds)

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        first, rest = await self._open(call, min(call.timeout, call.expert.timeout))
        async with aclosing(rest):
            yield first
            async for piece in rest:
                yield piece

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def warm(self, expert: Expert) -> None:
        """Connects to the expert's host for the first ask, unless a proxy is between them.

        Sends no request. May raise anything.
        """
        if expert.proxy:
            return
        session = self._http()
        url = URL(expert.base_url or self.default_url).origin()
        request = aiohttp.ClientRequest("GET", url, loop=asyncio.get_running_loop())
        timeout = aiohttp.ClientTimeout(sock_connect=self.connect)
        assert session.connector is not None
        connection = await session.connector.connect(request, [], timeout)
        connection.release()

    async def _reply(
        self, call: Call, body: Mapping[str, Any], path: str | None = None
    ) -> tuple[Any, float]:
        """The whole reply to a body, and its seconds; `path` is that of another address."""
        began, left = time.monotonic(), min(call.timeout, call.expert.timeout)
        timeout = aiohttp.ClientTimeout(total=left, sock_connect=self.connect)
        async with self._post(call, body, timeout, path) as response:
            return parse(await _body(call, response)), time.monotonic() - began

    async def _open(
        self, call: Call, left: float
    ) -> tuple[Delta | Answer, AsyncGenerator[Delta | Answer, None]]:
        """Opens a stream; returns its first piece and the rest."""
        pieces = self._pieces(call, left)
        return await anext(pieces), pieces

    async def _pieces(self, call: Call, left: float) -> AsyncGenerator[Delta | Answer, None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect)
        transcript = self.transcript(call)
        patience = min(call.expert.longest_silence, left)
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(patience):
                        post = self._post(call, self.request(call, True), timeout)
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

        After the finish reason only the usage may follow, which is not worth a long wait. An
        upstream that writes faster than it is read does not hold up other requests.
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
            for start in range(0, len(chunk), PIECE):
                yield chunk[start : start + PIECE]
                await asyncio.sleep(0)

    @asynccontextmanager
    async def _post(
        self,
        call: Call,
        body: Mapping[str, Any],
        timeout: aiohttp.ClientTimeout,
        path: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends a request; raises every failure of it as an UpstreamError."""
        expert, answering = call.expert, False
        headers, removed = _headers(expert, self.headers(call))
        try:
            async with self._http().post(
                self.url(expert, path),
                data=_payload(self.fields(expert, body)),
                headers=headers,
                skip_auto_headers=removed,
                timeout=timeout,
                allow_redirects=False,
                proxy=expert.proxy,
            ) as response:
                call.heed(response.headers)
                if not 200 <= response.status < 300:  # some frameworks answer 201 to every POST
                    raise _failure(call, response, await _body(call, response))
                answering = True
                yield response
        except aiohttp.ConnectionTimeoutError as error:
            reason = f"no connection within {self.connect:g} s"
            raise UpstreamError(expert.name, reason, transient=True, sent=False) from error
        except TimeoutError as error:
            reason = "it took too long or fell silent"
            raise UpstreamTimeout(expert.name, reason, sent=True) from error
        except aiohttp.ClientError as error:
            # Its text names hosts and ports, which the log may show and a client may not.
            log.info("expert '%s': %s", expert.name, without_keys(str(error), expert))
            raise UpstreamError(
                expert.name,
                f"connection failed: {_what_failed(error)}",
                transient=True,
                sent=not isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL),
            ) from error
        except UpstreamError as error:
            if answering and error.sent is not False:
                error.sent = error.transient = True  # an answer that was begun may be charged
            raise

    def url(self, expert: Expert, path: str | None = None) -> str:
        """The address of an answer, or of what is at another path; a query string of `base_url`
        stays at the end."""
        url = urlsplit(expert.base_url or self.default_url)
        base = url.path.rstrip("/")
        path = self.path(base) if path is None else path
        return urlunsplit(url._replace(path=base + path, fragment=""))

    def fields(self, expert: Expert, body: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the request. An option that is null in the config removes one that the
        endpoint would refuse, such as `stream_options`."""
        fields = {"model": expert.model or expert.name, **body}
        return {name: value for name, value in fields.items() if value is not None}

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=connections().upstream),
                cookie_jar=aiohttp.DummyCookieJar(),
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
                max_headers=MAX_HEADERS,
            )
        return self._session


def _is_framed(response: aiohttp.ClientResponse) -> bool:
    """Whether the end of the reply shows that it is whole; else the connection's end is the only
    sign, and it ends like that too if the upstream fails."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return chunked or "Content-Length" in response.headers


def _broken(transcript: Transcript, error: UpstreamError) -> UpstreamError:
    """The failure of a stream; StreamBroken, with the cost so far, if it had any content."""
    if not transcript.has_content or isinstance(error, StreamBroken):
        return error
    broken = error.as_kind(StreamBroken)
    broken.cost = transcript.answer().cost
    return broken


def _why_unfinished(response: aiohttp.ClientResponse, transcript: Transcript) -> str:
    if response.content_type == "text/event-stream" or transcript.has_content:
        return "its stream ended before the answer did"
    return f"it answered with {response.content_type} instead of a stream"


def _payload(body: Mapping[str, Any]) -> aiohttp.BytesPayload:
    """The body as UTF-8. Escapes are three times as long and as slow where a prompt is not ASCII.

    Half a surrogate pair, which UTF-8 cannot hold, stays the escape that it was.

    >>> _payload({"text": "naïve"})._value.decode(), _payload({"text": "\\ud83d"})._value
    ('{"text": "naïve"}', b'{"text": "\\\\ud83d"}')
    """
    text = json.dumps(body, ensure_ascii=False)
    data = text.encode("utf-8", "backslashreplace")
    return aiohttp.BytesPayload(data, content_type="application/json")


def _headers(expert: Expert, own: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The headers to send, and the names of those that the config removes."""
    headers = {name: value for name, value in expert.headers.items() if value is not None}
    headers |= {**trace_headers(expert.headers), **own}
    return headers, [name for name, value in expert.headers.items() if value is None]


def _what_failed(error: aiohttp.ClientError) -> str:
    """What went wrong with a connection, without names and addresses.

    >>> _what_failed(aiohttp.ServerDisconnectedError())
    'it was closed without an answer'
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"its proxy refuses the connection (HTTP {error.status})"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return "its proxy cannot be reached"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name of its host is unknown"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not valid"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it was closed without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "it broke in the middle of the answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "its reply is not HTTP"
    if isinstance(error, aiohttp.InvalidURL):
        return "its address is not a URL"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return "it could not be made or was lost"


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
        await asyncio.sleep(0)  # other requests have their turn


def _failure(call: Call, response: aiohttp.ClientResponse, raw: bytes) -> UpstreamError:
    cost = reported_cost(call, parse(raw)) if b"usage" in raw else 0.0
    return _faults.failure(
        call.expert.name,
        _faults.read(raw),
        response.status,
        retry_after=rate_limits.retry_after(response.headers),
        cost=cost,
    )
