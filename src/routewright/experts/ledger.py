"""Asks experts so that nothing is paid twice and a budget is never exceeded.

A `Ledger` is an `Asker` for `drive.live`: put it where the client would be and any strategy, the
interview's or another, runs within a budget and can be resumed. Before an ask its upper bound is
reserved in the journal, afterwards what came back is written there; an ask whose answer stands in
the journal is not sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from routewright.data.journal import Journal
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

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds, where the upstream does not say how long
PATIENCE = 900.0  # seconds that one ask may wait for an expert that says it is busy
TYPICAL = 250  # tokens of an answer, of an expert that has not been heard
KEPT = tuple(  # what the journal keeps of an answer
    kept.name for kept in fields(Answer) if kept.name not in ("message", "status", "reason")
)


Item = TypeVar("Item")
Made = TypeVar("Made")


class BudgetSpent(RoutewrightError):
    """The next ask might exceed the budget; what has been asked so far is in the journal."""


@dataclass
class Account:
    """What has been spent of a budget, in US$.

    `unsure` is the most that asks may have cost whose answer never came: a process that was
    killed, a timeout, a connection that broke. The budget counts it in full.
    """

    budget: float = math.inf
    spent: float = 0.0
    unsure: float = 0.0
    reserved: float = 0.0  # by asks under way, at their upper bounds
    under_way: int = 0
    asked: int = 0  # answers that came in while this process ran
    recalled: int = 0  # answers found in the journal
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, repr=False)

    @property
    def committed(self) -> float:
        return self.spent + self.unsure + self.reserved

    async def reserve(self, bound: float, expert: str) -> None:
        """Sets the bound of an ask aside; waits while asks under way may still leave enough of
        theirs. Raises BudgetSpent."""
        if math.isinf(bound) and math.isfinite(self.budget):
            raise BadInput(
                f"a budget needs an upper bound, and nothing limits the answers of '{expert}':"
                " give it `options: {max_tokens: N}`"
            )
        async with self._changed:
            while self.committed + bound > self.budget:
                if not self.under_way:
                    raise BudgetSpent(
                        f"the next ask of '{expert}' may cost ${bound:.2g}, and of the budget"
                        f" of ${self.budget:g} are ${self.budget - self.committed:.2g} left"
                    )
                await self._changed.wait()
            self.reserved += _finite(bound)
            self.under_way += 1

    async def settle(self, bound: float, cost: float, unsure: float) -> None:
        """An ask is over: what it cost, and what it may have cost, in place of its bound."""
        self.under_way -= 1
        # With nothing under way the sum is zero again, whatever rounding has left of it.
        self.reserved = max(0.0, self.reserved - _finite(bound)) if self.under_way else 0.0
        self.spent += cost
        self.unsure += _finite(unsure)
        async with self._changed:
            self._changed.notify_all()


class Ledger:
    """Asks experts through a journal, within a budget, at the pace that they allow.

    `budget` is US$ over the journal's whole life, None for no limit. An expert that answers "too
    many requests" is left alone for as long as it says, by every ask that is under way; other
    failures are tried again as often as its `retries` allow. Failed asks are not remembered: the
    next run tries them anew. Use it as `async with Ledger(...) as ledger`.
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
        # Every try is reserved and journalled, so the providers must make one each.
        single = [replace(expert, retries=0) for expert in self.experts.values()]
        self.client = Client(single, providers)
        self.journal = journal
        self.patience = patience
        self.known, self.account = recall(journal.entries)
        self.account.budget = math.inf if budget is None else budget
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._not_before = dict.fromkeys(self.experts, 0.0)

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
        """What the journal says, else what the expert says; raises BudgetSpent."""
        key = name(self.client, ask, query)
        if key in self.known:
            self.account.recalled += 1
            return self.known[key]
        if key in self._under_way:  # the same words to the same expert: one answer is enough
            return await asyncio.shield(self._under_way[key])
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._under_way[key] = future
        try:
            answer = await self._persist(key, ask, query)
        except BaseException as error:
            future.set_exception(error if isinstance(error, RoutewrightError) else _gone(ask))
            future.exception()  # nobody else may be waiting, and that is no mistake
            raise
        else:
            self.known[key] = answer
            future.set_result(answer)
            return answer
        finally:
            del self._under_way[key]

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        """The whole answer at once: nobody reads along."""
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.client.bill(ask, query, seconds)

    # --- asking -------------------------------------------------------------------------------

    async def _persist(self, key: str, ask: Ask, query: Query) -> Answer:
        """Tries until it works, gives up, or the money is spent."""
        expert = self.experts[ask.expert]
        failures = waits = 0
        last_try = time.monotonic() + self.patience
        while True:
            await self._wait_for(expert.name)
            try:
                return await self._once(key, ask, query)
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

    async def _once(self, key: str, ask: Ask, query: Query) -> Answer:
        bound = self.client.bound(ask, query)
        await self.account.reserve(bound, ask.expert)
        cost, unsure = 0.0, bound  # until we know better
        try:
            self.journal.write(asked=key, expert=ask.expert, kind=ask.kind, bound=_finite(bound))
            answer = await self.client.ask(ask, query)
            cost, unsure = answer.cost, 0.0
            self.journal.write(answered=key, answer=_kept(answer))
            self.account.asked += 1
            return answer
        except NotAdmissible:
            unsure = 0.0
            self.journal.write(failed=key, reason="not admissible", cost=0.0, unsure=0.0)
            raise
        except UpstreamError as error:
            cost, unsure = error.cost, bound if error.sent and not error.cost else 0.0
            self.journal.write(failed=key, reason=error.reason, cost=cost, unsure=_finite(unsure))
            raise
        finally:
            await self.account.settle(bound, cost, unsure)

    async def _wait_for(self, expert: str) -> None:
        while (pause := self._not_before[expert] - time.monotonic()) > 0:
            await asyncio.sleep(pause)


