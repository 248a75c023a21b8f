"""What requests may spend, and what they have spent: one accounting path for all of them.

A request begins (its key's limits are counted), reserves the upper bound of each ask before it is
sent, is charged what the ask really cost, and ends. These steps are applied in batches, each in one
transaction, by the writer's thread. So limits hold over all gateways on one store.
"""

from __future__ import annotations

import datetime
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, select

from routewright.records import schema, sessions, statements
from routewright.records.keys import Key

EVER = ""  # the period of all time
PARTS = 8  # of what is left: an answer that nothing else limits may cost no more than one of them
COLUMNS = tuple(schema.decisions.columns)
ASK_DEFAULTS = {column.name: getattr(column.default, "arg", None) for column in schema.asks.columns}
DUST = 1e-12  # US$ by which sums of floats may differ


@dataclass(frozen=True)
class Begin:
    """A request of a key with limits."""

    decision: str
    key: Key
    tokens: int  # of its input, estimated


@dataclass(frozen=True)
class Reserve:
    """The upper bound of an ask that is about to be sent."""

    id: str
    key: Key
    bound: float  # US$, finite
    least: float  # US$ that any answer costs
    useful: float  # US$ below which it is better to wait for asks in progress
    is_open: bool = False  # whether only money limits the answer: then it gets a part of the rest


@dataclass(frozen=True)
class Charge:
    """An ask that has ended; `row` is that of the table `asks`."""

    row: dict[str, Any]
    key: Key | None = None
    reservation: str | None = None


@dataclass(frozen=True)
class End:
    """A request that has ended; `row` is that of the table `decisions`."""

    row: dict[str, Any]
    key: Key | None = None
    tokens: int = 0  # beyond those that were counted when it began
    more: Callable[[], dict[str, Any]] = dict  # further columns, which take time to make


@dataclass(frozen=True)
class Keep:
    """What is known of a conversation now."""

    id: str
    state: dict[str, Any]


@dataclass(frozen=True)
class Release:
    """An ask that was not sent, or a request that nobody answers."""

    id: str  # of the reservation or of the decision


Step = Begin | Reserve | Release | Charge | Keep | End


@dataclass(frozen=True)
class Quota:
    """What is left of a key's limits."""

    limit: int
    remaining: int
    reset: float  # seconds until more is available


@dataclass(frozen=True)
class Admission:
    """A request may go on."""

    requests: Quota | None = None
    tokens: Quota | None = None


@dataclass(frozen=True)
class Grant:
    """An ask may cost so many US$."""

    usd: float


@dataclass(frozen=True)
class Refusal:
    """A limit that was reached. If `busy`, requests in progress may soon free enough."""

    code: str
    message: str
    retry_after: float  # seconds
    busy: bool = False
    requests: Quota | None = None
    tokens: Quota | None = None


Verdict = Admission | Grant | Refusal | None


def apply(
    connection: Connection,
    steps: Sequence[Step],
    replica: str,
    now: float,
    again: bool = False,
) -> list[Verdict]:
    """Applies steps in order; returns a verdict for each that asks for one.

    `again` says that some steps may have been applied before, because a transaction ended without
    a reply: then asks that are stored already are not charged twice.
    """
    ledger = Ledger(connection, steps, replica, now, again)
    verdicts = [ledger.apply(step) for step in steps]
    ledger.write()
    return verdicts


@dataclass
class Use:
    """The requests and tokens of an account in this minute and in the one before."""

    now: list[float] = field(default_factory=lambda: [0.0, 0.0])
    before: list[float] = field(default_factory=lambda: [0.0, 0.0])
    added: list[int] = field(default_factory=lambda: [0, 0])


