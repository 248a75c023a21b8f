"""The two loops that run a strategy: `replay` on recorded answers, `live` on the network.

Both check every ask against the query's limits, both count everything spent, and both hand a
strategy the same things in the same order: what we evaluate is what we serve.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Protocol

from routewright.errors import (
    DeadlineExceeded,
    NotAdmissible,
    RoutewrightError,
    StreamBroken,
    UpstreamError,
)
from routewright.experts.limits import admit, guard, recorded
from routewright.types import Answer, Ask, Committee, Decision, Delta, Expert, Query, Strategy

Record = Mapping[str | tuple[str, str], Answer]  # expert, or (expert, kind), ▶ what it said


class Asker(Protocol):
    """What `live` needs of the world; `routewright.experts.client.Client` is the real one.

    Both raise UpstreamError before the first byte and StreamBroken after it. `stream` yields
    the pieces, then the whole answer, once. `bill` says what an ask that was cancelled after
    `seconds` has cost.
    """

    async def ask(self, ask: Ask, query: Query) -> Answer: ...

    def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]: ...

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer: ...


# --- recorded ------------------------------------------------------------------------------


def replay(
    strategy: Strategy,
    query: Query,
    record: Record,
    experts: Iterable[Expert] | None = None,
) -> Decision:
    """Runs a plan on recorded answers.

    `record` maps an expert's name (or `(name, kind)` for verifications) to its Answer. Without
    `experts` whoever is in the record may be asked. A missing answer counts as an expert that
    failed, so fallbacks are exercised too.

    >>> from routewright.strategies.fixed import Fixed
    >>> replay(Fixed("small"), Query.of("hi"), {"small": Answer("small", "hello")}).answer.text
    'hello'
    """
    if experts is None:
        named = (key if isinstance(key, str) else key[0] for key in record)
        experts = [recorded(name) for name in dict.fromkeys(named)]
    known = {expert.name: expert for expert in experts}
    query, rejected = admit(query, known.values())
    plan = strategy.plan(query)
    spent: list[Answer] = []
    try:
        wanted = next(plan)
        while True:
            try:
                answers = _recorded(wanted, query, known, record, spent)
            except RoutewrightError as error:
                wanted = plan.throw(error)
            else:
                wanted = plan.send(answers)
    except StopIteration as stop:
        return _settle(stop.value, spent, rejected)
    finally:
        plan.close()


def _recorded(
    wanted: Ask | tuple[Ask, ...],
    query: Query,
    experts: Mapping[str, Expert],
    record: Record,
    spent: list[Answer],
) -> Answer | tuple[Answer, ...]:
    if isinstance(wanted, Ask):
        _allow((wanted,), query, experts, spent)
        answer = _look_up(wanted, record)
        spent.append(answer)
        if answer.status in ("failed", "cancelled"):
            raise UpstreamError.of(answer)
        return answer
    _allow(wanted, query, experts, spent)
    answers = _first_enough(wanted, tuple(_look_up(ask, record) for ask in wanted))
    spent.extend(answers)
    return answers


def _look_up(ask: Ask, record: Record) -> Answer:
    """What is recorded, and whether it defers; a missing answer counts as one that failed."""
    answer = record.get((ask.expert, ask.kind))
    if answer is None and ask.kind == "answer":
        answer = record.get(ask.expert)
    if answer is None:
        return _failed(ask, f"no recorded {ask.kind}")
    return ask.mark_deferred(answer)


def _first_enough(wanted: tuple[Ask, ...], answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Replays the order of arrival; whoever would have been cancelled is marked so.

    The cost of a cancelled answer stays whole: the record cannot say how far it had come.
    """
    enough = wanted.enough if isinstance(wanted, Committee) else None
    if enough is None:
        return answers
    order = sorted(range(len(answers)), key=lambda i: (_known(answers[i].latency), i))
    seen: tuple[Answer, ...] = ()
    late: set[int] = set()
    for i in order:
        if seen and enough(seen):
            late.add(i)
        elif answers[i].status == "ok":
            seen += (answers[i],)
    return tuple(
        replace(answer, status="cancelled", text="")
        if i in late and answer.status != "failed"
        else answer
        for i, answer in enumerate(answers)
    )


def _known(latency: float) -> float:
    return latency if latency == latency else float("inf")


# --- live ----------------------------------------------------------------------------------


