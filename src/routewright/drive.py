"""The two loops that run a strategy: `replay` on recorded answers, `live` on the network.

Both check every ask against the query's limits, both count everything spent, and both hand a
strategy the same things in the same order: what we evaluate is what we serve. Both refuse a
decision whose answer did not arrive: a failed answer is never a reply.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from routewright.errors import (
    DeadlineExceeded,
    NotAdmissible,
    RoutewrightError,
    StreamBroken,
    UpstreamError,
)
from routewright.experts.limits import admit, guard, recorded
from routewright.types import (
    Answer,
    Ask,
    Committee,
    Decision,
    Delta,
    Expert,
    Plan,
    Query,
    Strategy,
    total_cost,
)

Record = Mapping[str | tuple[str, str], Answer]  # expert, or (expert, kind), ▶ what it said
Result = TypeVar("Result")


class Asker(Protocol):
    """What `live` needs of the world; `routewright.experts.client.Client` is the real one.

    Both raise UpstreamError before the first byte and StreamBroken after it. `stream` yields
    the pieces, then the whole answer, once. `bill` says what an ask that was cancelled after
    `seconds` has cost. What an ask may cost, and how long it may take, stands in the ask; the
    query is the client's.
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

    Raises NotAdmissible, and UpstreamError also where the plan ends with an answer that did not
    arrive. An AssertionError names a mistake of the strategy, such as an answer that it made up.

    >>> import routewright as rw
    >>> class AlwaysSmall:
    ...     def plan(self, query):
    ...         return rw.Decision((yield rw.Ask("small", final=True)), because="always")
    >>> record = {"small": rw.Answer("small", "hello", cost=0.001)}
    >>> decision = rw.replay(AlwaysSmall(), rw.Query.of("hi"), record)
    >>> decision.answer.text, decision.cost
    ('hello', 0.001)
    """
    if experts is None:
        named = (key if isinstance(key, str) else key[0] for key in record)
        experts = [recorded(name) for name in dict.fromkeys(named)]
        query = replace(query, region=None)  # an answer that is recorded may be used anywhere
    by_name = {expert.name: expert for expert in experts}
    query, rejected = admit(query, by_name.values())
    spent: list[Answer] = []
    with _attach_spent(spent):
        decision = _follow(strategy.plan(query), query, by_name, record, spent)
        return _settle(decision, spent, rejected)


def _follow(
    plan: Plan,
    query: Query,
    experts: Mapping[str, Expert],
    record: Record,
    spent: list[Answer],
) -> Decision:
    try:
        asks = next(plan)
        while True:
            try:
                answers = _recorded(asks, query, experts, record, spent)
            except RoutewrightError as error:
                asks = plan.throw(error)
            else:
                asks = plan.send(answers)
    except StopIteration as stop:
        decision: Decision = stop.value
        return decision
    finally:
        plan.close()


def _recorded(
    asks: Ask | tuple[Ask, ...],
    query: Query,
    experts: Mapping[str, Expert],
    record: Record,
    spent: list[Answer],
) -> Answer | tuple[Answer, ...]:
    if isinstance(asks, Ask):
        _allow((asks,), query, experts, spent)
        answer = _look_up(asks, record)
        spent.append(answer)
        if answer.status in ("failed", "cancelled"):
            raise UpstreamError.of(answer)
        return answer
    _allow(asks, query, experts, spent)
    answers = _first_enough(asks, tuple(_look_up(ask, record) for ask in asks))
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


def _first_enough(asks: tuple[Ask, ...], answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Replays the order of arrival; whoever would have been cancelled is marked so.

    The cost of a cancelled answer stays whole: the record cannot say how far it had come.
    """
    enough = asks.enough if isinstance(asks, Committee) else None
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

    Raises NotAdmissible, UpstreamError, StreamBroken or DeadlineExceeded; UpstreamError also where
    the plan ends with an answer that did not arrive. An AssertionError names a mistake of the
    strategy, such as an answer that it made up.
    """
    by_name = {expert.name: expert for expert in experts}
    query, rejected = admit(query, by_name.values())
    run = _Run(query, by_name, asker, stream, [] if spent is None else spent)
    with _attach_spent(run.spent):
        async with aclosing(run.follow(strategy.plan(query))) as pieces:
            async for piece in pieces:
                yield piece
        decision = _settle(run.result, run.spent, rejected)
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


async def consult(
    plan: Generator[Ask | tuple[Ask, ...], Any, Result],
    query: Query,
    experts: Iterable[Expert],
    asker: Asker,
    spent: list[Answer] | None = None,
) -> Result:
    """Runs a plan that asks experts and decides nothing, such as a reward model's; its result.

    Limits, deadline, `spent` and errors are those of `live`.
    """
    by_name = {expert.name: expert for expert in experts}
    query, _ = admit(query, by_name.values())
    run = _Run(query, by_name, asker, False, [] if spent is None else spent)
    with _attach_spent(run.spent):
        async for _ in run.follow(plan):
            raise AssertionError("only a run that streams yields pieces")
    result: Result = run.result
    return result


class _Run:
    """One query on its way: what it has cost so far and when it must be done."""

    def __init__(
        self,
        query: Query,
        experts: Mapping[str, Expert],
        asker: Asker,
        stream: bool,
        spent: list[Answer],
    ) -> None:
        self.query = query
        self.experts = experts
        self.asker = asker
        self.streams = stream
        self.deadline = _deadline(query)
        self.spent = spent
        self.streamed = False  # the client has read something
        self.result: Any = None  # of the plan

    async def follow(
        self, plan: Generator[Ask | tuple[Ask, ...], Any, Any]
    ) -> AsyncGenerator[Delta, None]:
        """Runs a plan until it returns its `result`; yields the pieces of final answers."""
        try:
            asks = next(plan)
            while True:
                if self.streamed:
                    raise AssertionError("a strategy may ask nothing after its final answer")
                try:
                    if isinstance(asks, Ask) and asks.final and self.streams:
                        async with aclosing(self.stream(asks)) as pieces:
                            async for piece in pieces:
                                if isinstance(piece, Delta):
                                    yield piece
                                else:
                                    answers: Answer | tuple[Answer, ...] = piece
                    elif isinstance(asks, Ask):
                        answers = await self.ask(asks)
                    else:
                        answers = await self.ask_all(asks)
                except (StreamBroken, DeadlineExceeded):
                    raise  # nobody may take over
                except (NotAdmissible, UpstreamError) as error:
                    asks = plan.throw(error)
                else:
                    asks = plan.send(answers)
        except StopIteration as stop:
            self.result = stop.value
        finally:
            plan.close()

    async def ask(self, ask: Ask) -> Answer:
        (ask,) = self._allow((ask,))
        with self._accounts(ask):
            async with asyncio.timeout(ask.max_latency):
                answer = ask.mark_deferred(await self.asker.ask(ask, self.query))
        self.spent.append(answer)
        return answer

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer, None]:
        """The pieces, held back while the answer may still turn out deferred; then the answer."""
        (ask,) = self._allow((ask,))
        began = time.monotonic()
        held: list[Delta] = []
        with self._accounts(ask):
            async with aclosing(self.asker.stream(ask, self.query)) as pieces:
                while True:
                    # The clock runs while we wait for the expert, not while the client reads.
                    async with asyncio.timeout(self._left()):
                        piece = await anext(pieces)
                    if isinstance(piece, Answer):
                        answer = ask.mark_deferred(piece)
                        break
                    if piece.text and ask.defers(_text(held)):  # nobody listens to what follows
                        bill = self.asker.bill(ask, self.query, time.monotonic() - began)
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
    def _accounts(self, ask: Ask) -> Iterator[None]:
        """Counts what an ask has cost that fails, is late, or is cancelled."""
        began = time.monotonic()
        try:
            yield
        except UpstreamError as error:
            self.spent.append(_failed(ask, error.reason, error.cost))
            if isinstance(error, StreamBroken) != self.streamed:
                raise self._as_the_client_sees(error) from error
            raise
        except TimeoutError as error:
            self._cancelled(ask, began)
            raise DeadlineExceeded(_too_late(self.query)) from error
        except (asyncio.CancelledError, GeneratorExit):
            self._cancelled(ask, began)
            raise

    async def ask_all(self, asks: tuple[Ask, ...]) -> tuple[Answer, ...]:
        enough = asks.enough if isinstance(asks, Committee) else None
        asks = self._allow(asks)
        began = time.monotonic()
        tasks = [asyncio.create_task(self._member(ask)) for ask in asks]
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
                else replace(self.asker.bill(ask, self.query, seconds), status="cancelled")
                for answer, ask in zip(said, asks, strict=True)
            )
            self.spent.extend(answers)
        return answers

    async def _member(self, ask: Ask) -> Answer:
        try:
            return ask.mark_deferred(await self.asker.ask(ask, self.query))
        except UpstreamError as error:
            return _failed(ask, error.reason, error.cost)
        except NotAdmissible as error:
            return _failed(ask, error.rejected[ask.expert])

    def _allow(self, asks: tuple[Ask, ...]) -> tuple[Ask, ...]:
        return _allow(asks, self.query, self.experts, self.spent, self._left())

    def _cancelled(self, ask: Ask, began: float) -> None:
        bill = self.asker.bill(ask, self.query, time.monotonic() - began)
        self.spent.append(replace(bill, status="cancelled"))

    def _as_the_client_sees(self, error: UpstreamError) -> UpstreamError:
        """Once the client has read something nobody may take over; a stream that broke while it
        was held back may be taken over."""
        kind = StreamBroken if self.streamed else UpstreamError
        return kind(error.expert, error.reason, cost=error.cost)

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


def _whole(answer: Answer) -> Delta:
    message = answer.message or {"role": "assistant", "content": answer.text}
    return Delta(answer.expert, answer.text, message, answer.finish_reason, whole=True)


# --- both ----------------------------------------------------------------------------------


def _allow(
    asks: tuple[Ask, ...],
    query: Query,
    experts: Mapping[str, Expert],
    spent: list[Answer],
    seconds: float | None = None,
) -> tuple[Ask, ...]:
    """The asks with what each may cost and how long it may take; raises NotAdmissible.

    `seconds` are left of the query's time. Asks that run side by side share the money that is left
    by their experts' prices: each may write as much.
    """
    shares = _shares(asks, query, experts, spent)
    limited = tuple(
        replace(ask, max_cost=share, max_latency=seconds)
        for ask, share in zip(asks, shares, strict=True)
    )
    for ask in limited:
        guard(ask, query, experts)
    return limited


def _shares(
    asks: tuple[Ask, ...], query: Query, experts: Mapping[str, Expert], spent: list[Answer]
) -> list[float] | list[None]:
    """US$ for each ask of what is left of the query's money; None where it has no limit."""
    if query.max_cost is None:
        return [None] * len(asks)
    left = query.max_cost - total_cost(spent)
    prices = [_price(ask, query, experts) for ask in asks]
    total = math.fsum(prices)
    return [left * (price / total) if total else left for price in prices]


