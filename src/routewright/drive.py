"""The two loops that run a strategy: `replay` on recorded answers, `live` on the network.

Both loops check every ask against the query's limits, count all costs, and send a strategy the same
values in the same order: what is evaluated is what is served. Both refuse a decision whose answer
did not arrive: a failed answer is never a reply.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from routewright.errors import (
    DeadlineExceeded,
    NotAdmissible,
    RoutewrightError,
    StreamBroken,
    UpstreamError,
    UpstreamTimeout,
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
    changed,
    total_cost,
)

log = logging.getLogger(__name__)

Record = Mapping[str | tuple[str, str], Answer]  # expert, or (expert, kind) ▶ answer
Result = TypeVar("Result")
Runner = Callable[..., Awaitable[Any]]  # runs a function with its arguments, here or in a thread


class Asker(Protocol):
    """Sends the asks of `live`; the network client is `routewright.experts.client.Client`.

    `ask` returns the whole answer; `stream` yields the pieces and then the whole answer. Both
    raise UpstreamError before the first byte, and `stream` raises StreamBroken after it. `bill`
    returns an answer with the cost of an ask that was cancelled after `seconds`. The limits on
    cost and time are in the ask.
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
    `experts` every expert in the record may be asked. A missing answer counts as a failure of the
    expert, so that fallbacks are replayed too.

    Raises NotAdmissible, and UpstreamError, also if the plan returns an answer that did not
    arrive. An AssertionError reports a mistake in the strategy, such as an answer that no expert
    gave.

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
        names = (key if isinstance(key, str) else key[0] for key in record)
        experts = [recorded(name) for name in dict.fromkeys(names)]
        query = replace(query, region=None)  # a recorded answer may be used in any region
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
    """The recorded answer, marked if it defers; a failed one if no answer is recorded."""
    answer = record.get((ask.expert, ask.kind))
    if answer is None and ask.kind == "answer":
        answer = record.get(ask.expert)
    if answer is None:
        return _failed(ask, f"no recorded {ask.kind}")
    return ask.mark_deferred(answer)