async def live(
    strategy: Strategy,
    query: Query,
    experts: Iterable[Expert],
    asker: Asker,
    *,
    stream: bool = False,
    spent: list[Answer] | None = None,
) -> AsyncGenerator[Delta | Decision, None]:
    """Runs a plan on the network; yields pieces of the final answer, then the Decision.

    With `stream` the text of final asks is passed on as it arrives; an answer that a strategy
    keeps after looking at it comes as one piece. Without, only the Decision is yielded. The
    deadline of the query cancels whatever is under way; so does closing this generator, or
    cancelling the task that reads it. Every answer paid for is added to `spent` as it ends, so
    that a query whose client went away is still accounted for.

    Raises NotAdmissible, UpstreamError, StreamBroken or DeadlineExceeded.
    """
    known = {expert.name: expert for expert in experts}
    query, rejected = admit(query, known.values())
    plan = strategy.plan(query)
    run = _Run(query, known, asker, _deadline(query), [] if spent is None else spent)
    try:
        wanted = next(plan)
        while True:
            try:
                if isinstance(wanted, Ask) and wanted.final and stream:
                    async with aclosing(run.stream(wanted)) as pieces:
                        async for piece in pieces:
                            if isinstance(piece, Delta):
                                yield piece
                            else:
                                answers: Answer | tuple[Answer, ...] = piece
                elif isinstance(wanted, Ask):
                    answers = await run.ask(wanted)
                else:
                    answers = await run.ask_all(wanted)
            except (StreamBroken, DeadlineExceeded):
                raise  # nobody may take over
            except (NotAdmissible, UpstreamError) as error:
                wanted = plan.throw(error)
            else:
                wanted = plan.send(answers)
    except StopIteration as stop:
        decision = _settle(stop.value, run.spent, rejected)
    except RoutewrightError as error:
        error.spent = tuple(run.spent)
        raise
    finally:
        plan.close()
    if stream and not run.streamed:
        yield _whole(decision.answer)
    yield decision


async def decide(
    strategy: Strategy, query: Query, experts: Iterable[Expert], asker: Asker
) -> Decision:
    """`live` without streaming: waits for the Decision."""
    async with aclosing(live(strategy, query, experts, asker)) as events:
        async for event in events:
            if isinstance(event, Decision):
                return event
    raise AssertionError("live always ends with a decision")


class _Run:
    """One query on its way: what it has cost so far and when it must be done."""

    def __init__(
        self,
        query: Query,
        experts: Mapping[str, Expert],
        asker: Asker,
        deadline: float | None,
        spent: list[Answer],
    ) -> None:
        self.query = query
        self.experts = experts
        self.asker = asker
        self.deadline = deadline
        self.spent = spent
        self.streamed = False

    async def ask(self, ask: Ask) -> Answer:
        (query,) = self._allow((ask,))
        with self._accounts(ask, query):
            async with asyncio.timeout(self._left()):
                answer = ask.mark_deferred(await self.asker.ask(ask, query))
        self.spent.append(answer)
        return answer

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer, None]:
        """The pieces, held back while the answer may still turn out deferred; then the answer."""
        (query,) = self._allow((ask,))
        began = time.monotonic()
        held: list[Delta] = []
        with self._accounts(ask, query):
            async with aclosing(self.asker.stream(ask, query)) as pieces:
                while True:
                    # The clock runs while we wait for the expert, not while the client reads.
                    async with asyncio.timeout(self._left()):
                        piece = await anext(pieces)
                    if isinstance(piece, Answer):
                        answer = ask.mark_deferred(piece)
                        break
                    if piece.text and ask.defers(_text(held)):  # nobody listens to what follows
                        bill = self.asker.bill(ask, query, time.monotonic() - began)
                        answer = replace(bill, text=_text(held), status="deferred")
                        break
                    held.append(piece)
                    if self.streamed or _is_clear(ask, held):
                        self.streamed = True
                        for delta in held:
                            yield delta
                        held.clear()
        self.spent.append(answer)
        if answer.status == "ok":
            for delta in held:
                self.streamed = True
                yield delta
        yield answer

    @contextmanager
    def _accounts(self, ask: Ask, query: Query) -> Iterator[None]:
        """Counts what an ask has cost that fails, is late, or is cancelled."""
        began = time.monotonic()
        try:
            yield
        except UpstreamError as error:
            self.spent.append(_failed(ask, error.reason, error.cost))
            if isinstance(error, StreamBroken) and not self.streamed:
                raise _before_first_byte(error) from error
            raise
        except TimeoutError as error:
            self._cancelled(ask, query, began)
            raise DeadlineExceeded(_too_late(self.query)) from error
        except (asyncio.CancelledError, GeneratorExit):
            self._cancelled(ask, query, began)
            raise

    async def ask_all(self, asks: tuple[Ask, ...]) -> tuple[Answer, ...]:
        enough = asks.enough if isinstance(asks, Committee) else None
        queries = self._allow(asks)
        began = time.monotonic()
        tasks = [
            asyncio.create_task(self._member(ask, query))
            for ask, query in zip(asks, queries, strict=True)
        ]
        arrived: tuple[Answer, ...] = ()
        try:
            async with asyncio.timeout(self._left()):
                for next_one in asyncio.as_completed(tasks):
                    answer = await next_one
                    arrived += (answer,) if answer.status == "ok" else ()
                    if enough is not None and arrived and enough(arrived):
                        break
        except TimeoutError as error:
            raise DeadlineExceeded(_too_late(self.query)) from error
        finally:
            for task in tasks:
                task.cancel()
            said = await asyncio.gather(*tasks, return_exceptions=True)
            seconds = time.monotonic() - began
            answers = tuple(
                answer
                if isinstance(answer, Answer)
                else replace(self.asker.bill(ask, query, seconds), status="cancelled")
                for answer, ask, query in zip(said, asks, queries, strict=True)
            )
            self.spent.extend(answers)
        return answers

    async def _member(self, ask: Ask, query: Query) -> Answer:
        try:
            return ask.mark_deferred(await self.asker.ask(ask, query))
        except UpstreamError as error:
            return _failed(ask, error.reason, error.cost)
        except NotAdmissible as error:
            return _failed(ask, error.rejected[ask.expert])

    def _allow(self, asks: tuple[Ask, ...]) -> list[Query]:
        """Checks the asks; for each the query with its share of the money and time left."""
        queries = _allow(asks, self.query, self.experts, self.spent)
        return [replace(query, max_latency=self._left()) for query in queries]

    def _cancelled(self, ask: Ask, query: Query, began: float) -> None:
        bill = self.asker.bill(ask, query, time.monotonic() - began)
        self.spent.append(replace(bill, status="cancelled"))

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def _deadline(query: Query) -> float | None:
    return None if query.max_latency is None else time.monotonic() + query.max_latency


