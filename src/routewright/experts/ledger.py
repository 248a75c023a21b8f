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
from contextlib import asynccontextmanager
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
from routewright.experts.client import LIMITS, SPEED, Client
from routewright.experts.providers import Provider, input_tokens
from routewright.types import Answer, Ask, Delta, Expert, Query

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between tries, unless Retry-After is sent
PATIENCE = 900.0  # seconds that one ask may wait for an expert that reports that it is busy
# Bytes of the journal for one ask: its own lines, and each token of its answer.
LINES, TOKEN, LOGPROB = 4096, 16, 24
UNLIMITED = 4096  # tokens for which an answer without a limit gets room
MOST_ROOM = 1 << 18  # bytes; longer answers are rare
TYPICAL_TOKENS = 250  # of an answer by an expert without answers in the journal
JOURNAL_FIELDS = tuple(  # the fields of an answer that the journal stores
    field.name
    for field in fields(Answer)
    if field.name not in ("message", "status", "reason", "extra", "error")
)


Item = TypeVar("Item")
Result = TypeVar("Result")


class BudgetSpent(RoutewrightError):
    """The next ask might exceed the budget. All answers so far are in the journal."""


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

    # --- as an Asker --------------------------------------------------------------------------

    async def ask(self, ask: Ask, query: Query) -> Answer:
        """Returns the answer from the journal, or else asks the expert; raises BudgetSpent."""
        key = key_of(self.client, ask, query)
        if key in self.answers:
            self.account.recalled += 1
            return self.answers[key]
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
            await self._wait_for(expert.name)
            try:
                return await self._ask_once(key, ask, query)
            except UpstreamRefused:
                raise
            except UpstreamError as error:
                busy = error.status == 429 or error.retry_after is not None
                failures, waits = failures + (not busy), waits + busy
                pause = _pause(failures + waits, error.retry_after)
                if failures > expert.retries or time.monotonic() + pause > last_try:
                    raise
            if busy:
                self._not_before[expert.name] = max(
                    self._not_before[expert.name], time.monotonic() + pause
                )
            else:
                await asyncio.sleep(pause)

    async def _ask_once(self, key: str, ask: Ask, query: Query) -> Answer:
        """Reserves, asks, and writes the result to the journal."""
        bound = self.client.bound(ask, query)
        room = _room(ask, self.client.body(ask, query))
        await self.account.reserve(bound, ask.expert)
        cost, unsure = 0.0, 0.0
        try:
            async with self._making_room(room):
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

    async def _wait_for(self, expert: str) -> None:
        while (pause := self._not_before[expert] - time.monotonic()) > 0:
            await asyncio.sleep(pause)


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

    def fail(self, reason: str, times: int = 1) -> None:
        self.failed, self.trouble = self.failed + times, self.trouble or reason


async def side_by_side(
    work: Callable[[Item, Ledger], Awaitable[Result]],
    items: Sequence[Item],
    ledger: Ledger,
    tally: Tally,
    concurrency: int = 8,
) -> list[Result | None]:
    """Runs `work` on all items concurrently and returns its results.

    A result is None if the ask failed or the budget was spent. After an unexpected exception
    nothing more is asked; it is raised after all asks in progress have ended and are in the
    journal.
    """
    slots = asyncio.Semaphore(concurrency)
    errors: list[Exception] = []

    async def run(item: Item) -> Result | None:
        async with slots:
            if not tally.stopped and not errors:
                try:
                    return await work(item, ledger)
                except BudgetSpent as error:
                    tally.stopped = str(error)
                except (UpstreamError, NotAdmissible) as error:
                    tally.fail(str(error))
                except Exception as error:
                    errors.append(error)
        return None

    async with ledger:
        results = await asyncio.gather(*map(run, items))
        account = ledger.account
        tally.cost = account.spent + account.unsure
        tally.recalled = account.recalled
        tally.cut_off, tally.asks_cut_off = account.cut_off, account.asks_cut_off
    if errors:
        raise errors[0]
    return list(results)


