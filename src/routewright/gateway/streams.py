"""Server-sent events to a client, and what keeps their connection open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from routewright.gateway.replies import COMMENT


class Events(StreamingResponse):
    """A stream of server-sent events, with a comment whenever it is silent for too long.

    `close` is called as soon as sending ends, with or without success.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        keep_alive: float,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(pieces, headers=headers, media_type="text/event-stream")
        self.pieces = pieces
        self.keep_alive = keep_alive
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.pieces), _kept_alive(send, self.keep_alive) as send:
                await super().__call__(scope, receive, send)
        finally:
            await self.close()


@asynccontextmanager
async def _kept_alive(send: Send, seconds: float) -> AsyncIterator[Send]:
    """A `send` for one stream. A comment is sent whenever nothing else has been for `seconds`.

    Proxies and load balancers cut connections that are silent. Clients ignore comments.
    """
    if not seconds:
        yield send
        return
    is_open = False  # between the headers and the end, while nothing is being sent
    last = 0.0

    async def send_in_time(message: Message) -> None:
        nonlocal is_open, last
        is_open = False
        await send(message)
        is_open, last = message.get("more_body", True), time.monotonic()

    async def comment() -> None:
        body = {"type": "http.response.body", "body": COMMENT, "more_body": True}
        with suppress(OSError):  # the client has disconnected
            while True:
                left = last + seconds - time.monotonic()
                if is_open and left <= 0:
                    await send_in_time(body)
                await asyncio.sleep(left if left > 0 else seconds)

    comments = asyncio.create_task(comment())
    try:
        yield send_in_time
    finally:
        comments.cancel()
        await asyncio.wait({comments})
