"""Asks experts so that nothing is paid twice and a budget is never exceeded.

A `Ledger` is an `Asker` for `drive.live`. Used instead of a client, it makes any run of a strategy
resumable and keeps it within a budget. Before an ask, its upper bound is reserved in the journal,
and so is the space on the disk for its answer; afterwards its result is written there. An ask whose
answer is in the journal is not sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from routewright.data.journal import DiskFull, Journal
from routewright.errors import (
    BadInput,
    NotAdmissible,
    RoutewrightError,
    UpstreamError,
    UpstreamRefused,
)
from routewright.experts.client import Client
from routewright.experts.permanent import explain
from routewright.experts.providers import Provider
from routewright.experts.spending import LIMITS
from routewright.types import Answer, Ask, Delta, Expert, Query

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between tries, unless Retry-After is sent
PATIENCE = 900.0  # seconds that one ask may wait for an expert that reports that it is busy
SAME_PAUSE = 1.0  # seconds by which the ends of a pause may differ that several answers ask for
# Bytes of the journal for one ask: its own lines, and each token of its answer.
LINES, TOKEN, LOGPROB = 4096, 16, 24
UNLIMITED = 4096  # tokens for which an answer without a limit gets room
MOST_ROOM = 1 << 18  # bytes; longer answers are rare
JOURNAL_FIELDS = tuple(  # the fields of an answer that the journal stores
    field.name
    for field in fields(Answer)
    if field.name not in ("message", "status", "reason", "extra", "error")
)


Item = TypeVar("Item")
Result = TypeVar("Result")
Watch = Callable[["Ledger"], AbstractContextManager[Any]]


class BudgetSpent(RoutewrightError):
    """The next ask might exceed the budget. All answers so far are in the journal."""


class NotAsked(UpstreamError):
    """The run was stopped, or it asks this expert no more, so an ask was not sent (again)."""


@dataclass
class Account:
    """What has been spent of a budget, in US$.

    `unsure` is the upper bound of asks whose cost is unknown because no reply arrived: the process
    was killed, the ask timed out, or the connection broke. It counts against the budget in full.
    `cut_off` is the part of it that is due to asks in progress when an earlier run was killed; they
    are asked again, and may have been paid twice.
    """

    budget: float = math.inf
    spent: float = 0.0
    unsure: float = 0.0
    cut_off: float = 0.0
    asks_cut_off: int = 0
    reserved: float = 0.0  # the upper bounds of asks in progress
    in_progress: int = 0
    asked: int = 0  # answers that arrived in this process
    recalled: int = 0  # answers that were read from the journal instead
    # The keys of answers that were free because their expert had no prices; it may have some now.
    unpriced: set[str] = field(default_factory=set, repr=False)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, repr=False)

    @property
    def committed(self) -> float:
        """US$ that are not available to further asks."""
        return self.spent + self.unsure + self.reserved

    async def reserve(self, bound: float, expert: str) -> None:
        """Reserves the upper bound of an ask; waits while asks in progress may free enough.

        Raises BudgetSpent if the budget does not suffice, and BadInput if the bound is infinite.
        """
        if math.isinf(bound) and math.isfinite(self.budget):
            raise BadInput(
                f"a budget needs asks with an upper bound, but nothing limits the answers of"
                f" '{expert}': give it `options: {{max_tokens: N}}`"
            )
        async with self._changed:
            while self.committed + bound > self.budget:
                if not self.in_progress:
                    raise BudgetSpent(
                        f"the next ask of '{expert}' may cost ${bound:.2g}, but only"
                        f" ${self.budget - self.committed:.2g} of the budget of"
                        f" ${self.budget:g} are left"
                    )
                await self._changed.wait()
            self.reserved += _finite(bound)
            self.in_progress += 1

    async def settle(self, bound: float, cost: float, unsure: float) -> None:
        """Replaces the reserved bound of an ask that has ended by its cost, or its unsure cost."""
        self.in_progress -= 1
        # Without asks in progress the sum is exactly zero, whatever rounding would leave.
        self.reserved = max(0.0, self.reserved - _finite(bound)) if self.in_progress else 0.0
        self.spent += cost
        self.unsure += _finite(unsure)
        async with self._changed:
            self._changed.notify_all()


class Ledger:
    """Asks experts through a journal, within a budget, at the pace that the experts allow.

    `budget` is the US$ that all runs with this journal may spend together, None for no limit. If
    an expert answers "too many requests", all asks wait for as long as it says, at most `patience`
    seconds. After other failures an ask is repeated as often as the expert's `retries` allow. The
    journal does not prevent the next run from repeating a failed ask. If the disk has no room for
    the answers to all asks in progress, an ask waits for these, and raises DiskFull if there are
    none. Use it as `async with Ledger(...) as ledger`.

    An expert whose failure no waiting ends (no credit, a refused key, an unknown model, a longer
    Retry-After than `patience`) is not asked again: `closed` maps it to a sentence with the way
    out. `on_closed` is called with the expert and that sentence, `on_wait` with an expert, the
    seconds of a pause that begins, and its reason. After `stop` no ask is sent, and all pauses end.
    """

    def __init__(
        self,
        experts: Iterable[Expert],
        journal: Journal,
        *,
        budget: float | None = None,
        patience: float = PATIENCE,
        providers: Mapping[str, Provider] | None = None,
    ) -> None:
        self.experts = {expert.name: expert for expert in experts}
        # Every try is reserved and written to the journal, so the providers must not retry.
        single = [replace(expert, retries=0) for expert in self.experts.values()]
        self.client = Client(single, providers)
        self.journal = journal
        self.patience = patience
        self.answers, self.account = recall(journal.entries)
        self.account.budget = math.inf if budget is None else budget
        self.closed: dict[str, str] = {}
        self.on_closed: Callable[[str, str], None] = lambda expert, why: None
        self.on_wait: Callable[[str, float, str], None] = lambda expert, seconds, why: None
        self._stopping = asyncio.Event()
        self._futures: dict[str, asyncio.Future[Answer]] = {}  # of asks in progress, by key
        self._not_before = dict.fromkeys(self.experts, 0.0)
        self._room = 0  # bytes reserved in the journal for asks in progress
        self._room_changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.client.close()

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Sends no further asks and ends all pauses; the asks in progress are completed."""
        self._stopping.set()

    def pauses(self) -> dict[str, float]:
        """The experts that asked for a pause, and the seconds that are left of it."""
        now = time.monotonic()
        return {name: end - now for name, end in self._not_before.items() if end > now}

    # --- as an Asker --------------------------------------------------------------------------

    async def ask(self, ask: Ask, query: Query) -> Answer:
        """Returns the answer from the journal, or else asks the expert.

        Raises BudgetSpent, and NotAsked if the run was stopped or the expert is `closed`.
        """
        key = key_of(self.client, ask, query)
        if key in self.answers:
            self.account.recalled += 1
            return recalled(self, key, ask.expert)
        if key in self._futures:  # the same ask is in progress: both get its answer
            return await asyncio.shield(self._futures[key])
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._futures[key] = future
        try:
            answer = await self._ask_with_retries(key, ask, query)
        except BaseException as error:
            future.set_exception(error if isinstance(error, RoutewrightError) else _cancelled(ask))
            future.exception()  # marks it as read: asyncio warns of exceptions that nothing awaits
            raise
        else:
            self.answers[key] = answer
            future.set_result(answer)
            return answer
        finally:
            del self._futures[key]

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        """Yields the whole answer in one piece."""
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.client.bill(ask, query, seconds)

    # --- asking -------------------------------------------------------------------------------

    async def _ask_with_retries(self, key: str, ask: Ask, query: Query) -> Answer:
        expert = self.experts[ask.expert]
        failures = waits = 0
        last_try = time.monotonic() + self.patience
        while True:
            while (pause := self._not_before[expert.name] - time.monotonic()) > 0:
                await self._sleep(expert.name, pause)
            try:
                return await self._ask_once(key, ask, query)
            except NotAsked:
                raise
            except UpstreamError as error:
                self._close_if_permanent(error)
                if isinstance(error, UpstreamRefused):
                    raise
                busy = error.status == 429 or error.retry_after is not None
                failures, waits = failures + (not busy), waits + busy
                pause = _pause(failures + waits, error.retry_after)
                if failures > expert.retries or time.monotonic() + pause > last_try:
                    raise
                if busy:
                    self._hold(expert.name, pause, error.reason)
                else:
                    await self._sleep(expert.name, pause)

    def _close_if_permanent(self, error: UpstreamError) -> None:
        """Raises NotAsked if waiting cannot end the failure: the expert is not asked again."""
        why = explain(error, self.patience)
        if why is None:
            return
        if error.expert not in self.closed:
            self.closed[error.expert] = why
            self.on_closed(error.expert, why)
        closed = self._not_asked(error.expert)
        closed.cost, closed.estimated = error.cost, error.estimated
        raise closed from error

    def _hold(self, expert: str, pause: float, why: str) -> None:
        """Sends an expert nothing for so many seconds; answers that say the same are one pause."""
        end, before = time.monotonic() + pause, self._not_before[expert]
        self._not_before[expert] = max(before, end)
        if end > before + SAME_PAUSE:
            self.on_wait(expert, pause, why)

    async def _sleep(self, expert: str, seconds: float) -> None:
        """Sleeps for so many seconds; raises NotAsked as soon as the run is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        self._check_open(expert)

    def _check_open(self, expert: str) -> None:
        if self.stopped or expert in self.closed:
            raise self._not_asked(expert)

    def _not_asked(self, expert: str) -> NotAsked:
        return NotAsked(expert, self.closed.get(expert, "the run was stopped"))

    async def _ask_once(self, key: str, ask: Ask, query: Query) -> Answer:
        """Reserves, asks, and writes the result to the journal."""
        bound = self.client.bound(ask, query)
        room = _room(ask, self.client.body(ask, query))
        await self.account.reserve(bound, ask.expert)
        cost, unsure = 0.0, 0.0
        try:
            async with self._making_room(room):
                self._check_open(ask.expert)
                self.journal.write(
                    asked=key, expert=ask.expert, kind=ask.kind, bound=_finite(bound)
                )
                unsure = bound  # as long as the cost is unknown
                answer = await self.client.ask(ask, query)
                cost, unsure = answer.cost, 0.0
                self.journal.write(answered=key, answer=_journal_fields(answer))
            self.account.asked += 1
            return answer
        except NotAdmissible:
            unsure = 0.0
            self.journal.write(failed=key, reason="not admissible", cost=0.0, unsure=0.0)
            raise
        except NotAsked:
            raise
        except UpstreamError as error:
            cost, unsure = (0.0, bound) if error.estimated else (error.cost, 0.0)
            self.journal.write(failed=key, reason=error.reason, cost=cost, unsure=_finite(unsure))
            raise
        finally:
            await self.account.settle(bound, cost, unsure)

    @asynccontextmanager
    async def _making_room(self, room: int) -> AsyncIterator[None]:
        """Reserves `room` bytes in the journal for the time of an ask.

        Waits while asks in progress may free enough; raises DiskFull if there are none.
        """
        async with self._room_changed:
            while True:
                try:
                    self.journal.make_room(self._room + room)
                    break
                except DiskFull:
                    if not self._room:
                        raise
                await self._room_changed.wait()
            self._room += room
        try:
            yield
        finally:
            self._room -= room
            async with self._room_changed:
                self._room_changed.notify_all()


@dataclass
class Tally:
    """The summary of many asks through one journal."""

    recalled: int = 0  # replies read from the journal
    unread: int = 0  # replies that could not be parsed; their values are unknown
    failed: int = 0  # asks that were not answered
    trouble: str = ""  # the reason of the first failure
    cost: float = 0.0  # US$ of all runs with the journal
    cut_off: float = 0.0  # the part of it that may have been paid twice, see `Account.cut_off`
    asks_cut_off: int = 0
    stopped: str = ""  # the reason why not everything was asked
    closed: bool = False  # whether that is an expert that cannot answer any more
    interrupted: bool = False  # whether the user stopped the run
    unasked: int = 0  # items whose asks were not all sent for one of these reasons
    done: int = 0  # items with a result

    def fail(self, reason: str, times: int = 1) -> None:
        self.failed, self.trouble = self.failed + times, self.trouble or reason


async def side_by_side(
    work: Callable[[Item, Ledger], Awaitable[Result]],
    items: Sequence[Item],
    ledger: Ledger,
    tally: Tally,
    concurrency: int = 8,
    watch: Watch = nullcontext,
) -> list[Result | None]:
    """Runs `work` on all items concurrently and returns its results.

    A result is None if the ask failed, the budget was spent, an expert cannot answer any more, or
    the run was stopped. After an unexpected exception nothing more is asked; it is raised after all
    asks in progress have ended and are in the journal. `watch` is entered with the ledger.
    """
    slots = asyncio.Semaphore(concurrency)
    errors: list[Exception] = []

    async def run(item: Item) -> Result | None:
        async with slots:
            if tally.stopped or errors or ledger.stopped or ledger.closed:
                tally.unasked += 1
                return None
            try:
                return await work(item, ledger)
            except BudgetSpent as error:
                tally.stopped = str(error)
                tally.unasked += 1
            except NotAsked:
                tally.unasked += 1
            except (UpstreamError, NotAdmissible) as error:
                tally.fail(str(error))
            except Exception as error:
                errors.append(error)
        return None

    async with ledger:
        with watch(ledger):
            results = await asyncio.gather(*map(run, items))
        account = ledger.account
        tally.cost = account.spent + account.unsure
        tally.recalled = account.recalled
        tally.cut_off, tally.asks_cut_off = account.cut_off, account.asks_cut_off
        tally.closed = bool(ledger.closed)
        tally.stopped = tally.stopped or "; ".join(ledger.closed.values())
        tally.interrupted = ledger.stopped
        tally.done = sum(result is not None for result in results)
    if errors:
        raise errors[0]
    return list(results)


def key_of(client: Client, ask: Ask, query: Query) -> str:
    """The key of an ask in the journal: a hash of everything that is sent to the expert."""
    expert = client.experts[ask.expert]
    request = [expert.name, expert.model, ask.kind, ask.sample, client.body(ask, query)]
    text = json.dumps(request, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def recalled(source: Any, key: str, expert: str) -> Answer:
    """The answer in the journal of a ledger, or of what stands in for one, at today's prices if it
    was free because its expert had no prices then."""
    answer: Answer = source.answers[key]
    if key not in source.account.unpriced:
        return answer
    tokens = answer.input_tokens, answer.output_tokens, answer.cached_tokens
    return replace(answer, cost=source.client.experts[expert].price(*tokens))


def paid_twice(dollars: float, asks: int) -> str:
    """A sentence about asks that were in progress when an earlier run was killed; "" if none."""
    if not asks:
        return ""
    return (
        f"At most ${dollars:.6f} may have been paid twice, for asks that were in progress when an"
        f" earlier run was killed ({asks} of them); a budget counts it as spent."
    )


def recall(entries: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Answer], Account]:
    """The answers in a journal, by key, and an account of everything that was paid for."""
    answers: dict[str, Answer] = {}
    account = Account()
    bounds: dict[str, list[float]] = {}  # of asks without a result so far
    for event in entries:
        if "asked" in event:
            bounds.setdefault(event["asked"], []).append(event["bound"])
            continue
        key = event.get("answered") or event.get("failed")
        if key is None:
            continue  # an event that is not about an ask
        bound = bounds[key].pop() if bounds.get(key) else math.nan
        if "answered" in event:
            if bound == 0 and event["answer"].get("cost", 0) == 0:
                account.unpriced.add(key)
            answers[key] = _answer(event["answer"])
            account.spent += answers[key].cost
        else:
            account.spent += event["cost"]
            account.unsure += event["unsure"]
    pending = [bound for asks in bounds.values() for bound in asks]
    account.cut_off, account.asks_cut_off = math.fsum(pending), len(pending)
    account.unsure += account.cut_off
    return answers, account


def _journal_fields(answer: Answer) -> dict[str, Any]:
    """The fields of an answer that the journal stores, without those that are unknown."""
    values = {name: getattr(answer, name) for name in JOURNAL_FIELDS}
    values["text"] = answer.content  # tool calls are stored as text
    return {name: value for name, value in values.items() if not _is_unknown(value)}


def _is_unknown(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _answer(fields: Mapping[str, Any]) -> Answer:
    """The answer of a journal entry; entries of earlier versions have more fields."""
    values = {name: value for name, value in fields.items() if name in JOURNAL_FIELDS}
    logprobs = values.get("logprobs")
    return Answer(**{**values, "logprobs": None if logprobs is None else tuple(logprobs)})


def _finite(dollars: float) -> float:
    """The dollars, or 0 if they are infinite, which can only happen without a budget."""
    return dollars if math.isfinite(dollars) else 0.0


def _room(ask: Ask, body: Mapping[str, Any]) -> int:
    """The bytes of the journal that an ask and its answer will usually need."""
    tokens = min([body[limit] for limit in LIMITS if body.get(limit)], default=UNLIMITED)
    per_token = TOKEN + (LOGPROB if body.get("logprobs") else 0)
    return int(min(LINES + per_token * tokens * (body.get("n") or ask.samples), MOST_ROOM))


def _pause(tries: int, retry_after: float | None) -> float:
    if retry_after is not None:
        return retry_after + random.uniform(0.0, 0.1)
    return min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _cancelled(ask: Ask) -> UpstreamError:
    return UpstreamError(ask.expert, "the ask was cancelled")