def _first_enough(asks: tuple[Ask, ...], answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Replays the order of arrival and marks the answers that would have been cancelled.

    The cost of a cancelled answer is counted in full, because the record does not tell how much
    of it had been written.
    """
    enough = asks.enough if isinstance(asks, Committee) else None
    if enough is None:
        return answers
    order = sorted(range(len(answers)), key=lambda i: (_arrival(answers[i]), i))
    arrivals: tuple[Answer, ...] = ()
    late: set[int] = set()
    for i in order:
        if arrivals and enough(arrivals):
            late.add(i)
        elif answers[i].status == "ok":
            arrivals += (answers[i],)
    return tuple(
        replace(answer, status="cancelled", text="")
        if i in late and answer.status != "failed"
        else answer
        for i, answer in enumerate(answers)
    )


def _arrival(answer: Answer) -> float:
    """The seconds until an answer arrives; infinite if its latency is unknown."""
    return math.inf if math.isnan(answer.latency) else answer.latency


# --- live ----------------------------------------------------------------------------------


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """The Runner that runs a function here, on the event loop."""
    return function(*arguments)


async def live(
    strategy: Strategy,
    query: Query,
    experts: Iterable[Expert],
    asker: Asker,
    *,
    stream: bool = False,
    spent: list[Answer] | None = None,
    run: Runner = at_once,
) -> AsyncGenerator[Delta | Decision, None]:
    """Runs a plan on the network; yields pieces of the final answer, then the Decision.

    With `stream` the pieces of final asks are yielded as they arrive, and an answer that a
    strategy accepts after it has judged it comes as one piece. Without `stream` only the Decision
    is yielded. Asks in progress are cancelled at the deadline of the query, when this generator is
    closed, and when the task that reads it is cancelled. At the deadline, a plan goes on with the
    answers that have arrived; nobody else is asked. Every answer that costs money is added to
    `spent` as soon as it ends, so that the costs are known even if the client disconnects. `run`
    runs the steps of the plan, which read the prompt and the answers.

    Raises NotAdmissible, UpstreamError, StreamBroken or DeadlineExceeded; UpstreamError also if
    the plan returns an answer that did not arrive. An AssertionError reports a mistake in the
    strategy, such as an answer that no expert gave.
    """
    by_name = {expert.name: expert for expert in experts}
    query, rejected = admit(query, by_name.values())
    loop = _Run(query, by_name, asker, stream, [] if spent is None else spent, run)
    with _attach_spent(loop.spent):
        async with aclosing(loop.follow(strategy.plan(query))) as pieces:
            async for piece in pieces:
                yield piece
        decision = _settle(loop.result, loop.spent, rejected)
    if stream and not loop.streamed:
        yield _whole(decision.answer)
    yield decision


async def decide(
    strategy: Strategy, query: Query, experts: Iterable[Expert], asker: Asker
) -> Decision:
    """Runs a plan on the network, like `live`, and returns the Decision."""
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
    """Runs a plan that returns something else than a Decision, such as that of a reward model.

    Returns the result of the plan. Limits, deadline, `spent` and errors are as in `live`.
    """
    by_name = {expert.name: expert for expert in experts}
    query, _ = admit(query, by_name.values())
    run = _Run(query, by_name, asker, False, [] if spent is None else spent, at_once, False)
    with _attach_spent(run.spent):
        async for _ in run.follow(plan):
            raise AssertionError("only a run that streams yields pieces")
    result: Result = run.result
    return result


class _Run:
    """Runs the plan of one query on the network, with its costs so far and its deadline."""

    def __init__(
        self,
        query: Query,
        experts: Mapping[str, Expert],
        asker: Asker,
        stream: bool,
        spent: list[Answer],
        run: Runner,
        decides: bool = True,
    ) -> None:
        self.query = query
        self.experts = experts
        self.asker = asker
        self.streams = stream
        self.deadline = _deadline(query)
        self.spent = spent
        self.run = run
        self.decides = decides  # whether the plan returns a Decision
        self.streamed = False  # whether the client has received a piece
        self.result: Any = None  # what the plan returned

    async def follow(
        self, plan: Generator[Ask | tuple[Ask, ...], Any, Any]
    ) -> AsyncGenerator[Delta, None]:
        """Runs a plan until it returns; yields the pieces of final answers."""
        try:
            done, asks = await self._step(plan.send, None)
            while not done:
                if self.streamed:
                    mistake = AssertionError("a strategy may ask nothing after its final answer")
                    asks = self._last_answer(mistake)
                    break
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
                except StreamBroken:
                    raise  # no other expert can take over
                except DeadlineExceeded as late:
                    if self.streamed or not self._arrived():
                        raise
                    if isinstance(asks, Ask):
                        timeout = UpstreamTimeout(asks.expert, str(late))
                        done, asks = await self._step(plan.throw, timeout)
                    else:
                        failed = tuple(_failed(ask, str(late)) for ask in asks)
                        done, asks = await self._step(plan.send, failed)
                except (NotAdmissible, UpstreamError) as error:
                    done, asks = await self._step(plan.throw, error)
                else:
                    done, asks = await self._step(plan.send, answers)
            unanswered = isinstance(asks, Decision) and asks.answer.status != "ok"
            if unanswered and self._must_settle():
                asks = self._in_time()
            self.result = asks
        finally:
            if not getattr(
                plan, "gi_running", False
            ):  # else a thread ends its step after the client has left
                plan.close()

    async def _step(self, step: Callable[[Any], Any], value: Any) -> tuple[bool, Any]:
        """Runs a plan to its next asks or to its end.

        A plan that fails on what an expert wrote, or for lack of time, ends with the last answer
        that arrived.
        """
        try:
            return await self.run(_advance, step, value)  # type: ignore[no-any-return]
        except RoutewrightError:
            if not self._must_settle():
                raise
            return True, self._in_time()
        except Exception as mistake:
            return True, self._last_answer(mistake)

    def _must_settle(self) -> bool:
        """Whether the time is over and an answer is in hand."""
        return self._seconds_left() == 0.0 and bool(self._arrived())

    def _in_time(self) -> Decision:
        """The last answer that arrived before the deadline."""
        because = f"{self.query.max_latency:g} s were over; the last answer that arrived is kept"
        return Decision(self._arrived()[-1], because=because)

    def _arrived(self) -> list[Answer]:
        """The answers that may still become the decision's."""
        if not self.decides:
            return []
        return [a for a in self.spent if a.status == "ok" and a.kind == "answer"]

    def _last_answer(self, mistake: Exception) -> Decision:
        """The last answer that arrived, where a strategy failed; raises `mistake` if none did."""
        answers = self._arrived()
        if not answers:
            raise mistake
        name = type(mistake).__name__
        log.error("a strategy failed (%s); its last answer is kept", name, exc_info=mistake)
        return Decision(
            answers[-1], because=f"the strategy failed ({name}); its last answer is kept"
        )

    async def ask(self, ask: Ask) -> Answer:
        (ask,) = self._allow((ask,))
        with self._counted(ask):
            async with asyncio.timeout(ask.max_latency):
                answer = ask.mark_deferred(await self.asker.ask(ask, self.query))
        self.spent.append(answer)
        return answer

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer, None]:
        """Yields the pieces, then the answer. Pieces are held back while the answer may defer."""
        (ask,) = self._allow((ask,))
        began = time.monotonic()
        pending: list[Delta] = []
        start = ""  # of the answer, as far as it tells whether the answer defers
        with self._counted(ask):
            async with aclosing(self.asker.stream(ask, self.query)) as pieces:
                while True:
                    # The timeout covers the wait for the expert, not the client's reading.
                    async with asyncio.timeout(self._seconds_left()):
                        piece = await anext(pieces)
                    if isinstance(piece, Answer):
                        answer = ask.mark_deferred(piece)
                        break
                    if piece.text and ask.defers(start):  # the rest is not needed
                        bill = self.asker.bill(ask, self.query, time.monotonic() - began)
                        answer = replace(bill, text=_text(pending), status="deferred")
                        break
                    pending.append(piece)
                    if not self.streamed:
                        start = (start + piece.text).lstrip()
                    if self.streamed or _cannot_defer(ask, piece, start):
                        self.streamed = True
                        for delta in pending:
                            yield delta
                        pending.clear()
        self.spent.append(answer)
        if answer.status == "ok":
            for delta in pending:
                self.streamed = True
                yield delta
        yield answer

    @contextmanager
    def _counted(self, ask: Ask) -> Iterator[None]:
        """Adds the cost of an ask to `spent` if it fails, is late, or is cancelled."""
        began = time.monotonic()
        try:
            yield
        except UpstreamError as error:
            self.spent.append(_failed(ask, error.reason, error))
            if isinstance(error, StreamBroken) != self.streamed:
                raise self._for_client(error) from error
            raise
        except TimeoutError as error:
            self._count_cancelled(ask, began)
            raise DeadlineExceeded(_deadline_message(self.query)) from error
        except (asyncio.CancelledError, GeneratorExit):
            self._count_cancelled(ask, began)
            raise

    async def ask_all(self, asks: tuple[Ask, ...]) -> tuple[Answer, ...]:
        enough = asks.enough if isinstance(asks, Committee) else None
        asks = self._allow(asks)
        began = time.monotonic()
        tasks = [asyncio.create_task(self._member(ask)) for ask in asks]
        arrivals: tuple[Answer, ...] = ()
        try:
            async with asyncio.timeout(self._seconds_left()):
                for completion in asyncio.as_completed(tasks):
                    answer = await completion
                    arrivals += (answer,) if answer.status == "ok" else ()
                    if enough is not None and arrivals and await self.run(enough, arrivals):
                        break
        except TimeoutError as error:
            if not arrivals and not self._arrived():
                raise DeadlineExceeded(_deadline_message(self.query)) from error
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            seconds = time.monotonic() - began
            answers = tuple(
                result
                if isinstance(result, Answer)
                else replace(self.asker.bill(ask, self.query, seconds), status="cancelled")
                for result, ask in zip(results, asks, strict=True)
            )
            self.spent.extend(answers)
        return answers

    async def _member(self, ask: Ask) -> Answer:
        try:
            return ask.mark_deferred(await self.asker.ask(ask, self.query))
        except UpstreamError as error:
            return _failed(ask, error.reason, error)
        except NotAdmissible as error:
            return _failed(ask, error.rejected[ask.expert])

    def _allow(self, asks: tuple[Ask, ...]) -> tuple[Ask, ...]:
        seconds = self._seconds_left()
        if seconds == 0.0:
            raise DeadlineExceeded(_deadline_message(self.query))
        return _allow(asks, self.query, self.experts, self.spent, seconds)

    def _count_cancelled(self, ask: Ask, began: float) -> None:
        bill = self.asker.bill(ask, self.query, time.monotonic() - began)
        self.spent.append(replace(bill, status="cancelled"))

    def _for_client(self, error: UpstreamError) -> UpstreamError:
        """The error as it concerns the client.

        After the client's first piece no other expert can take over. Before it another expert can,
        even if pieces had arrived here and were held back.
        """
        return error.as_kind(StreamBroken if self.streamed else UpstreamError)

    def _seconds_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def _advance(step: Callable[[Any], Any], value: Any) -> tuple[bool, Any]:
    """Runs a plan to its next asks, (False, asks), or to its end, (True, its result)."""
    try:
        return False, step(value)
    except StopIteration as stop:
        return True, stop.value


