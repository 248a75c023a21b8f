"""The gateway's side of the store: who may ask, what may be spent, and what is recorded.

While the store cannot be used, requests go on for `server.grace_seconds` by what was known: each
gateway may then spend its share of what budgets had left. After that, requests whose key has limits
are refused (503). A full disk stops the records, and no request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
from sqlalchemy.exc import SQLAlchemyError

from routewright.config import Config, ServerConfig
from routewright.gateway.budgets import DAY, HISTORY_DAYS, Hour, outlook
from routewright.gateway.errors import BadRequest
from routewright.records import accounts, decisions, keys, replicas, responses, scores, sessions
from routewright.records.accounts import (
    Admission,
    Begin,
    Grant,
    Keep,
    Refusal,
    Release,
    Reserve,
    Step,
    Verdict,
)
from routewright.records.keys import Key
from routewright.records.store import Store
from routewright.records.writer import State, StoreDown, Writer

VERDICT_SECONDS = 5.0  # that a request waits for a verdict before the store counts as down
BUSY_SECONDS = 10.0  # that a request waits for money that requests in progress hold
BUSY_PAUSE = 0.05
STEER_SECONDS = 60.0  # between two outlooks on budgets
KNOWN_SECONDS = 2.0  # between two readings of all balances
CLEANING_SECONDS = 3600.0

log = logging.getLogger(__name__)


class LimitReached(BadRequest):
    """A limit of the client's key was reached; another try may be answered after `retry_after`."""

    def __init__(self, refusal: Refusal, status: int = 429) -> None:
        super().__init__(refusal.message, status=status, code=refusal.code)
        if status < 500:
            self.kind = "insufficient_quota" if "budget" in refusal.code else "rate_limit_error"
        self.retry_after = refusal.retry_after
        self.headers = quota_headers(refusal)