@dataclass
class Tally:
    """What asking about many items through one journal came to."""

    recalled: int = 0  # replies found in the journal
    unread: int = 0  # replies that could not be read; none was guessed
    failed: int = 0  # asks that were not answered
    trouble: str = ""  # why, the first time
    cost: float = 0.0  # US$ over the journal's whole life
    stopped: str = ""  # why not everything was asked

    def fail(self, why: str, times: int = 1) -> None:
        self.failed, self.trouble = self.failed + times, self.trouble or why


async def side_by_side(
    work: Callable[[Item, Ledger], Awaitable[Made]],
    items: Sequence[Item],
    ledger: Ledger,
    tally: Tally,
    at_once: int = 8,
) -> list[Made | None]:
    """What `work` makes of every item; None where the ask failed, or the budget was spent.

    What is under way ends, and is journalled, before a mistake is raised.
    """
    turn = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Made | None:
        async with turn:
            if not tally.stopped:
                try:
                    return await work(item, ledger)
                except BudgetSpent as error:
                    tally.stopped = str(error)
                except (UpstreamError, NotAdmissible) as error:
                    tally.fail(str(error))
        return None

    async with ledger:
        made = await asyncio.gather(*map(one, items), return_exceptions=True)
        tally.cost = ledger.account.spent + ledger.account.unsure
        tally.recalled = ledger.account.recalled
    if wrong := [one for one in made if isinstance(one, BaseException)]:
        raise wrong[0]
    return [one for one in made if not isinstance(one, BaseException)]


def name(client: Client, ask: Ask, query: Query) -> str:
    """Names an ask by all that the expert is sent: other words or options, other name."""
    expert = client.experts[ask.expert]
    sent = [expert.name, expert.model, ask.kind, ask.sample, client.body(ask, query)]
    written = json.dumps(sent, sort_keys=True, default=str)
    return hashlib.blake2b(written.encode(), digest_size=12).hexdigest()


def recall(entries: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Answer], Account]:
    """The answers that a journal holds, by key, and what they and everything else have cost."""
    known: dict[str, Answer] = {}
    account = Account()
    under_way: dict[str, list[float]] = {}
    for event in entries:
        if "asked" in event:
            under_way.setdefault(event["asked"], []).append(event["bound"])
            continue
        key = event.get("answered") or event.get("failed")
        if key is None:
            continue  # somebody else's event
        if under_way.get(key):
            under_way[key].pop()
        if "answered" in event:
            known[key] = _answer(event["answer"])
            account.spent += known[key].cost
        else:
            account.spent += event["cost"]
            account.unsure += event["unsure"]
    account.unsure += math.fsum(bound for bounds in under_way.values() for bound in bounds)
    return known, account


