"""What one request may spend and has spent: every ask reserves its upper bound and is charged."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from routewright.drive import Asker, at_once
from routewright.errors import NotAdmissible, StreamBroken, UpstreamError
from routewright.experts import spending
from routewright.experts.client import Client
from routewright.gateway.records import VERDICT_SECONDS, LimitReached, Records, quota_headers
from routewright.records.accounts import Charge, End, Release, Reserve, Verdict
from routewright.records.keys import Key
from routewright.types import Answer, Ask, Delta, Query, changed

ROOM = 32_768  # tokens for which an answer without a limit reserves money
LONG = 20_000  # tokens of a query whose cost is reckoned in a thread
OPEN_SECONDS = 0.25  # that an answer without a key waits for its record
USEFUL = 1024  # tokens: a request waits for money that others hold rather than get fewer


class Spent(list[Answer]):
    """The answers of a request that were paid for. Each is charged as soon as it is added.

    `row` holds the columns of the table `asks` that are the same for all.
    """

    def __init__(self, records: Records, decision: str, key: Key | None, row: dict[str, Any]):
        super().__init__()
        self.records, self.decision, self.key, self.row = records, decision, key, row
        # The reservations of asks in progress, by expert and kind.
        self.reservations: defaultdict[tuple[str, str], deque[str]] = defaultdict(deque)

    def append(self, answer: Answer) -> None:
        self._charge(answer)
        super().append(answer)

    def extend(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.append(answer)

    def _charge(self, answer: Answer) -> None:
        waiting = self.reservations[answer.expert, answer.kind]
        reservation = waiting.popleft() if waiting else None
        cost = answer.cost if math.isfinite(answer.cost) else 0.0
        row = {
            "decision": self.decision,
            "position": len(self),
            "at": time.time(),
            **self.row,
            "expert": answer.expert,
            "kind": answer.kind,
            "status": answer.status,
            "usd": max(cost, 0.0),
            "estimated": answer.estimated,
            "input_tokens": answer.input_tokens,
            "cached_tokens": answer.cached_tokens,
            "output_tokens": answer.output_tokens,
            "seconds": answer.latency if math.isfinite(answer.latency) else None,
        }
        self.records.submit(Charge(row, self.key, reservation))

    def release(self) -> None:
        """Gives back what was reserved for asks that were never charged."""
        for waiting in self.reservations.values():
            while waiting:
                self.records.submit(Release(waiting.popleft()))


class Account:
    """What a request may spend and has spent, from its beginning to its end."""

    def __init__(self, records: Records, key: Key | None, query: Query) -> None:
        self.records, self.key = records, key
        self.decision = uuid.uuid4().hex
        self.tokens = query.input_tokens  # counted when it began
        self.payer = {
            "replica": records.replica,
            "key": key.name if key else None,
            "owner": key.owner if key else None,
            "team": key.team if key else None,
        }
        self.spent = Spent(records, self.decision, key, self.payer)
        self.headers: dict[str, str] = {}  # what is left of the limits of its key
        self._reserving: Reserving | None = None
        self._written: asyncio.Future[Verdict] | None = None

    async def begin(self) -> None:
        """Counts the request against the limits of its key; raises LimitReached."""
        admission = await self.records.begin(self.decision, self.key, self.tokens)
        self.headers = quota_headers(admission)

    def asker(self, asker: Asker, client: Client, policy: str) -> Asker:
        """Asks through another asker within the budgets of the key."""
        self.spent.row["policy"] = policy
        if self.key is None or not self.key.budgets:
            return asker
        self._reserving = Reserving(asker, client, self.spent, self.key)
        return self._reserving

    def explained(self, error: BaseException) -> BaseException:
        """The limit that was reached, if that is why no (other) expert could be asked."""
        if isinstance(error.__cause__, LimitReached):
            return error.__cause__
        refusal = self._reserving.refusal if self._reserving else None
        if refusal is None or isinstance(error, StreamBroken):
            return error
        return refusal if isinstance(error, NotAdmissible | UpstreamError) else error

    def end(self, row: dict[str, Any], more: Callable[[], dict[str, Any]]) -> None:
        """Writes the record of the request, and gives back what it had reserved."""
        self.spent.release()
        used = sum(answer.input_tokens + answer.output_tokens for answer in self.spent)
        row = {"id": self.decision, "at": time.time(), **self.payer, **row}
        self._written = self.records.safely(End(row, self.key, used - self.tokens, more))

    async def written(self) -> None:
        """Waits until the record of the request is safe; not while the store is down.

        Without a key, whose budget it must reach, it waits no longer than OPEN_SECONDS.
        """
        if self._written is not None:
            seconds = OPEN_SECONDS if self.key is None else VERDICT_SECONDS
            await asyncio.wait({self._written}, timeout=seconds)

    @property
    def is_recorded(self) -> bool:
        return self.records.store is not None


class Reserving:
    """An Asker that reserves the upper bound of every ask before it is sent.

    The ask may cost no more than was granted: its answer is cut to that. If nothing is left, it
    raises NotAdmissible, so that a strategy may go on with a cheaper expert; `refusal` tells why,
    until another ask is granted.
    """

    def __init__(self, asker: Asker, client: Client, spent: Spent, key: Key) -> None:
        self.asker, self.client, self.spent, self.key = asker, client, spent, key
        self.refusal: LimitReached | None = None
        self._sent: dict[int, tuple[Ask, Ask]] = {}  # asks as they were given, and as sent
        self._count = 0

    async def ask(self, ask: Ask, query: Query) -> Answer:
        sent = await self._reserved(ask, query)
        answer = await self.asker.ask(sent, query)
        self._sent.pop(id(ask), None)
        return answer

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        sent = await self._reserved(ask, query)
        async with aclosing(self.asker.stream(sent, query)) as pieces:
            async for piece in pieces:
                yield piece

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        _, sent = self._sent.pop(id(ask), (ask, ask))
        return self.asker.bill(sent, query, seconds)

    async def _reserved(self, ask: Ask, query: Query) -> Ask:
        self.refusal = None
        run = asyncio.to_thread if query.input_tokens > LONG else at_once
        bound, least, useful, is_open = await run(self._bounds, ask, query)
        if bound == 0.0:
            return ask
        self._count += 1
        name = f"{self.spent.decision}:{self._count}"
        try:
            step = Reserve(name, self.key, bound, least, min(useful, bound), is_open)
            grant = await self.spent.records.reserve(step)
        except LimitReached as refusal:
            self.refusal = refusal
            raise NotAdmissible(ask.expert, str(refusal)) from refusal
        self.spent.reservations[ask.expert, ask.kind].append(name)
        allowed = grant.usd if ask.max_cost is None else min(grant.usd, ask.max_cost)
        sent = changed(ask, max_cost=allowed)
        self._sent[id(ask)] = ask, sent
        return sent

    def _bounds(self, ask: Ask, query: Query) -> tuple[float, float, float, bool]:
        """The US$ that an ask may cost, that any answer costs, and that a short one costs; and
        whether nothing limits its tokens."""
        expert = self.client.experts[ask.expert]
        size = spending.input_bound(self.client.body(ask, query), self.client.native(ask, query))
        bound = self.client.bound(ask, query, size if ask.max_cost is None else None)
        is_open = math.isinf(bound)
        if is_open:
            bound = expert.highest_price(size, ROOM)
        if ask.max_cost is not None:
            bound = min(bound, ask.max_cost)
        samples = max(ask.samples, 1)
        least = expert.highest_price(size, 0) + expert.price(0, samples)
        return bound, min(least, bound), expert.highest_price(size, USEFUL * samples), is_open