def quota_headers(verdict: Admission | Refusal) -> dict[str, str]:
    """The `x-ratelimit-*` headers, as OpenAI names them."""
    headers = {}
    for name, quota in (("requests", verdict.requests), ("tokens", verdict.tokens)):
        if quota is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(quota.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(quota.remaining)
            headers[f"x-ratelimit-reset-{name}"] = f"{quota.reset:.1f}s"
    return headers


class Records:
    """Keys, budgets and decisions of one gateway; without a store everything is allowed.

    It lives as long as the gateway: a reload keeps it. Raises BadInput if the store cannot be used.
    """

    def __init__(self, config: Config | None = None) -> None:
        url = config.store_url if config else None
        self.store = Store(url, config.folder) if config and url else None
        self.replica = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.keys: dict[str, Key] = {}  # by id
        self.replicas = 1  # gateways on this store that live
        self.settings = config.server if config else ServerConfig()  # a reload replaces them
        self.writer: Writer | None = None
        # What is exchanged with the other gateways every second.
        self.exchanges: tuple[Callable[[], None], ...] = ()
        self.allowed: dict[str, float] = {}  # US$ per query, by account: see `allowance`
        self._steering: asyncio.Task[None] | None = None
        self._pruned_at = -math.inf
        self._version: float | None = None
        self._known: dict[tuple[str, str], float] = {}  # account, period ▶ US$ spent
        self._reserved: dict[str, float] = {}
        self._read_at = -math.inf
        self._cleaned_at = time.monotonic()
        self._share: defaultdict[str, float] = defaultdict(float)  # spent while the store is down
        self._grants: dict[str, tuple[Key, float]] = {}  # and reserved for asks
        if self.store is not None:
            self.store.prepare()
            with self.store.explained():
                self._recover()
                self._look(self.store)

    # --- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        if self.store is not None:
            loop = asyncio.get_running_loop()
            self.writer = Writer(self.store, self.replica, loop, self._look)
            self.writer.start()
            self._steering = asyncio.create_task(self._steer(self.store))

    async def _steer(self, store: Store) -> None:
        """Reckons every minute what a query may cost so that the budgets of months last, and
        deletes every hour what was kept for long enough."""
        while True:
            try:
                self.allowed = await asyncio.to_thread(self._outlooks, store)
                if time.monotonic() - self._pruned_at >= CLEANING_SECONDS:
                    await asyncio.to_thread(self._prune, store)
                    self._pruned_at = time.monotonic()
            except SQLAlchemyError:  # the writer says so
                self.allowed = {}
            except Exception:
                log.exception("budgets are not steered, and old records are kept")
            await asyncio.sleep(STEER_SECONDS)

    def _prune(self, store: Store) -> None:
        """Deletes the records whose retention is over."""
        now = time.time()
        decisions.prune_all(store, now - self.settings.records.retention_days * DAY)
        responses.prune_all(store, -math.inf, now)

    def _outlooks(self, store: Store) -> dict[str, float]:
        monthly = {
            account: budget.month
            for key in list(self.keys.values())
            for account, budget in key.budgets.items()
            if budget.month is not None
        }
        if not monthly:
            return {}
        now = time.time()
        with store.read() as connection:
            start = now - HISTORY_DAYS * DAY
            history = {kind: decisions.hours(connection, start, kind) for kind in keys.KINDS}
            spent = accounts.spent_by_account(connection, now)
        names = {key.account: key.name for key in list(self.keys.values())}
        ends, (_, month) = accounts.end_of("month", now), accounts.periods_of(now)
        return {
            account: outlook(
                limit,
                ends,
                now,
                spent.get((account, month), 0.0),
                [Hour(*hour) for hour in history[kind].get(names.get(account, name), [])],
            ).allowed
            for account, limit in monthly.items()
            for kind, _, name in (account.partition(":"),)
        }

    def allowance(self, key: Key | None) -> float:
        """US$ that a query of a key may cost on average, so that budgets of months last."""
        accounts_of = key.budgets if key else ()
        return min((self.allowed.get(name, math.inf) for name in accounts_of), default=math.inf)

    async def close(self) -> None:
        if self._steering is not None:
            self._steering.cancel()
        if self.writer is not None:
            await asyncio.to_thread(self.writer.close)
        if self.store is not None and self.state.is_up:  # else it may not reply
            await asyncio.to_thread(self._leave, self.store)

    def _leave(self, store: Store) -> None:
        try:
            with store.begin() as connection:
                replicas.forget(connection, self.replica)
        except Exception as error:
            log.warning("the store was left without a word (%s)", type(error).__name__)
        store.close()

    @property
    def state(self) -> State:
        return self.writer.state if self.writer is not None else State()

    def _recover(self) -> None:
        """Settles what gateways of this machine left behind that do not run any more."""
        assert self.store is not None
        now = time.time()
        with self.store.begin() as connection:
            dead = set(replicas.silent(connection, now))
            dead |= {name for name in replicas.names(connection) if _has_ended(name)}
            interrupted = replicas.recover(connection, sorted(dead), now)
            self.replicas = replicas.seen(connection, self.replica, now)
        if interrupted:
            log.warning("%d requests were interrupted when a gateway ended", interrupted)

    def _look(self, store: Store) -> None:
        """Reads what other gateways have changed, and says that this one lives. In the thread."""
        now = time.time()
        with store.begin() as connection:
            self.replicas = replicas.seen(connection, self.replica, now)
            if dead := replicas.silent(connection, now):
                replicas.recover(connection, dead, now)
            version = keys.version(connection)
            if version != self._version:
                self.keys, self._version = keys.load(connection), version
            if time.monotonic() - self._read_at >= KNOWN_SECONDS:
                self._known = accounts.spent_by_account(connection, now)
                self._reserved = accounts.reserved_by_account(connection)
                self._read_at = time.monotonic()
            if time.monotonic() - self._cleaned_at >= CLEANING_SECONDS:
                accounts.clean(connection, now)
                self._cleaned_at = time.monotonic()
        for exchange in self.exchanges:
            exchange()
        self._share.clear()

    # --- keys ---------------------------------------------------------------------------------

    @property
    def needs_key(self) -> bool:
        """Whether any key was ever created: then clients must send one."""
        return bool(self.keys)

    @property
    def has_admin(self) -> bool:
        return any(key.admin for key in self.keys.values())

    def find(self, token: str) -> Key | None:
        """The key of a token, valid or not."""
        return keys.find(token, self.keys, time.time())

    def read_keys(self) -> None:
        """Reads the keys again, because one of them was changed here. May block."""
        assert self.store is not None
        with self.store.read() as connection:
            self.keys, self._version = keys.load(connection), keys.version(connection)

    def score(self, decision: str, score: float, key: str | None) -> str | None:
        """Stores the score of a decision of the retention period; returns whose answer it is about.

        Raises BadRequest if the decision cannot be scored. May block.
        """
        assert self.store is not None
        name = f"decision '{decision[:100]}'"
        if not self.state.is_up:
            message = "the gateway's store cannot be used at the moment: send the score again later"
            raise BadRequest(message, status=503, code="store_unavailable")
        try:
            with self.store.begin() as connection:
                return scores.write(connection, decision, score, key, not self.needs_key)
        except scores.Unknown:
            message = f"{name} is unknown: send the id of the header x-routewright-decision-id"
            raise BadRequest(
                message, "decision_id", status=404, code="decision_not_found"
            ) from None
        except scores.Scored:
            message = f"{name} has been scored already"
            raise BadRequest(message, "decision_id", status=409, code="already_scored") from None
        except SQLAlchemyError as error:
            log.error("a score could not be written (%s)", type(error).__name__)
            message = "the score could not be written, the gateway's log says why: send it again"
            raise BadRequest(message, status=503, code="not_written") from error

    # --- conversations ------------------------------------------------------------------------

    async def sessions(self, ids: Sequence[str]) -> dict[str, dict[str, Any]] | None:
        """What the store knows of conversations; None if it cannot be read."""
        store = self.store
        if store is None or not self.state.is_up:
            return None

        def read() -> dict[str, dict[str, Any]]:
            with store.read() as connection:
                return sessions.read(connection, ids)

        try:
            async with asyncio.timeout(VERDICT_SECONDS):
                return await asyncio.to_thread(read)
        except (TimeoutError, SQLAlchemyError) as error:
            log.error("a session could not be read (%s)", type(error).__name__)
            return None

    def keep_session(self, name: str, state: dict[str, Any]) -> None:
        """Writes soon what is known of a conversation."""
        self.submit(Keep(name, state))

    # --- one request --------------------------------------------------------------------------

    async def begin(self, decision: str, key: Key | None, tokens: int) -> Admission:
        """Counts a request against the limits of its key; raises LimitReached."""
        if key is None or not key.is_limited:
            return Admission()
        verdict = await self._verdict(Begin(decision, key, tokens))
        if isinstance(verdict, Refusal):
            raise LimitReached(verdict)
        return verdict if isinstance(verdict, Admission) else Admission()

    async def reserve(self, step: Reserve) -> Grant:
        """Reserves the upper bound of an ask; waits a little for money that others hold.

        Raises LimitReached.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            verdict = await self._verdict(step)
            if verdict is None:
                verdict = self._local(step)
            if isinstance(verdict, Grant):
                return verdict
            assert isinstance(verdict, Refusal)
            if not verdict.busy or time.monotonic() >= deadline:
                raise LimitReached(verdict)
            await asyncio.sleep(BUSY_PAUSE)

    def submit(self, step: Step) -> None:
        """Writes a step soon, whatever becomes of the request."""
        if self.writer is not None:
            self.writer.submit(step)
            match step:
                case accounts.Charge(row, _, str(name)) if name in self._grants:
                    self._count(*self._grants.pop(name), row["usd"])
                case Release(name) if name in self._grants:
                    self._count(*self._grants.pop(name), 0.0)

    def safely(self, step: Step) -> asyncio.Future[Verdict] | None:
        """Writes a step soon; the future is done when it is safe. None while the store is down."""
        if self.writer is None:
            return None
        if not self.writer.state.is_up:
            self.writer.submit(step)
            return None
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_seen)
        self.writer.submit(step, future)
        return future

    async def settled(self) -> None:
        """Waits until everything that was submitted is written; not while the store is down."""
        future = self.safely(Release(""))
        if future is not None:
            await asyncio.wait({future}, timeout=VERDICT_SECONDS)

    async def _verdict(self, step: Begin | Reserve) -> Admission | Grant | Refusal | None:
        """The store's verdict; None while the store is down, within the time of grace."""
        if self.writer is None:
            return None
        if self.writer.state.is_up:
            future = asyncio.get_running_loop().create_future()
            self.writer.submit(step, future)
            try:
                async with asyncio.timeout(VERDICT_SECONDS):
                    verdict: Admission | Grant | Refusal | None = await future
                    return verdict
            except StoreDown:
                pass
            except (TimeoutError, asyncio.CancelledError) as end:
                # Nobody waits for the verdict any longer: what it may have granted is given back.
                name = step.id if isinstance(step, Reserve) else step.decision
                self.writer.submit(Release(name))
                if isinstance(end, asyncio.CancelledError):
                    raise
        state = self.writer.state
        since = state.down_since
        if (
            not state.full
            and since is not None
            and time.monotonic() - since > self.settings.grace_seconds
        ):
            message = "the gateway's store cannot be used, so it cannot check this key's limits"
            raise LimitReached(Refusal("store_unavailable", message, 5.0), status=503)
        return None

    def _local(self, step: Reserve) -> Grant | Refusal:
        """What this gateway may grant while the store is down: its share of what was left."""
        granted, key = step.bound, step.key
        for account, period, name, limit in accounts.budgets_of(key, time.time()):
            spent = self._known.get((account, period), 0.0) + self._reserved.get(account, 0.0)
            free = (limit - spent) / max(self.replicas, 1) - self._share[account]
            if free < step.least or free <= 0:
                spent, now = limit - free, time.time()
                return accounts.used_up(key, account, name, limit, spent, step.least, now)
            granted = min(granted, free)
        self._grants[step.id] = key, granted
        self._count(key, 0.0, granted)
        return Grant(granted)

    def _count(self, key: Key, before: float, now: float) -> None:
        """Counts money that is granted, and then spent, while the store is down."""
        for account in key.budgets:
            self._share[account] += now - before

    def accounts(self) -> Iterator[tuple[str, float]]:
        """Every account and the US$ that it has ever spent, as they were last read."""
        names = {key.account: f"key '{key.name}'" for key in list(self.keys.values())}
        for (account, period), usd in list(self._known.items()):
            if period == accounts.EVER:
                kind, _, name = account.partition(":")
                yield names.get(account, f"{kind} '{name}'"), usd

    def budgets(self) -> Iterator[tuple[str, str, float, float]]:
        """Name, period, limit and US$ spent of every budget, as they were last read."""
        now = time.time()
        said = set()
        for key in list(self.keys.values()):
            for account, period, name, limit in accounts.budgets_of(key, now):
                if (account, name) not in said:
                    said.add((account, name))
                    spent = self._known.get((account, period), 0.0)
                    yield accounts.name_of(key, account), name, limit, spent


def _seen(future: asyncio.Future[Verdict]) -> None:
    """Marks the exception of a future as read: asyncio warns of those that nothing awaits."""
    if not future.cancelled():
        future.exception()


def _has_ended(replica: str) -> bool:
    """Whether a gateway ran on this machine and its process has ended."""
    host, _, rest = replica.rpartition(":")[0].rpartition(":")
    return host == socket.gethostname() and not psutil.pid_exists(int(rest or 0))