def _deadline(query: Query) -> float | None:
    return None if query.max_latency is None else time.monotonic() + query.max_latency


def _deadline_message(query: Query) -> str:
    return f"no complete answer within max_latency of {query.max_latency:g} s"


def _text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _cannot_defer(ask: Ask, last: Delta, start: str) -> bool:
    """Whether an answer is certain not to defer: it begins otherwise, or has a tool call."""
    return bool(last.message.get("tool_calls")) or ask.defers(start) is False


def _whole(answer: Answer) -> Delta:
    message = answer.message or {"role": "assistant", "content": answer.text}
    return Delta(
        answer.expert,
        answer.text,
        message,
        answer.finish_reason,
        whole=True,
        extra=answer.extra,
        native=() if answer.native is None else (answer.native,),
        lost=answer.lost,
    )


# --- both ----------------------------------------------------------------------------------


def _allow(
    asks: tuple[Ask, ...],
    query: Query,
    experts: Mapping[str, Expert],
    spent: list[Answer],
    seconds: float | None = None,
) -> tuple[Ask, ...]:
    """The asks with their limits on cost and time; raises NotAdmissible.

    `seconds` is the rest of the query's time. Concurrent asks share the rest of the query's money
    in proportion to their experts' prices, so that each may write equally much.
    """
    shares = _shares(asks, query, experts, spent)
    limited = tuple(
        changed(ask, max_cost=share, max_latency=seconds)
        for ask, share in zip(asks, shares, strict=True)
    )
    for ask in limited:
        guard(ask, query, experts)
    return limited