def key_of(client: Client, ask: Ask, query: Query) -> str:
    """The key of an ask in the journal: a hash of everything that is sent to the expert."""
    expert = client.experts[ask.expert]
    request = [expert.name, expert.model, ask.kind, ask.sample, client.body(ask, query)]
    text = json.dumps(request, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


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
        if bounds.get(key):
            bounds[key].pop()
        if "answered" in event:
            answers[key] = _answer(event["answer"])
            account.spent += answers[key].cost
        else:
            account.spent += event["cost"]
            account.unsure += event["unsure"]
    pending = [bound for asks in bounds.values() for bound in asks]
    account.cut_off, account.asks_cut_off = math.fsum(pending), len(pending)
    account.unsure += account.cut_off
    return answers, account


@dataclass
class Estimate:
    """What the asks of one expert would take."""

    asks: int = 0
    in_journal: int = 0  # asks whose answers are in the journal already; they are free
    cost: float = 0.0  # expected US$
    bound: float = 0.0  # upper bound, US$
    seconds: float = 0.0  # if one ask follows the other


class DryRun:
    """An `Asker` that asks no expert and adds up what the asks would cost.

    It assumes answers as long and as slow as those of the expert in the journal. Without any, it
    assumes 250 tokens at 50 tokens per second, or at the config's `latency`.
    """

    def __init__(self, experts: Iterable[Expert], entries: Iterable[Mapping[str, Any]]) -> None:
        self.client = Client(experts)
        self.answers, self.account = recall(entries)
        self.estimates = {name: Estimate() for name in self.client.experts}
        self._typical = {
            name: _typical(expert, self.answers.values())
            for name, expert in self.client.experts.items()
        }

    async def ask(self, ask: Ask, query: Query) -> Answer:
        estimate, expert = self.estimates[ask.expert], self.client.experts[ask.expert]
        body, key = self.client.body(ask, query), key_of(self.client, ask, query)
        bound = self.client.bound(ask, query)
        estimate.asks += 1
        if key in self.answers:
            estimate.in_journal += 1
            return self.answers[key]
        tokens, seconds = (2, 1.0) if ask.kind == "verify" else self._typical[ask.expert]
        tokens = min([tokens, *(body[cap] for cap in LIMITS if body.get(cap) is not None)])
        cost = expert.price(input_tokens(body), tokens)
        estimate.cost += cost
        estimate.bound += bound
        estimate.seconds += seconds
        return Answer(ask.expert, "word" * tokens, ask.kind, cost, seconds)

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.client.bill(ask, query, seconds)


class Recall:
    """An `Asker` that returns answers from the journal and sends no ask.

    Raises UpstreamError for an ask whose answer is not in the journal.
    """

    def __init__(self, source: Ledger | DryRun) -> None:
        self.source = source

    async def ask(self, ask: Ask, query: Query) -> Answer:
        key = key_of(self.source.client, ask, query)
        if key not in self.source.answers:
            raise UpstreamError(ask.expert, "its answer is not in the journal")
        return self.source.answers[key]

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return Answer(ask.expert, kind=ask.kind)


def _typical(expert: Expert, answers: Iterable[Answer]) -> tuple[int, float]:
    """The mean tokens and seconds of the expert's answers."""
    answers = [a for a in answers if a.expert == expert.name and a.kind == "answer"]
    if not answers:
        return TYPICAL_TOKENS, expert.latency or TYPICAL_TOKENS / SPEED
    seconds = [answer.latency for answer in answers if not math.isnan(answer.latency)]
    return (
        math.ceil(math.fsum(answer.output_tokens for answer in answers) / len(answers)),
        math.fsum(seconds) / len(seconds) if seconds else TYPICAL_TOKENS / SPEED,
    )


def _journal_fields(answer: Answer) -> dict[str, Any]:
    """The fields of an answer that the journal stores, without those that are unknown."""
    values = {name: getattr(answer, name) for name in JOURNAL_FIELDS}
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