@dataclass
class Forecast:
    """What asking an expert would take: the expected US$, the most they can be, and seconds."""

    asks: int = 0
    known: int = 0  # of the asks, in the journal already
    cost: float = 0.0
    bound: float = 0.0
    seconds: float = 0.0  # one ask after the other


class Rehearsal:
    """An `Asker` that sends nothing and adds up what asking would cost.

    An expert's answers are taken to be as long, and to take as long, as those in the journal;
    without any, 250 tokens at 50 tokens per second, or the config's `latency`.
    """

    def __init__(self, experts: Iterable[Expert], entries: Iterable[Mapping[str, Any]]) -> None:
        self.client = Client(experts)
        self.known, self.account = recall(entries)
        self.forecasts = {name: Forecast() for name in self.client.experts}
        self._usual = {
            name: _usual(expert, self.known.values())
            for name, expert in self.client.experts.items()
        }

    async def ask(self, ask: Ask, query: Query) -> Answer:
        forecast, expert = self.forecasts[ask.expert], self.client.experts[ask.expert]
        body, key = self.client.body(ask, query), name(self.client, ask, query)
        bound = self.client.bound(ask, query)
        forecast.asks += 1
        if key in self.known:
            forecast.known += 1
            return self.known[key]
        tokens, seconds = (2, 1.0) if ask.kind == "verify" else self._usual[ask.expert]
        tokens = min([tokens, *(body[cap] for cap in LIMITS if body.get(cap) is not None)])
        cost = expert.price(input_tokens(body), tokens)
        forecast.cost += cost
        forecast.bound += bound
        forecast.seconds += seconds
        return Answer(ask.expert, "word" * tokens, ask.kind, cost, seconds)

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.client.bill(ask, query, seconds)


class Recall:
    """An `Asker` that says what stands in the journal, and asks nobody for the rest."""

    def __init__(self, of: Ledger | Rehearsal) -> None:
        self.of = of

    async def ask(self, ask: Ask, query: Query) -> Answer:
        key = name(self.of.client, ask, query)
        if key not in self.of.known:
            raise UpstreamError(ask.expert, "not in the journal")
        return self.of.known[key]

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return Answer(ask.expert, kind=ask.kind)


def _usual(expert: Expert, known: Iterable[Answer]) -> tuple[int, float]:
    """Tokens and seconds of an answer, from those that are known."""
    mine = [a for a in known if a.expert == expert.name and a.kind == "answer"]
    if not mine:
        return TYPICAL, expert.latency or TYPICAL / SPEED
    seconds = [answer.latency for answer in mine if answer.latency == answer.latency]
    return (
        math.ceil(math.fsum(answer.output_tokens for answer in mine) / len(mine)),
        math.fsum(seconds) / len(seconds) if seconds else TYPICAL / SPEED,
    )


def _kept(answer: Answer) -> dict[str, Any]:
    found = {name: getattr(answer, name) for name in KEPT}
    return {name: value for name, value in found.items() if value is not None and value == value}


def _answer(kept: Mapping[str, Any]) -> Answer:
    found = {name: value for name, value in kept.items() if name in KEPT}  # older ones have more
    logprobs = found.get("logprobs")
    return Answer(**{**found, "logprobs": None if logprobs is None else tuple(logprobs)})


def _finite(dollars: float) -> float:
    """An ask that nothing bounds reserves nothing; there is no budget then."""
    return dollars if math.isfinite(dollars) else 0.0


def _pause(tried: int, retry_after: float | None) -> float:
    if retry_after is not None:
        return retry_after + random.uniform(0.0, 0.1)
    return min(FIRST_PAUSE * 2.0 ** (tried - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _gone(ask: Ask) -> UpstreamError:
    return UpstreamError(ask.expert, "the ask was cancelled")