class Ledger:
    """The accounts that a batch of steps concerns, as they are stored, and the changes to them."""

    def __init__(
        self,
        connection: Connection,
        steps: Sequence[Step],
        replica: str,
        now: float,
        again: bool,
    ) -> None:
        self.connection, self.replica, self.now = connection, replica, now
        self.minute = int(now // 60)
        limited = {step.key.id: step.key for step in steps if isinstance(step, Begin | Reserve)}
        self._lock(limited.values())
        begun = [step.key for step in steps if isinstance(step, Begin)]
        budgeted = {n for step in steps if isinstance(step, Reserve) for n in step.key.budgets}
        self.spent = self._spent(budgeted)
        self.reserved = self._reserved(budgeted)
        self.use = self._use({key.account for key in begun if key.is_limited})
        self.running = self._running({k.account for k in begun if k.concurrency is not None})
        self.open: dict[str, tuple[tuple[str, ...], float]] = {}  # reservations of this batch
        self.closed: set[str] = set()  # reservations of earlier ones
        self.begun: dict[str, str] = {}
        self.ended: set[str] = set()
        self.asks: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.balances: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.stored = self._stored(steps) if again else set()

    # --- reading ------------------------------------------------------------------------------

    def _lock(self, keys: Iterable[Key]) -> None:
        """Keeps other gateways away from these accounts."""
        names = {name for key in keys for name in (*key.budgets, key.account)}
        for name in sorted(names):
            statements.lock(self.connection, name)

    def _spent(self, accounts: set[str]) -> defaultdict[tuple[str, str], float]:
        spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        if accounts:
            names = {"accounts": list(accounts), "periods": periods_of(self.now)}
            rows = self.connection.execute(statements.SPENT, names)
            spent.update(((account, period), usd) for account, period, usd in rows)
        return spent

    def _reserved(self, accounts: set[str]) -> defaultdict[str, float]:
        reserved: defaultdict[str, float] = defaultdict(float)
        if accounts:
            names = {"accounts": list(accounts)}
            reserved.update(iter(self.connection.execute(statements.RESERVED, names)))  # type: ignore[arg-type]
        return reserved

    def _use(self, accounts: set[str]) -> defaultdict[str, Use]:
        use: defaultdict[str, Use] = defaultdict(Use)
        if accounts:
            names = {"accounts": list(accounts), "minutes": (self.minute, self.minute - 1)}
            for row in self.connection.execute(statements.USED, names):
                values = [float(row.requests), float(row.tokens)]
                if row.minute == self.minute:
                    use[row.account].now = values
                else:
                    use[row.account].before = values
        return use

    def _running(self, accounts: set[str]) -> defaultdict[str, int]:
        running: defaultdict[str, int] = defaultdict(int)
        if accounts:
            names = {"accounts": list(accounts)}
            running.update(iter(self.connection.execute(statements.RUNNING, names)))  # type: ignore[arg-type]
        return running

    def _stored(self, steps: Sequence[Step]) -> set[tuple[str, int]]:
        charges = [step.row for step in steps if isinstance(step, Charge)]
        places = [(row["decision"], row["position"]) for row in charges]
        if not places:
            return set()
        rows = self.connection.execute(statements.STORED, {"ids": places})
        return {(row.decision, row.position) for row in rows}

    # --- steps --------------------------------------------------------------------------------

    def apply(self, step: Step) -> Verdict:
        match step:
            case Begin():
                return self._begin(step)
            case Reserve():
                return self._reserve(step)
            case Release():
                self._release(step.id)
                self._leave(step.id)
            case Charge():
                self._charge(step)
            case Keep():
                self.sessions[step.id] = step.state
            case End():
                self._end(step)
        return None

    def _begin(self, step: Begin) -> Admission | Refusal:
        key, use = step.key, self.use[step.key.account]
        requests = self._quota(use, 0, key.rpm, 1)
        tokens = self._quota(use, 1, key.tpm, step.tokens)
        refused = self._refused(step, requests, tokens)
        if refused is not None:
            return refused
        for i, amount in enumerate((1, step.tokens)):
            use.now[i] += amount
            use.added[i] += amount
        if key.concurrency is not None:
            self.running[key.account] += 1
            self.begun[step.decision] = key.account
        return Admission(_less(requests, 1), _less(tokens, step.tokens))

    def _refused(self, step: Begin, requests: Quota | None, tokens: Quota | None) -> Refusal | None:
        key = step.key
        if key.concurrency is not None and self.running[key.account] >= key.concurrency:
            message = (
                f"{key.concurrency} requests of the key '{key.name}' are being answered, its limit"
                " of `concurrency`: send this one when one of them has ended"
            )
            return Refusal("concurrency_reached", message, 1.0, False, requests, tokens)
        for name, quota, needed in (("rpm", requests, 1), ("tpm", tokens, step.tokens)):
            if quota is not None and quota.remaining < min(needed, quota.limit):
                unit = "requests" if name == "rpm" else "tokens"
                message = (
                    f"the key '{key.name}' has reached its limit of {quota.limit} {unit} per"
                    f" minute ({name}): send this request again in {math.ceil(quota.reset)} s"
                )
                return Refusal(f"{name}_reached", message, quota.reset, False, requests, tokens)
        return None

    def _quota(self, use: Use, i: int, limit: int | None, needed: int) -> Quota | None:
        """What is left of a limit per minute, by a window that slides over two minutes."""
        if limit is None:
            return None
        part = self.now / 60 - self.minute  # of this minute that is over
        used = use.before[i] * (1 - part) + use.now[i]
        remaining = max(0, math.floor(limit - used + 1e-9))
        missing = min(needed, limit) - (limit - used)
        to_next = 60 * (1 - part)
        if missing <= 0:
            reset = 0.0
        elif use.before[i] and missing <= use.before[i] * (1 - part):
            reset = 60 * missing / use.before[i]
        else:  # what this minute used slides out in the next one
            missing -= use.before[i] * (1 - part)
            reset = to_next + 60 * min(1.0, missing / max(use.now[i], 1.0))
        return Quota(limit, remaining, max(reset, 0.0 if missing <= 0 else 0.1))

    def _reserve(self, step: Reserve) -> Grant | Refusal:
        granted = step.bound
        busy = None
        for account, period, name, limit in budgets_of(step.key, self.now):
            spent = self.spent[account, period]
            if limit - spent + DUST < step.least or limit <= spent:
                return used_up(step.key, account, name, limit, spent, step.least, self.now)
            free = limit - spent - self.reserved[account]
            if free + DUST < (step.useful if self.reserved[account] > DUST else step.least):
                busy = _busy(step.key, account, name, limit)
            part = max(free / PARTS, step.useful) if step.is_open else free
            granted = min(granted, free, part)
        if busy is not None:
            return busy
        accounts = tuple(step.key.budgets)
        self.open[step.id] = accounts, granted
        for account in accounts:
            self.reserved[account] += granted
        return Grant(granted)

    def _charge(self, step: Charge) -> None:
        row, key = step.row, step.key
        if step.reservation is not None:
            self._release(step.reservation)
        if (row["decision"], row["position"]) in self.stored:
            return
        self.asks.append({**ASK_DEFAULTS, **row})
        for account in key.accounts if key else ():
            for period in (*periods_of(row["at"]), EVER):
                self.balances[account, period][0] += row["usd"]
                self.spent[account, period] += row["usd"]

    def _release(self, reservation: str) -> None:
        accounts, usd = self.open.pop(reservation, ((), 0.0))
        for account in accounts:
            self.reserved[account] -= usd
        if not accounts:
            self.closed.add(reservation)

    def _leave(self, decision: str, account: str | None = None) -> None:
        """Ends a request that counts as in progress of an account, if it does."""
        begun = self.begun.pop(decision, None)
        if begun is None:
            self.ended.add(decision)
        if account := begun or account:
            self.running[account] -= 1

    def _end(self, step: End) -> None:
        key, row = step.key, step.row
        row = {**row, **step.more()}
        self.decisions.append({column.name: row.get(column.name) for column in COLUMNS})
        if key is None:
            return
        for account in key.accounts:
            for period in (*periods_of(row["at"]), EVER):
                self.balances[account, period][1] += 1
        if key.is_limited:
            use = self.use[key.account]
            use.now[1] += step.tokens
            use.added[1] += step.tokens
        if key.concurrency is not None:
            self._leave(row["id"], key.account)

    # --- writing ------------------------------------------------------------------------------

    def write(self) -> None:
        """Writes the changes."""
        connection = self.connection
        statements.add(connection, schema.asks, self.asks)
        statements.replace(connection, schema.decisions, self.decisions)
        sessions = [
            {"id": name, "at": self.now, "state": state}
            for name, state in sorted(self.sessions.items())
        ]
        statements.replace(connection, schema.sessions, sessions)
        balances = [
            {"account": account, "period": period, "usd": usd, "requests": int(count)}
            for (account, period), (usd, count) in sorted(self.balances.items())
        ]
        statements.increase(connection, schema.balances, balances, ("usd", "requests"))
        minutes = [
            {"account": name, "minute": self.minute, "requests": count, "tokens": tokens}
            for name, (count, tokens) in sorted((n, use.added) for n, use in self.use.items())
            if count or tokens
        ]
        statements.increase(connection, schema.minutes, minutes, ("requests", "tokens"))
        for statement, ids in ((statements.RELEASE, self.closed), (statements.LEAVE, self.ended)):
            for some in _portions(sorted(ids)):
                connection.execute(statement, {"ids": some})
        replica = {"replica": self.replica}
        reservations = [
            {"id": name, "account": account, **replica, "usd": usd}
            for name, (accounts, usd) in self.open.items()
            for account in accounts
        ]
        statements.add(connection, schema.reservations, reservations)
        running = [{"id": d, "account": a, **replica} for d, a in self.begun.items()]
        statements.add(connection, schema.running, running)


def clean(connection: Connection, now: float) -> None:
    """Deletes the counts of minutes that are long over, and conversations that have ended."""
    table = schema.minutes
    connection.execute(delete(table).where(table.c.minute < int(now // 60) - 5))
    sessions.clean(connection, now)


def spent_by_account(connection: Connection, now: float) -> dict[tuple[str, str], float]:
    """US$ that every account has spent in this day, in this month and ever (EVER).

    What is not sure counts in the periods of budgets, and not in what was ever spent.
    """
    table, periods = schema.balances, (*periods_of(now), EVER)
    rows = connection.execute(select(table).where(table.c.period.in_(periods)))
    return {
        (row.account, row.period): row.usd + (row.unsure_usd if row.period != EVER else 0.0)
        for row in rows
    }


def balances(connection: Connection, now: float) -> dict[str, dict[str, float]]:
    """For each account: US$ spent ever, in this `day` and `month`, US$ `unsure`, and requests."""
    table = schema.balances
    day, month = periods_of(now)
    names = {EVER: "ever", day: "day", month: "month"}
    spent: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for row in connection.execute(select(table).where(table.c.period.in_(names))):
        spent[row.account][names[row.period]] = row.usd
        if row.period == EVER:
            spent[row.account] |= {"unsure": row.unsure_usd, "requests": row.requests}
    return dict(spent)


def reserved_by_account(connection: Connection) -> dict[str, float]:
    """US$ that asks in progress may cost, by account."""
    table = schema.reservations
    query = select(table.c.account, func.sum(table.c.usd)).group_by(table.c.account)
    return {row[0]: row[1] for row in connection.execute(query)}


def budgets_of(key: Key, now: float) -> Iterator[tuple[str, str, str, float]]:
    """Account, period, its name and its limit in US$, for each budget that concerns a key."""
    day, month = periods_of(now)
    for account, budget in key.budgets.items():
        if budget.day is not None:
            yield account, day, "day", budget.day
        if budget.month is not None:
            yield account, month, "month", budget.month


def periods_of(at: float) -> tuple[str, str]:
    """The day and the month (UTC) of a time.

    >>> periods_of(0.0)
    ('1970-01-01', '1970-01')
    """
    day = datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()
    return day, day[:7]


def end_of(period: str, now: float) -> float:
    """The time at which this `day` or `month` (UTC) ends.

    >>> end_of("day", 0.0), end_of("month", 0.0)
    (86400.0, 2678400.0)
    """
    today = datetime.datetime.fromtimestamp(now, datetime.UTC)
    start = today.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (start + datetime.timedelta(days=1)).timestamp()
    return (start.replace(day=1) + datetime.timedelta(days=32)).replace(day=1).timestamp()


def name_of(key: Key, account: str) -> str:
    """What messages call an account: `key 'web'`, `team 'search'`."""
    kind, _, name = account.partition(":")
    return f"{kind} '{key.name if kind == 'key' else name}'"


def used_up(
    key: Key, account: str, period: str, limit: float, spent: float, least: float, now: float
) -> Refusal:
    """The refusal of an ask that costs at least `least` US$, more than what is left of a budget."""
    end = end_of(period, now)
    begins = datetime.datetime.fromtimestamp(end, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    left = max(limit - spent, 0.0)
    message = (
        f"the budget of the {name_of(key, account)}, ${limit:g} per {period}, is used up:"
        f" ${left:.3g} are left, and an answer costs ${least:.3g} at least; it begins anew at"
        f" {begins}"
    )
    return Refusal("budget_used_up", message, max(end - now, 1.0))


def _busy(key: Key, account: str, period: str, limit: float) -> Refusal:
    message = (
        f"what is left of the budget of the {name_of(key, account)}, ${limit:g} per {period}, is"
        " reserved for requests in progress: send this one again when they have ended"
    )
    return Refusal("budget_reserved", message, 1.0, busy=True)


def _less(quota: Quota | None, used: int) -> Quota | None:
    if quota is None:
        return None
    return Quota(quota.limit, max(0, quota.remaining - used), quota.reset)


def _portions(names: list[str], size: int = 500) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