def _shares(
    asks: tuple[Ask, ...], query: Query, experts: Mapping[str, Expert], spent: list[Answer]
) -> list[float] | list[None]:
    """The share in US$ of each ask in the rest of the query's money; None without a limit."""
    if query.max_cost is None:
        return [None] * len(asks)
    remaining = max(0.0, query.max_cost - total_cost(spent))
    prices = [_price(ask, query, experts) for ask in asks]
    total = math.fsum(prices)
    return [remaining * (price / total) if total else remaining for price in prices]


def _price(ask: Ask, query: Query, experts: Mapping[str, Expert]) -> float:
    """The US$ of an answer as long as the query, by which experts are compared."""
    expert = experts.get(ask.expert)
    return expert.price(query.input_tokens + 1, query.input_tokens + 1) if expert else 0.0


@contextmanager
def _attach_spent(spent: list[Answer]) -> Iterator[None]:
    """Adds the answers paid for so far to an error that a loop raises."""
    try:
        yield
    except RoutewrightError as error:
        error.spent = tuple(spent)
        raise


def _failed(ask: Ask, reason: str, error: UpstreamError | None = None) -> Answer:
    """A failed answer. Its error is a copy, because exceptions hold the frames they passed."""
    failed = Answer(ask.expert, kind=ask.kind, status="failed", reason=reason)
    if error is None:
        return failed
    return replace(
        failed, cost=error.cost, estimated=error.estimated, error=error.as_kind(type(error))
    )


def _settle(decision: object, spent: list[Answer], rejected: Mapping[str, str]) -> Decision:
    """The decision of a plan, with all answers paid for and all experts rejected.

    Raises UpstreamError if its answer did not arrive, and AssertionError if the plan did not ask
    for it.
    """
    if not isinstance(decision, Decision):
        raise AssertionError(f"a strategy must return a Decision, not {decision!r:.100}")
    answer = decision.answer
    if answer.status != "ok":
        raise UpstreamError.of(answer)
    if answer.kind not in ("answer", "embed") or answer not in spent:
        raise AssertionError(
            "a strategy must return an answer that it asked for: expert"
            f" '{answer.expert}' gave no such answer in this plan"
        )
    return changed(decision, spent=tuple(spent), rejected={**rejected, **decision.rejected})
