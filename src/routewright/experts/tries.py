"""Sends a request to an expert, repeats it after failures that may pass, and bills every try."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from routewright.errors import (
    Busy,
    NotAdmissible,
    StreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from routewright.experts.deployments import OF_A_DEPLOYMENT, Endpoint, Endpoints, Turn
from routewright.experts.dialect import Dialect
from routewright.experts.providers import Call, input_tokens, output_text
from routewright.experts.spending import bound, capped, estimate, output_limit
from routewright.types import Answer, Delta, changed

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between tries
T = TypeVar("T")
D = TypeVar("D", Delta, Answer)
Pieces = AsyncGenerator[Delta | Answer, None]


@dataclass
class Tries:
    """The tries of one call, and what they have cost so far.

    A try that was sent and got no answer may have been charged. It is billed at its estimate, or
    at its upper bound if the ask has a `max_cost` (US$), so that the next try cannot exceed it.
    """

    call: Call
    endpoints: Endpoints
    free: asyncio.Semaphore  # of the connections that this process has descriptors for
    max_cost: float | None = None
    spent: float = 0.0  # US$ of the tries that have ended
    estimated: bool = False  # whether a part of that is an estimate
    began: float | None = None  # start of the try in progress; None: there is none
    characters: int = 0  # received of the try in progress
    tokens: int = 0  # of the answer, input and output
    turn: Turn | None = None  # of the try in progress
    dialect: Dialect | None = None  # that a refusal taught in this turn

    async def ask(self, attempt: Callable[[Call], Awaitable[Answer]]) -> Answer:
        """Returns the answer, with the cost of the failed tries; raises UpstreamError."""
        try:
            return self._complete(await self._repeat(attempt))
        finally:
            self._leave()

    async def count(self, attempt: Callable[[Call], Awaitable[int]]) -> int:
        """Returns a count of tokens, which costs nothing; raises UpstreamError."""
        try:
            return await self._repeat(attempt)
        finally:
            self._leave()

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

        try:
            piece, rest = await self._repeat(first_piece)
            async with aclosing(rest):
                try:
                    yield self._received(piece)
                    async for piece in rest:
                        yield self._received(piece)
                except UpstreamError as error:
                    self._fail(error)
                    raise
        finally:
            self._leave()

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

        If the expert has several deployments, the others are asked first, without a pause. A
        timeout is not repeated: it has used up the time. The upstream's Retry-After is obeyed. If
        it exceeds the time that is left, the failure is raised at once, so that another expert can
        answer. A refusal that teaches the client what the endpoint knows is followed by a
        translated request.
        """
        # Written by hand: retry libraries support neither Retry-After nor shrinking limits.
        expert, began = self.call.expert, time.monotonic()
        deadline, patience = began + expert.timeout, began + self.call.patience
        failures = 0
        tried: dict[Endpoint, UpstreamError] = {}  # since the last pause
        while True:
            if self.turn is None:  # the time until it comes is not that of the expert
                deadline += await self._take_turn(patience, tried)
            try:
                return await self._try(attempt, deadline)
            except UpstreamError as error:
                reported = bool(error.cost)
                self._fail(error)
                if self._learns(error):
                    continue
                last_try = min(deadline, patience)
                if not reported and self._fails_over(error, tried, last_try) and self._cap():
                    continue
                failure = self._failure(error, tried)
                pause = _pause(failures, failure.retry_after)
                too_late = pause > LONGEST_PAUSE or time.monotonic() + pause > last_try
                useless = not _may_pass(failure) or reported or failures >= expert.retries
                if useless or too_late or not self._cap():
                    raise failure from failure.__cause__
            failures += 1
            tried.clear()
            self._leave()
            await asyncio.sleep(pause)

    async def _try(self, attempt: Callable[[Call], Awaitable[T]], deadline: float) -> T:
        """One attempt at the endpoint whose turn it is."""
        assert self.turn is not None, "an attempt needs a turn"
        endpoint = self.turn.endpoint
        self.began, self.characters = time.monotonic(), 0
        call = changed(
            self.call,
            expert=endpoint.expert,
            body=(self.dialect or endpoint.dialect).translate(self.call.body),
            timeout=max(0.001, deadline - self.began),
            heed=endpoint.heed,
        )
        result = await attempt(call)
        endpoint.answered()
        endpoint.dialect = self.dialect or endpoint.dialect
        return result

    async def _take_turn(self, patience: float, tried: Mapping[Endpoint, UpstreamError]) -> float:
        """Waits for the turn of the next try; returns the seconds that it took.

        Half of the patience is for waiting, so that an answer of another expert is not late. If
        there is no room, and other deployments have failed before, raises their failure.
        """
        began, expert = time.monotonic(), self.call.expert
        tokens = input_tokens(self.call.body) if self.endpoints.counts_tokens else 0
        seconds = max(0.0, min(expert.timeout, (patience - began) / 2))
        try:
            turn = await self.endpoints.turn(tokens, seconds, tried)
        except Busy as busy:
            if tried:
                raise self._failure(busy, tried) from busy
            busy.cost, busy.estimated = self.spent, self.estimated
            raise
        try:
            await self.free.acquire()
        except BaseException:
            turn.end()
            raise
        self.turn = turn
        return time.monotonic() - began

    def _leave(self) -> None:
        """Ends the turn of the try, so that others may be asked there."""
        if self.turn is not None:
            self.free.release()
            self.turn.end(self.tokens)
            self.turn = self.dialect = None

    def _learns(self, error: UpstreamError) -> bool:
        """Whether a refusal has taught how the endpoint wants the request written."""
        assert self.turn is not None, "a failed try had a turn"
        if not isinstance(error, UpstreamRefused):
            return False
        dialect = (self.dialect or self.turn.endpoint.dialect).taught(error, self.call.body)
        if dialect is None:
            return False
        self.dialect = dialect
        return True

    def _fails_over(
        self, error: UpstreamError, tried: dict[Endpoint, UpstreamError], last_try: float
    ) -> bool:
        """Whether another deployment is to be asked at once; ends the turn of this one."""
        assert self.turn is not None, "a failed try had a turn"
        tried[self.turn.endpoint] = error
        its_own = error.status in OF_A_DEPLOYMENT or not isinstance(error, UpstreamRefused)
        if not its_own or isinstance(error, UpstreamTimeout | StreamBroken):
            return False
        if not self.endpoints.others(tried) or time.monotonic() >= last_try:
            return False
        self._leave()
        return True

    def _failure(
        self, error: UpstreamError, tried: Mapping[Endpoint, UpstreamError]
    ) -> UpstreamError:
        """The failure of the expert after that of its deployments: one that may pass, if any.

        If all told when to come back, it is as soon as the first of them says.
        """
        passing = [failure for failure in tried.values() if _may_pass(failure)]
        failure = passing[-1] if passing else error
        if passing:
            pauses = [one.retry_after for one in passing if one.retry_after is not None]
            failure.retry_after = min(pauses) if len(pauses) == len(passing) else None
        failure.cost, failure.estimated = self.spent, self.estimated
        return failure

    def _cap(self) -> bool:
        """Limits the next try to the money that is left; False if that covers no token."""
        if self.max_cost is None or not self.spent:
            return True
        left = self.max_cost - self.spent
        try:
            self.call = replace(
                self.call, body=capped(self.call.body, self.call.expert, left, self.call.native)
            )
        except NotAdmissible:
            return False
        return True

    def _received(self, piece: Delta | Answer) -> Delta | Answer:
        if isinstance(piece, Answer):
            return self._complete(piece)
        self.characters += len(output_text(piece.message))
        return self._named(piece)

    def _complete(self, answer: Answer) -> Answer:
        """The answer, with the cost of the failed tries."""
        failed, self.spent, self.began = self.spent, self.spent + answer.cost, None
        self.tokens = answer.input_tokens + answer.output_tokens
        answer = self._named(answer)
        if not failed:
            return answer
        return replace(answer, cost=self.spent, estimated=answer.estimated or self.estimated)

    def _named(self, piece: D) -> D:
        """The answer, or a piece of it, which names what the endpoint's dialect left out."""
        assert self.turn is not None, "an answer had a turn"
        if self.call.native is not None:
            return piece
        dropped = (self.dialect or self.turn.endpoint.dialect).dropped(self.call.body)
        return replace(piece, lost=piece.lost + dropped) if dropped else piece

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
        if self.turn is not None:
            self.endpoints.failed(self.turn.endpoint, error)

    def _charge(self, error: UpstreamError, seconds: float) -> float:
        """US$ of a try that was sent and got no answer.

        After a timeout the upstream may write on until the output limit. If it broke the
        connection itself, it has written no more than it could until then.
        """
        expert, body = self.call.expert, self.call.body
        if self.max_cost is None:
            return expert.price(*self._estimate(seconds))
        written = math.inf if isinstance(error, UpstreamTimeout) else seconds
        return bound(body, expert, written, self.call.native)

    def _estimate(self, seconds: float) -> tuple[int, int]:
        """The input and output tokens of the try in progress, which began `seconds` ago."""
        sent, received = estimate(self.call.body, seconds)
        if self.characters:
            received = int(min(math.ceil(self.characters / 4), output_limit(self.call.body)))
        return sent, received


def _may_pass(error: UpstreamError) -> bool:
    return error.transient and not isinstance(error, UpstreamTimeout | StreamBroken)


def _pause(failures: int, retry_after: float | None) -> float:
    pause = min(FIRST_PAUSE * 2.0**failures, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    return max(pause, retry_after or 0.0)
