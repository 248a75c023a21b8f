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
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, Self

from routewright.client import Client
from routewright.errors import (
    BadInput,
    NotAdmissible,
    RoutewrightError,
    UpstreamError,
    UpstreamRefused,
)
from routewright.journal import Journal
from routewright.providers import Provider
from routewright.types import Answer, Ask, Delta, Expert, Query

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds, where the upstream does not say how long
PATIENCE = 900.0  # seconds that one ask may wait for an expert that says it is busy
KEPT = tuple(  # what the journal keeps of an answer
    field.name for field in fields(Answer) if field.name not in ("message", "cancelled", "failed")
)


class BudgetSpent(RoutewrightError):
    """The next ask might exceed the budget; what has been asked so far is in the journal."""


@dataclass
class Account:
    """What a ledger has spent, in US$.

    `unsure` is the most that asks may have cost whose answer never came: a process that was
    killed, a timeout, a connection that broke. The budget counts it in full.
    """

    spent: float = 0.0
    unsure: float = 0.0
    reserved: float = 0.0  # by asks under way, at their upper bounds
    under_way: int = 0
    asked: int = 0  # answers that came in while this process ran
    recalled: int = 0  # answers found in the journal

    @property
    def committed(self) -> float:
        return self.spent + self.unsure + self.reserved


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
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.experts = {expert.name: expert for expert in experts}
        # Every try is reserved and journalled, so the providers must make one each.
        single = [replace(expert, retries=0) for expert in self.experts.values()]
        self.client = Client(single, providers)
        self.journal = journal
        self.budget = math.inf if budget is None else budget
        self.patience = patience
        self.on_change = on_change
        self.known, self.account = recall(journal.entries)
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._not_before = dict.fromkeys(self.experts, 0.0)
        self._changed = asyncio.Condition()

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
        key = self.key(ask, query)
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

    # --- what it knows ------------------------------------------------------------------------

    def key(self, ask: Ask, query: Query) -> str:
        """Names an ask by all that the expert is sent: other words or options, other key."""
        expert = self.experts[ask.expert]
        sent = [expert.name, expert.model, ask.kind, ask.sample, self.client.body(ask, query)]
        written = json.dumps(sent, sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.blake2b(written.encode(), digest_size=12).hexdigest()

    def bound(self, ask: Ask, query: Query) -> float:
        """US$ that an ask may cost at most; infinite where nothing limits the answer."""
        return self.client.bound(ask, query)

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
        bound = self.bound(ask, query)
        await self._reserve(bound, ask)
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
            await self._settle(_finite(bound), cost, _finite(unsure))

    async def _reserve(self, bound: float, ask: Ask) -> None:
        """Sets the bound aside; waits while asks under way may still leave enough of theirs."""
        account = self.account
        if math.isinf(bound) and math.isfinite(self.budget):
            raise BadInput(
                f"a budget needs an upper bound, and nothing limits the answers of '{ask.expert}':"
                " give it `options: {max_tokens: N}`"
            )
        async with self._changed:
            while account.committed + bound > self.budget:
                if not account.under_way:
                    raise BudgetSpent(
                        f"the next ask of '{ask.expert}' may cost ${bound:.2g}, and of the budget"
                        f" of ${self.budget:g} are ${self.budget - account.committed:.2g} left"
                    )
                await self._changed.wait()
            account.reserved += _finite(bound)
            account.under_way += 1

    async def _settle(self, bound: float, cost: float, unsure: float) -> None:
        account = self.account
        account.under_way -= 1
        # With nothing under way the sum is zero again, whatever rounding has left of it.
        account.reserved = max(0.0, account.reserved - bound) if account.under_way else 0.0
        account.spent += cost
        account.unsure += unsure
        self.on_change()
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for(self, expert: str) -> None:
        while (pause := self._not_before[expert] - time.monotonic()) > 0:
            await asyncio.sleep(pause)


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


def _kept(answer: Answer) -> dict[str, Any]:
    found = {name: getattr(answer, name) for name in KEPT}
    return {name: value for name, value in found.items() if value is not None and value == value}


def _answer(kept: Mapping[str, Any]) -> Answer:
    logprobs = kept.get("logprobs")
    return Answer(**{**kept, "logprobs": None if logprobs is None else tuple(logprobs)})


def _finite(dollars: float) -> float:
    """An ask that nothing bounds reserves nothing; there is no budget then."""
    return dollars if math.isfinite(dollars) else 0.0


def _pause(tried: int, retry_after: float | None) -> float:
    if retry_after is not None:
        return retry_after + random.uniform(0.0, 0.1)
    return min(FIRST_PAUSE * 2.0 ** (tried - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _gone(ask: Ask) -> UpstreamError:
    return UpstreamError(ask.expert, "the ask was cancelled")
