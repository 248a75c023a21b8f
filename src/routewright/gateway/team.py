"""The worker processes of one gateway, which ask each other through their parent.

Each worker has a socket to its parent (`workers`) that carries lines of JSON. Its end tells each
of them that the other one is gone, also after a `kill -9`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

MOST_BYTES = 64 * 2**20  # of one line
ANSWER_SECONDS = 5.0  # that the other process gets to answer

Answer = Callable[[Any], Awaitable[Any]]

log = logging.getLogger(__name__)


class Link:
    """One end of a socket over which two processes ask each other.

    `answers` maps what this end may be asked to what answers it. `run` reads until the other end is
    closed.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: dict[str, Answer],
    ) -> None:
        self.answers = answers
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    @classmethod
    async def over(cls, end: socket.socket, answers: dict[str, Answer]) -> Self:
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MOST_BYTES), answers)

    async def run(self) -> None:
        with suppress(ConnectionError):
            while line := await self._reader.readline():
                self._receive(json.loads(line))
        for future in self._asked.values():
            if not future.done():
                future.set_result(None)
        self._writer.close()

    async def ask(self, name: str, value: Any = None, seconds: float = ANSWER_SECONDS) -> Any:
        """The other end's answer; None if it is gone, fails, or needs longer."""
        if self._writer.is_closing():
            return None
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"ask": name, "value": value, "number": number})
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def tell(self, name: str, value: Any = None) -> None:
        """Asks without waiting for an answer."""
        self._send({"ask": name, "value": value})

    def _receive(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            task = asyncio.create_task(self._reply(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif (future := self._asked.get(message["number"])) is not None and not future.done():
            future.set_result(message["value"])

    async def _reply(self, message: dict[str, Any]) -> None:
        value = None
        try:
            value = await self.answers[message["ask"]](message["value"])
        except Exception:
            log.exception("a worker could not do what it was asked: %s", message["ask"])
        if "number" in message:
            self._send({"number": message["number"], "value": value})

    def _send(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")


class Team:
    """The workers of a gateway, as one of them sees the others; by default it is alone.

    `answers` holds what the others may ask it. Worker 0 runs the servers of launched experts.
    """

    def __init__(self, number: int = 0, end: socket.socket | None = None) -> None:
        self.number = number
        self.answers: dict[str, Answer] = {}
        self._end = end
        self._link: Link | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def is_alone(self) -> bool:
        return self._end is None

    async def join(self) -> None:
        """Begins to answer the others; answers `stop` when the parent has ended."""
        if self._end is None:
            return
        link = self._link = await Link.over(self._end, self.answers)

        async def watch() -> None:
            await link.run()
            await self.answers["stop"]("parent ended")

        self._watching = asyncio.create_task(watch())

    def is_ready(self) -> None:
        """Tells the parent that this worker answers requests."""
        if self._link is not None:
            self._link.tell("ready")

    async def gather(self, name: str, value: Any = None, seconds: float = ANSWER_SECONDS) -> Any:
        """What the other workers answer; those that do not are left out. `value` is for them."""
        if self._link is None:
            return []
        message = {"name": name, "value": value, "seconds": seconds}
        return await self._link.ask("others", message, seconds + 1) or []

    def need(self, expert: str) -> None:
        """Tells worker 0 that the server of a launched expert is in use here, or should be."""
        if self._link is not None:
            self._link.tell("need", expert)

    async def alone(self, seconds: float) -> None:
        """In worker 0 of a gateway that stops: waits until no other worker is left."""
        if self._link is not None and self.number == 0:
            await self._link.ask("alone", None, seconds)