def _too_late(query: Query) -> str:
    return f"no complete answer within max_latency of {query.max_latency:g} s"


def _text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _is_clear(ask: Ask, deltas: list[Delta]) -> bool:
    """Whether these deltas are certainly an answer: another opening, or a tool call."""
    called = any(delta.message.get("tool_calls") for delta in deltas)
    return called or ask.defers(_text(deltas)) is False


def _before_first_byte(error: StreamBroken) -> UpstreamError:
    """A stream that broke while it was held back: the client saw nothing, others may answer."""
    return UpstreamError(error.expert, error.reason, cost=error.cost)


def _whole(answer: Answer) -> Delta:
    message = answer.message or {"role": "assistant", "content": answer.text}
    return Delta(answer.expert, answer.text, message, answer.finish_reason, whole=True)


# --- both ----------------------------------------------------------------------------------


def _allow(
    asks: tuple[Ask, ...], query: Query, experts: Mapping[str, Expert], spent: list[Answer]
) -> list[Query]:
    """Checks every ask; for each the query with its share of the money that is left.

    Asks that run side by side share by their experts' prices: each may write as much.
    """
    if query.max_cost is None:
        for ask in asks:
            guard(ask, query, experts)
        return [query] * len(asks)
    left = query.max_cost - _sum(spent)
    prices = [_price(ask, query, experts) for ask in asks]
    total = math.fsum(prices)
    queries = []
    for ask, price in zip(asks, prices, strict=True):
        share = replace(query, max_cost=left * (price / total) if total else left)
        guard(ask, share, experts)
        queries.append(share)
    return queries


def _price(ask: Ask, query: Query, experts: Mapping[str, Expert]) -> float:
    """US$ of an answer as long as the query, to weigh experts against each other."""
    expert = experts.get(ask.expert)
    return expert.price(query.input_tokens + 1, query.input_tokens + 1) if expert else 0.0


def _failed(ask: Ask, reason: str, cost: float = 0.0) -> Answer:
    return Answer(ask.expert, kind=ask.kind, status="failed", reason=reason, cost=cost)


def _settle(decision: Decision, spent: list[Answer], rejected: Mapping[str, str]) -> Decision:
    assert isinstance(decision, Decision), "a strategy must return a Decision"
    return replace(decision, spent=tuple(spent), rejected={**rejected, **decision.rejected})


def _sum(spent: list[Answer]) -> float:
    return sum(answer.cost for answer in spent)