def _price(ask: Ask, query: Query, experts: Mapping[str, Expert]) -> float:
    """US$ of an answer as long as the query, to weigh experts against each other."""
    expert = experts.get(ask.expert)
    return expert.price(query.input_tokens + 1, query.input_tokens + 1) if expert else 0.0


@contextmanager
def _attach_spent(spent: list[Answer]) -> Iterator[None]:
    """A failure that leaves a loop carries what was paid for before it."""
    try:
        yield
    except RoutewrightError as error:
        error.spent = tuple(spent)
        raise


def _failed(ask: Ask, reason: str, cost: float = 0.0) -> Answer:
    return Answer(ask.expert, kind=ask.kind, status="failed", reason=reason, cost=cost)


def _settle(decision: object, spent: list[Answer], rejected: Mapping[str, str]) -> Decision:
    """The decision of a plan, with everything that it asked.

    Raises UpstreamError unless its answer arrived, AssertionError unless this plan asked for it.
    """
    if not isinstance(decision, Decision):
        raise AssertionError(f"a strategy must return a Decision, not {decision!r:.100}")
    answer = decision.answer
    if answer.status != "ok":
        raise UpstreamError.of(answer)
    if answer.kind != "answer" or answer not in spent:
        raise AssertionError(
            "a strategy must return an answer that it asked for: this plan was given no such"
            f" answer of '{answer.expert}'"
        )
    return replace(decision, spent=tuple(spent), rejected={**rejected, **decision.rejected})
