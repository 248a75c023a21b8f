"""Sends a request to an expert, repeats it after failures that may pass, and bills every try."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from routewright.errors import (
    NotAdmissible,
    StreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from routewright.experts.dialect import Dialect
from routewright.experts.providers import Call, output_text
from routewright.experts.spending import bound, capped, estimate, output_limit
from routewright.types import Answer, Delta

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between tries
T = TypeVar("T")
Pieces = AsyncGenerator[Delta | Answer, None]


@dataclass
class Tries:
    """The tries of one call, and what they have cost so far.

    A try that was sent and got no answer may have been charged. It is billed at its estimate, or
    at its upper bound if the ask has a `max_cost` (US$), so that the next try cannot exceed it.
    """

    call: Call
    dialect: Dialect
    max_cost: float | None = None
    spent: float = 0.0  # US$ of the tries that have ended
    estimated: bool = False  # whether a part of that is an estimate
    began: float | None = None  # start of the try in progress; None: there is none
    characters: int = 0  # received of the try in progress

    async def ask(self, attempt: Callable[[Call], Awaitable[Answer]]) -> Answer:
        """Returns the answer, with the cost of the failed tries; raises UpstreamError."""
        return self._complete(await self._repeat(attempt))

    async def stream(self, attempt: Callable[[Call], Pieces]) -> Pieces:
        """Yields the pieces, then the answer. No try follows the first piece."""

        async def first_piece(call: Call) -> tuple[Delta | Answer, Pieces]:
            pieces = attempt(call)
            try:
                async for piece in pieces:
                    return piece, pieces
                raise UpstreamError(call.expert.name, "its stream is empty", transient=True)
            except BaseException:
                await pieces.aclose()
                raise

        piece, rest = await self._repeat(first_piece)
        async with aclosing(rest):
            try:
                yield self._received(piece)
                async for piece in rest:
                    yield self._received(piece)
            except UpstreamError as error:
                self._fail(error)
                raise

    def bill(self) -> Answer:
        """What the call has cost if it ends now; estimated for the try in progress."""
        seconds, sent, received = 0.0, 0, 0
        if self.began is not None:
            seconds = time.monotonic() - self.began
            sent, received = self._estimate(seconds)
        return Answer(
            self.call.expert.name,
            cost=self.spent + self.call.expert.price(sent, received),
            latency=seconds,
            input_tokens=sent,
            output_tokens=received,
            estimated=self.estimated or self.began is not None,
        )

    async def _repeat(self, attempt: Callable[[Call], Awaitable[T]]) -> T:
        """Repeats an attempt until it succeeds, with growing pauses, unless it cost money.

        A timeout is not repeated: it has used up the time. The upstream's Retry-After is obeyed.
        If it exceeds the time that is left, the failure is raised at once, so that another expert
        can answer. A refusal that teaches the client what the endpoint knows is followed by a
        translated request.
        """
        # Written by hand: retry libraries support neither Retry-After nor shrinking limits.
        expert, began = self.call.expert, time.monotonic()
        deadline = began + expert.timeout
        last_try = began + min(expert.timeout, self.call.patience)
        failures = 0
        while True:
            self.began, self.characters = time.monotonic(), 0
            body = self.dialect.translate(self.call.body)
            left = max(0.001, deadline - self.began)
            try:
                return await attempt(replace(self.call, body=body, timeout=left))
            except UpstreamRefused as refusal:
                self._fail(refusal)
                dialect = self.dialect.taught(refusal, self.call.body)
                if dialect is None:
                    raise
                self.dialect = dialect
            except UpstreamError as error:
                reported = bool(error.cost)
                self._fail(error)
                pause = _pause(failures, error.retry_after)
                too_late = pause > LONGEST_PAUSE or time.monotonic() + pause > last_try
                may_pass = error.transient and not isinstance(error, UpstreamTimeout | StreamBroken)
                useless = not may_pass or reported or failures >= expert.retries
                if useless or too_late or not self._cap():
                    raise
                failures += 1
                await asyncio.sleep(pause)

    def _cap(self) -> bool:
        """Limits the next try to the money that is left; False if that covers no token."""
        if self.max_cost is None or not self.spent:
            return True
        left = self.max_cost - self.spent
        try:
            self.call = replace(self.call, body=capped(self.call.body, self.call.expert, left))
        except NotAdmissible:
            return False
        return True

    def _received(self, piece: Delta | Answer) -> Delta | Answer:
        if isinstance(piece, Answer):
            return self._complete(piece)
        self.characters += len(output_text(piece.message))
        return piece

    def _complete(self, answer: Answer) -> Answer:
        """The answer, with the cost of the failed tries."""
        failed, self.spent, self.began = self.spent, self.spent + answer.cost, None
        if not failed:
            return answer
        return replace(answer, cost=self.spent, estimated=answer.estimated or self.estimated)

    def _fail(self, error: UpstreamError) -> None:
        """Adds the cost of the try that has failed, and tells the error the cost of all tries."""
        began = time.monotonic() if self.began is None else self.began
        if error.cost:
            self.estimated = self.estimated or isinstance(error, StreamBroken)
        elif error.sent or isinstance(error, UpstreamTimeout):
            error.cost = self._charge(error, time.monotonic() - began)
            self.estimated = True
        self.spent += error.cost
        self.began = None
        error.cost, error.estimated = self.spent, self.estimated

    def _charge(self, error: UpstreamError, seconds: float) -> float:
        """US$ of a try that was sent and got no answer.

        After a timeout the upstream may write on until the output limit. If it broke the
        connection itself, it has written no more than it could until then.
        """
        expert, body = self.call.expert, self.call.body
        if self.max_cost is None:
            return expert.price(*self._estimate(seconds))
        written = math.inf if isinstance(error, UpstreamTimeout) else seconds
        return bound(body, expert, written)

    def _estimate(self, seconds: float) -> tuple[int, int]:
        """The input and output tokens of the try in progress, which began `seconds` ago."""
        sent, received = estimate(self.call.body, seconds)
        if self.characters:
            received = int(min(math.ceil(self.characters / 4), output_limit(self.call.body)))
        return sent, received


def _pause(failures: int, retry_after: float | None) -> float:
    pause = min(FIRST_PAUSE * 2.0**failures, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    return max(pause, retry_after or 0.0)
